"""How the votes stand, for the organiser alone: counts, agreement, comparisons, and people who may only press buttons.

A comparison takes one vote a prompt, the first, so that its interval holds however often somebody looks at it.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, groupby
from typing import Any

import numpy as np

from ..checking import agreement_on
from ..evidence import Question, clustered_mean, question_of
from .exports import win_of, winner_of
from .pairs import BOTH_BAD, TIE, Pair
from .store import VOTE, Said, Store

LEVEL = 0.05
FEW, ASKED = 10, 4  # votes of a person, and repetitions, before anything is said of them
COLUMN = {"a": 0, "b": 1}  # of neither: 2
FAST, STREAK, ONE_SIDED = 1.5, 12, 0.001  # seconds; votes alike in a row; a chance


@dataclass(frozen=True)
class Person:
    """What is seen of a person: `left` is the share of decided votes for the left side, `streak` the most votes in a
    row with one button, `agrees` how often others say the same of a pair, `steady` how often the person does when asked
    again, of so many `repeats`."""

    name: str
    votes: int
    skips: int
    seconds: float | None
    left: float | None
    streak: int
    agrees: float | None
    steady: float | None
    repeats: int
    flags: tuple[str, ...]
    left_out: bool


def questions(votes: Sequence[Said], pairs: Mapping[str, Pair], names: Mapping[str, str]) -> list[Question]:
    """Every comparison that is asked about, in the order of `names`; its part of the level is one of so many."""
    first: dict[str, dict[str, float]] = {question: {} for question in names}
    for said in votes:
        pair = pairs[said.pair]
        if pair.question in first:
            first[pair.question].setdefault(pair.group, win_of(said, pair))
    return [question_of(names[name], list(x.values()), LEVEL / len(names)) for name, x in first.items()]


def agreement_told(votes: Sequence[Said], pairs: Mapping[str, Pair]) -> str:
    """How far people agree on pairs that several voted on, in words; "" where that is not known."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for said in votes:
        counts[said.pair][COLUMN.get(winner_of(said, pairs[said.pair]), 2)] += 1
    found = agreement_on(np.array([*counts.values()] or np.zeros((0, 3)), dtype=np.int64), symmetric=True)
    same = dict(_same(votes))
    both = [(pair, one) for pair, each in same.items() for one in each]
    if found is None or not both:
        return ""
    raw = clustered_mean([one for _, one in both], [pair for pair, _ in both])
    return (
        f"Krippendorff's α is {_with_interval(found.alpha.value, found.alpha.se)}, and two people say the same "
        f"{_with_interval(raw.value, raw.se)} of the time, on {found.pairs} pairs with two votes or more. "
        "The intervals (95%) are over pairs, for these people."
    )


def _with_interval(value: float, se: float | None) -> str:
    if se is None:
        return f"{value:.2f}"
    return f"{value:.2f} ({max(value - 1.96 * se, -1):.2f} to {min(value + 1.96 * se, 1):.2f})"


def _same(votes: Sequence[Said]) -> Iterator[tuple[str, list[float]]]:
    """Whether two people say the same of a pair, for every two on each pair."""
    by_pair = defaultdict[str, list[Said]](list)
    for said in votes:
        by_pair[said.pair].append(said)
    for pair, each in by_pair.items():
        if len(each) > 1:
            yield pair, [float(a.winner == b.winner) for a, b in combinations(each, 2)]


def people(standing: Sequence[Said], left_out: Collection[str], repeats: Sequence[Said] = ()) -> list[Person]:
    """What is seen of everybody, from what stands, and from what was said when asked again."""
    of = defaultdict[str, list[Said]](list)
    winners = defaultdict[str, list[Said]](list)
    for said in standing:
        of[said.person].append(said)
        if said.kind == VOTE:
            winners[said.pair].append(said)
    before = {(said.person, said.pair): said.winner for said in standing if said.kind == VOTE}
    same = defaultdict[str, list[float]](list)
    for said in repeats:
        if (said.person, said.pair) in before:
            same[said.person].append(float(said.winner == before[said.person, said.pair]))
    return [_person(name, said, winners, same[name], name in left_out) for name, said in sorted(of.items())]


def _person(
    name: str, said: Sequence[Said], on: Mapping[str, Sequence[Said]], same: Sequence[float], out: bool
) -> Person:
    votes = [one for one in said if one.kind == VOTE]
    sides = [one.winner == one.left for one in votes if one.winner not in (TIE, BOTH_BAD)]
    buttons = [one.winner if one.winner in (TIE, BOTH_BAD) else str(one.winner == one.left) for one in votes]
    streak = max((len(list(run)) for _, run in groupby(buttons)), default=0)
    seconds = statistics.median(one.ms for one in votes) / 1000 if votes else None
    others = [float(one.winner == other.winner) for one in votes for other in on[one.pair] if other.person != name]
    flags = []
    if len(votes) >= FEW:
        flags += [f"fast: {seconds:.1f} s a vote"] if seconds is not None and seconds < FAST else []
        flags += [f"{streak} times the same in a row"] if streak >= STREAK else []
        flags += ["says something else when asked again"] if len(same) >= ASKED and sum(same) <= len(same) / 2 else []
        flags += ["nearly always one side"] if _chance(sum(sides), len(sides)) < ONE_SIDED else []
    left = sum(sides) / len(sides) if sides else None
    agrees = statistics.fmean(others) if others else None
    counts = len(votes), len(said) - len(votes)
    steady = statistics.fmean(same) if same else None
    return Person(name, *counts, seconds, left, streak, agrees, steady, len(same), tuple(flags), out)


def _chance(ones: int, n: int) -> float:
    """The probability that so many, or more, of n coins lie on one side."""
    most = max(ones, n - ones)
    return min(2 * sum(math.comb(n, k) for k in range(most, n + 1)) * 0.5**n, 1.0)


def standing_of(store: Store, pairs: Mapping[str, Pair], names: Mapping[str, str]) -> dict[str, Any]:
    """All figures, as the organiser's page takes them. `names`: what each question is called there."""
    left_out = store.left_out()
    said = [one for one in store.standing() if one.pair in pairs]
    votes = [one for one in said if one.kind == VOTE and one.person not in left_out]
    asked = questions(votes, pairs, names)
    return {
        "pairs": len(pairs),
        "votes": len(votes),
        "voted": len({one.pair for one in votes}),
        "skips": len(said) - sum(one.kind == VOTE for one in said),
        "ties": sum(one.winner == TIE for one in votes),
        "both_bad": sum(one.winner == BOTH_BAD for one in votes),
        "questions": [asdict(one) | {"clear": one.clear} for one in asked],
        "agreement": agreement_told(votes, pairs),
        "people": [asdict(one) for one in people(said, left_out, store.repeats())],
    }
