"""Which pair people are asked about next, where they label what a policy learns from: the one that the preference v,
fitted to their votes so far, is least sure of. v is linear in frozen features of a model, which are read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from ..console import say
from ..data import Ballot, Vote, tokenize
from ..evidence import Floats, Indices, VoteTable
from ..model import open_workbench, pooled_features
from ..preference import candidate_layers, least_sure
from ..training import describe_counts
from .folders import find_policy
from .limits import check_precision

PASS_TOKENS = 1024  # of a forward pass
Place = tuple[int, int, int]  # a ballot, and two of its responses


@dataclass(frozen=True)
class Chooser:
    """Features of the responses of some ballots, `[B, D]`, and where each ballot's begin; some may have none."""

    features: Floats
    first: Mapping[int, int]

    def __call__(self, votes: Sequence[tuple[Place, float]], places: Sequence[Place], count: int) -> list[Place]:
        """So many of the places, the one to be asked about first first, from votes: a place, and p for its first."""
        known = [(place, p) for place, p in votes if place[0] in self.first]
        asked = [place for place in places if place[0] in self.first]
        if not known or not asked:
            return []
        table = VoteTable(
            difference=np.zeros(len(known)),
            p=np.array([p for _, p in known]),
            weight=np.ones(len(known)),
            prompt=tuple((place[0],) for place, _ in known),
        )
        order = least_sure(self.rows([place for place, _ in known]), table, self.rows(asked), count)
        return [asked[k] for k in order]

    def rows(self, places: Sequence[Place]) -> Floats:
        """The difference of the features of both responses, `[V, D]`."""
        a, b = (self._at([(number, both[k]) for number, *both in places]) for k in (0, 1))
        return self.features[a].astype(np.float64) - self.features[b]

    def _at(self, responses: Sequence[tuple[int, int]]) -> Indices:
        return np.array([self.first[number] + k for number, k in responses], dtype=np.intp)


def open_chooser(
    ballots: Sequence[Ballot],
    model: str,
    *,
    max_length: int = 1024,
    precision: str = "fp32",
    device: str = "auto",
) -> Chooser:
    """The chooser of these ballots by the features of a model, or of a trained policy; they are read or computed here.

    Raises UserError for a model that cannot be loaded, or whose layers cannot be found.
    """
    check_precision(precision)
    trained = (Path(model) / "run.json").is_file()
    folder = str(find_policy(model).path) if trained else model
    bench = open_workbench(folder, precision=precision, device=device)
    blank = [replace(ballot, id=str(k), votes=_all_pairs(ballot), annotations=()) for k, ballot in enumerate(ballots)]
    tokens = tokenize(blank, bench.base.form, max_length=max_length)
    depth, layers = candidate_layers(bench)
    layer = layers[len(layers) // 2]
    features_BD = pooled_features(bench, tokens.ballots, [layer], PASS_TOKENS)[0]
    starts = np.cumsum([0, *(len(ballot.responses) for ballot in tokens.ballots)])
    say(f"features: layer {layer} of {depth}; never chosen, but asked at random: {describe_counts(tokens.skipped)}")
    return Chooser(features_BD, {int(ballot.id): int(at) for ballot, at in zip(tokens.ballots, starts, strict=False)})


def _all_pairs(ballot: Ballot) -> tuple[Vote, ...]:
    return tuple(Vote(a, b, 0.5) for a, b in combinations(range(len(ballot.responses)), 2))
