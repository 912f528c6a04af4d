"""A loss per vote on the log-ratios of its two responses, and what is reported beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..data import sent, vote_offsets
from ..objectives import smooth, unbias
from .method import Scored, Terms, reported
from .voting import VoteOptions

P = TypeVar("P", float, Tensor)


def pairwise_terms(
    scored: Scored, beta: float, reduction: str, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Terms:
    """The weighted sum of `loss_of(log-ratio of a, log-ratio of b, p)` over all votes, `[V]` each, and the report.

    `reference_loss` in it is what the reference itself would have: a policy that learns from its votes stays below.
    """
    log_ratio_B = scored.logprob_B - scored.reference_B
    if reduction == "mean":
        log_ratio_B = log_ratio_B / scored.length_B
    a, b, p, weight = _votes(scored)
    loss = loss_of(log_ratio_B[a], log_ratio_B[b], p)
    with torch.no_grad():
        sums = _report(log_ratio_B, scored.length_B, a, b, p, beta)
        zero = torch.zeros_like(p)
        sums |= {"reference_loss": loss_of(zero, zero, p)}
        totals = {name: reported((weight * value).sum()) for name, value in sums.items()}
    return Terms((weight * loss).sum(), totals | {"weight": reported(weight.sum())})


def vote_loss(objective: Callable[..., Tensor], scored: Scored, beta: float, options: VoteOptions) -> Terms:
    """`objective` on every vote, its preference smoothed or freed of flips as the options say."""

    def loss(log_ratio_a: Tensor, log_ratio_b: Tensor, p: Tensor) -> Tensor:
        return objective(log_ratio_a, log_ratio_b, beta=beta, preference=target_of(p, options))

    return pairwise_terms(scored, beta, options.reduction, loss)


def target_of(p: P, options: VoteOptions) -> P:
    """The preference that a loss is told in the place of p."""
    return unbias(smooth(p, options.label_smoothing), options.flip_rate)


def _votes(scored: Scored) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(a, b, p, weight) of all votes; a and b index the responses of the whole micro-batch."""
    offsets = vote_offsets(scored.ballots)
    rows = [
        (start + vote.a, start + vote.b, vote.p, vote.weight)
        for start, ballot in zip(offsets, scored.ballots, strict=True)
        for vote in ballot.votes
    ]
    a, b, p, weight = zip(*rows, strict=True)
    like = scored.logprob_B
    device = like.device
    return (
        sent(torch.tensor(a), device),
        sent(torch.tensor(b), device),
        sent(torch.tensor(p, dtype=like.dtype), device),
        sent(torch.tensor(weight, dtype=like.dtype), device),
    )


def vote_indices(scored: Scored) -> tuple[Tensor, Tensor]:
    """(a, b) of all votes, among the responses of the whole micro-batch."""
    return _votes(scored)[:2]


def _report(log_ratio_B: Tensor, length_B: Tensor, a: Tensor, b: Tensor, p: Tensor, beta: float) -> dict[str, Tensor]:
    """Per vote: margin and log-ratios from the preferred side (a tie: the mean of both), agreement (ties one half)."""
    prefers_a = torch.where(p > 0.5, 1.0, torch.where(p < 0.5, 0.0, 0.5))
    difference = log_ratio_B[a] - log_ratio_B[b]
    says_a = torch.where(difference > 0, 1.0, torch.where(difference < 0, 0.0, 0.5))

    def preferred(values_B: Tensor) -> Tensor:
        return prefers_a * values_B[a] + (1 - prefers_a) * values_B[b]

    def other(values_B: Tensor) -> Tensor:
        return (1 - prefers_a) * values_B[a] + prefers_a * values_B[b]

    return {
        "margin": beta * (preferred(log_ratio_B) - other(log_ratio_B)),
        "log_ratio_preferred": preferred(log_ratio_B),
        "log_ratio_other": other(log_ratio_B),
        "accuracy": p * says_a + (1 - p) * (1 - says_a),
        "length_preferred": preferred(length_B),
        "length_other": other(length_B),
    }
