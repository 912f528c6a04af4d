"""One value for every response of some ballots, in micro-batches that depend on what is asked and not on its order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..console import track
from ..data import BranchBatch, TokenBallot
from ..model import Layout

TOO_LONG = "too long for the judge"


@torch.no_grad()
def values_of(
    ballots: Iterable[TokenBallot],
    value: Callable[[BranchBatch], Tensor],
    *,
    layout: Layout,
    device: torch.device,
    micro_tokens: int,
    what: str,
) -> dict[TokenBallot, list[float]]:
    """`value` of every response of each ballot; `what` they are is shown while they are computed.

    What occurs twice is computed once. The same set of ballots makes the same micro-batches, so that the order in which
    contests are asked, and the order within them, change nothing, to the last bit; another set may round otherwise.
    """
    distinct = sorted(set(ballots), key=lambda ballot: (ballot.prompt, ballot.responses))
    found: dict[TokenBallot, list[float]] = {}
    groups = layout.groups(distinct, micro_tokens)
    for group in track(groups, what) if groups else ():
        batch = layout.lay_out([distinct[i] for i in group]).to(device)
        values = iter(value(batch).tolist())
        found |= {distinct[i]: [next(values) for _ in distinct[i].responses] for i in group}
    return found


def fits(ballot: TokenBallot, limit: int | None) -> bool:
    """Whether the prompt and each response are within so many tokens."""
    return limit is None or len(ballot.prompt) + max(map(len, ballot.responses)) <= limit


def least(*limits: int | None) -> int | None:
    """The smallest limit that there is."""
    return min((limit for limit in limits if limit), default=None)


def digest(*ids: Sequence[int]) -> str:
    """A hash of token ids: what a tokenizer and a chat template make of a text."""
    return hashlib.sha256(json.dumps([list(part) for part in ids]).encode()).hexdigest()[:12]
