"""Held-out votes as a policy sees them, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..console import track
from ..data import TokenBallot, reference_table
from ..evidence import VoteTable, accuracy, log_loss
from ..model import Layout, Policy, Workbench, fill_store, ranks, response_keys, response_logprobs
from .arms import Recipe


def vote_table(
    model: Any,
    ballots: Sequence[TokenBallot],
    reference: Mapping[bytes, float],
    *,
    layout: Layout,
    precision: str,
    micro_tokens: int,
    reduction: str = "sum",
) -> VoteTable:
    """The policy's log-ratio differences on every vote of the ballots; `reference` holds log π_ref by response key."""
    ratios = log_ratios(
        model,
        ballots,
        reference,
        layout=layout,
        precision=precision,
        micro_tokens=micro_tokens,
        reduction=reduction,
    )
    return table_of(ballots, ratios)


def table_of(ballots: Sequence[TokenBallot], ratios: Sequence[Sequence[float]]) -> VoteTable:
    """The differences of log-ratios on every vote of the ballots, from those of every response."""
    differences = [
        own[vote.a] - own[vote.b] for own, ballot in zip(ratios, ballots, strict=True) for vote in ballot.votes
    ]
    return replace(reference_table(ballots), difference=np.array(differences))


@torch.no_grad()
def log_ratios(
    model: Any,
    ballots: Sequence[TokenBallot],
    reference: Mapping[bytes, float],
    *,
    layout: Layout,
    precision: str,
    micro_tokens: int,
    reduction: str = "sum",
) -> list[list[float]]:
    """log π(y|x) − log π_ref(y|x) of every response of every ballot, in nats, by `reduction` over its tokens."""
    device = next(model.parameters()).device
    ratios: dict[int, list[float]] = {}

    def ratios_of(group: Sequence[int]) -> list[float]:
        batch = layout.lay_out([ballots[i] for i in group]).to(device)
        logprobs = response_logprobs(model, batch, precision=precision).tolist()
        lengths = batch.lengths_B().tolist() if reduction == "mean" else [1] * len(logprobs)
        known = [reference[key] for i in group for key in response_keys(ballots[i])]
        return [(lp - ref) / n for lp, ref, n in zip(logprobs, known, lengths, strict=True)]

    groups = layout.groups(ballots, micro_tokens)
    results = ranks().shared(model, groups, ratios_of)
    for group in track(groups, "held-out ballots"):
        values = iter(next(results))
        ratios |= {i: [next(values) for _ in ballots[i].responses] for i in group}
    return [ratios[i] for i in range(len(ballots))]


def measure_held_out(
    policy: Policy, bench: Workbench, ballots: Sequence[TokenBallot], recipe: Recipe
) -> dict[str, dict[str, float | None]]:
    """Accuracy and log-loss on held-out votes, each with its standard error; nothing if there are none."""
    if not ballots:
        return {}
    table = vote_table(
        policy.model,
        ballots,
        held_out_reference(bench, ballots, recipe.settings.pass_tokens),
        layout=bench.layout,
        precision=bench.precision,
        micro_tokens=recipe.settings.pass_tokens,
        reduction=recipe.reduction,
    )
    estimates = {"accuracy": accuracy(table), "log_loss": log_loss(table)}
    return {name: {"value": e.value, "se": e.se} for name, e in estimates.items() if e is not None}


def held_out_reference(bench: Workbench, ballots: Sequence[TokenBallot], micro_tokens: int) -> dict[bytes, float]:
    """Reference log-probs of held-out ballots, in the micro-batches in which policies are evaluated on them."""
    groups = [[ballots[i] for i in group] for group in bench.layout.groups(ballots, micro_tokens)]
    return fill_store(bench.store, bench.reference, groups, layout=bench.layout, precision=bench.precision).logprobs
