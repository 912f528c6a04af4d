"""The votes of tokenised ballots as one table: whose they are, and what scores make of them. Shapes: V votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from ..evidence import Floats, Indices, VoteTable
from .tokens import TokenBallot

if TYPE_CHECKING:
    from .branches import Branches


def vote_offsets(ballots: Sequence[Branches]) -> list[int]:
    """Index of each ballot's first response among all responses of a batch."""
    return [0, *accumulate(len(ballot.responses) for ballot in ballots)][:-1]


def vote_pairs(ballots: Sequence[TokenBallot]) -> Indices:
    """(a, b) of every vote as indices into all responses of the ballots, `[V, 2]`."""
    offsets = vote_offsets(ballots)
    pairs = [(i + v.a, i + v.b) for i, ballot in zip(offsets, ballots, strict=True) for v in ballot.votes]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def reference_table(ballots: Sequence[TokenBallot]) -> VoteTable:
    """The votes as the reference sees them: its log-ratios are 0 by definition, not up to rounding."""
    votes = [(vote, ballot.prompt) for ballot in ballots for vote in ballot.votes]
    return VoteTable(
        difference=np.zeros(len(votes)),
        p=np.array([vote.p for vote, _ in votes]),
        weight=np.array([vote.weight for vote, _ in votes]),
        prompt=tuple(prompt for _, prompt in votes),
    )


def score_table(scores: Floats, ballots: Sequence[TokenBallot]) -> VoteTable:
    """The votes with their score differences; `scores` has one entry per response, in order."""
    a, b = vote_pairs(ballots).T
    return replace(reference_table(ballots), difference=scores[a] - scores[b])
