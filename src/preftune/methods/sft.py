"""Supervised fine-tuning on the responses that votes prefer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..data import TokenBallot
from .method import Method, NoOptions, Scored, Terms, reported

TIE = "vote: a tie (sft trains on a preferred response)"


def _weights(ballot: TokenBallot) -> list[float]:
    """How much each response counts: a vote gives weight·p to its preferred side, and nothing when it is a tie."""
    weights = [0.0] * len(ballot.responses)
    for vote in ballot.votes:
        side = vote if vote.p > 0.5 else vote.swap()
        if side.p > 0.5:
            weights[side.a] += side.weight * side.p
    return weights


def _prepare(ballot: TokenBallot, left_out: Counter[str]) -> TokenBallot | None:
    """Only the responses that some vote prefers, with their weights in the place of the votes."""
    if ties := sum(vote.p == 0.5 for vote in ballot.votes):
        left_out[TIE] += ties
    kept = [(ids, w) for ids, w in zip(ballot.responses, _weights(ballot), strict=True) if w > 0]
    if not kept:
        return None
    responses, weights = zip(*kept, strict=True)
    return replace(ballot, responses=responses, votes=(), weights=weights)


def _mass(ballot: TokenBallot) -> float:
    """Weighted response tokens."""
    return sum(w * len(ids) for w, ids in zip(ballot.weights, ballot.responses, strict=True))


def _loss(scored: Scored, beta: float, options: NoOptions) -> Terms:
    import torch

    from ..data import sent
    from ..objectives import sft

    weight = sent(torch.tensor([w for ballot in scored.ballots for w in ballot.weights]), scored.logprob_B.device)
    loss = sft(scored.logprob_B, weight=weight).sum()
    sums = {"length_preferred": (weight * scored.length_B).sum(), "weight": weight.sum()}
    return Terms(loss, {name: reported(value) for name, value in sums.items()})


SFT = Method("sft", "fine-tuning on the preferred responses", NoOptions, _prepare, _mass, _loss, uses_reference=False)
