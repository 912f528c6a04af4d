"""What the digests of all rows say together: repeats, contradictions, circles, leaks, and how far annotators agree.

Shapes: R rows with a prompt, V votes, U compared pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ..evidence import Estimate
from .digests import Kept

Keys = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
ODD = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)))
SHIFT = np.uint64(29)
SHOWN = 3


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's α of single votes (a, b, or neither), on pairs that two or more voted on."""

    alpha: Estimate
    pairs: int
    votes: int
    unanimous: int


@dataclass(frozen=True)
class Contests:
    """What rows say of each other; the lists are the numbers of rows to look at."""

    prompts: int
    repeated_prompts: int
    most_rows: int
    nearly_same_prompts: int
    pairs: int
    repeated_votes: int
    contradicted: int
    contradicted_rows: tuple[int, ...]
    circles: int
    circle_rows: tuple[int, ...]
    agreement: Agreement | None
    split_leaks: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Leak:
    """Prompts of evaluation that are in training too: `alike` has those that differ in case or white space as well."""

    prompts: int
    same: int
    alike: int
    rows: tuple[int, ...]


def weigh(kept: Kept, *, named: bool, winner_first: bool) -> Contests:
    """Everything that the digests say. `named`: rows name annotators, so that several rows of one pair are several
    people; `winner_first`: the layout lists the better response first, so that its place says nothing.
    """
    exact, loose = (np.frombuffer(column, np.uint64) for column in (kept.exact, kept.loose))
    uses = _sizes(exact)
    count, votes = _pairs_of(kept)
    both = (votes.won > 0) & (votes.lost > 0)
    again = np.maximum(votes.won - 1, 0) + np.maximum(votes.lost - 1, 0)
    circling = _circling(votes)
    units = votes.counts if named else _counts(kept)
    return Contests(
        prompts=len(uses),
        repeated_prompts=int((uses > 1).sum()),
        most_rows=int(uses.max(initial=0)),
        nearly_same_prompts=len(uses) - len(_sizes(loose)),
        pairs=count,
        repeated_votes=int(again.sum()),
        contradicted=int(both.sum()),
        contradicted_rows=_rows(kept, votes.first[both]),
        circles=len(np.unique(votes.prompt[circling])),
        circle_rows=_rows(kept, votes.first[circling]),
        agreement=agreement_on(units, symmetric=winner_first),
        split_leaks=tuple(_leaks_between(loose, np.frombuffer(kept.split, np.uint8), kept.splits)),
    )


def leak(training: Kept, evaluation: Kept) -> Leak:
    """How many of the distinct prompts of evaluation are training prompts too."""
    exact, first = np.unique(np.frombuffer(evaluation.exact, np.uint64), return_index=True)
    same = np.isin(exact, np.frombuffer(training.exact, np.uint64))
    alike = np.isin(np.frombuffer(evaluation.loose, np.uint64)[first], np.frombuffer(training.loose, np.uint64))
    rows = np.sort(np.frombuffer(evaluation.number, np.uint32)[first[same | alike]])[:SHOWN]
    return Leak(len(exact), int(same.sum()), int((same | alike).sum()), tuple(map(int, rows)))


def _sizes(keys: Keys) -> Counts:
    """How often each distinct key occurs."""
    return np.unique(keys, return_counts=True)[1]


def _rows(kept: Kept, votes: Counts) -> tuple[int, ...]:
    """The numbers of the first rows among those of these votes."""
    if not len(votes):
        return ()
    places = np.frombuffer(kept.prompt, np.uint32)[votes]
    return tuple(map(int, np.unique(np.frombuffer(kept.number, np.uint32)[places])[:SHOWN]))


@dataclass(frozen=True)
class _Pairs:
    """Pairs that others could say something about, `[U]` each: prompt, the two responses, the first vote on it, votes
    either way, and single votes `[U, 3]`.
    """

    prompt: Keys
    low: Keys
    high: Keys
    first: Counts
    won: Counts
    lost: Counts
    counts: Counts


def _pairs_of(kept: Kept) -> tuple[int, _Pairs]:
    """How many pairs were compared, and those of them that have two votes, or a prompt that has three."""
    prompt = np.frombuffer(kept.exact, np.uint64)[np.frombuffer(kept.prompt, np.uint32)]
    a, b = np.frombuffer(kept.a, np.uint64), np.frombuffer(kept.b, np.uint64)
    key = _mixed(prompt, np.minimum(a, b), np.maximum(a, b))
    count, repeated = _met(key, 2)
    some = np.union1d(repeated, _met(prompt, 3)[1])
    prompt, a, b = prompt[some], a[some], b[some]
    _, first, pair = np.unique(key[some], return_index=True, return_inverse=True)
    sign = np.where(a < b, 1, -1) * np.frombuffer(kept.sign, np.int8)[some]
    counts = _counts(kept, some)
    oriented = np.where((a < b)[:, None], counts, counts[:, [1, 0, 2]])

    def total(values: Any) -> Counts:
        return np.bincount(pair, weights=values, minlength=len(first)).astype(np.int64)

    return count, _Pairs(
        prompt[first],
        np.minimum(a, b)[first],
        np.maximum(a, b)[first],
        some[first],
        total(sign > 0),
        total(sign < 0),
        np.stack([total(column) for column in oriented.T], axis=1),
    )


def _met(key: Keys, least: int) -> tuple[int, Counts]:
    """How many distinct keys there are, and the places of those that are met so often or more."""
    if not len(key):
        return 0, np.zeros(0, np.int64)
    order = np.argsort(key)
    ordered = key[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(starts, append=len(key))
    return len(starts), np.sort(order[np.repeat(sizes >= least, sizes)])


def _counts(kept: Kept, some: Counts | None = None) -> Counts:
    """Single votes `[V, 3]`: of some votes, or of all for which two or more people voted."""
    columns = [np.frombuffer(column, np.uint16) for column in kept.counts]
    if some is None:
        some = np.flatnonzero(columns[0].astype(np.uint32) + columns[1] + columns[2] >= 2)
    return np.stack([column[some] for column in columns], axis=1).astype(np.int64)


def _mixed(*columns: Keys) -> Keys:
    """One key for several, as unlikely to be met twice as each of them."""
    key = np.zeros(len(columns[0]), np.uint64)
    for column, odd in zip(columns, ODD, strict=False):
        key = (key ^ column) * odd
        key ^= key >> SHIFT
    return key


def _circling(votes: _Pairs) -> npt.NDArray[np.bool_]:
    """Which pairs lie on a circle of majorities (a over b, b over c, c over a): a strong component of their graph."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    circling = np.zeros(len(votes.first), bool)
    edges = np.flatnonzero(votes.won != votes.lost)
    if not len(edges):
        return circling
    ends = [_mixed(votes.prompt[edges], side[edges]) for side in (votes.low, votes.high)]
    nodes, at = np.unique(np.concatenate(ends), return_inverse=True)
    low, high = at[: len(edges)], at[len(edges) :]
    up = votes.won[edges] > votes.lost[edges]
    graph = coo_array(
        (np.ones(len(edges)), (np.where(up, low, high), np.where(up, high, low))), shape=(len(nodes),) * 2
    )
    _, component = connected_components(graph, directed=True, connection="strong")
    circling[edges] = component[low] == component[high]
    return circling


def agreement_on(counts: Counts, *, symmetric: bool) -> Agreement | None:
    """How far votes on the same pairs agree: `counts` [pairs, 3] of a, b and neither; None on fewer than two pairs."""
    units = counts[counts.sum(axis=1) >= 2]
    if len(units) < 2:
        return None
    kinds, often = np.unique(units, axis=0, return_counts=True)
    value = krippendorff(kinds, often, symmetric=symmetric)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(units), often / len(units), size=500)
    spread = [krippendorff(kinds, times, symmetric=symmetric) for times in drawn]
    known = [one for one in spread if np.isfinite(one)]
    se = float(np.std(known, ddof=1)) if len(known) > 1 else None
    unanimous = int((units.max(axis=1) == units.sum(axis=1)).sum())
    return Agreement(Estimate(value, se), len(units), int(units.sum()), unanimous)


def krippendorff(units: Counts, times: Counts, *, symmetric: bool = False) -> float:
    """Krippendorff's α for nominal values: units `[U, C]` hold how often each value was given, each unit `times` over.

    1 is agreement, 0 what chance alone would give (also where only one value was ever given). `symmetric`: the first
    two values are names of the same thing from two sides, and equally frequent by construction. Source: Krippendorff,
    "Content Analysis" (2004), section 11.3: α = 1 − (n − 1) Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k.
    """
    if symmetric:
        units, times = np.concatenate([units, units[:, [1, 0, 2]]]), np.concatenate([times, times])
    size = units.sum(axis=1)
    kept = size >= 2
    units, share = units[kept], (times[kept] / (size[kept] - 1))
    pairs = np.einsum("uc,uk,u->ck", units, units, share) - np.diag(units.T @ share)
    totals = pairs.sum(axis=1)
    n = totals.sum()
    expected = n * n - totals @ totals
    return float(1 - (n - 1) * (n - np.trace(pairs)) / expected) if expected > 0 else 0.0


def _leaks_between(loose: Keys, split: npt.NDArray[np.uint8], names: Sequence[str]) -> list[tuple[str, str, int]]:
    of_split = [np.unique(loose[split == place]) for place in range(len(names))]
    shared = [
        (names[i], names[j], len(np.intersect1d(of_split[i], of_split[j], assume_unique=True)))
        for i, j in combinations(range(len(names)), 2)
        if names[i] and names[j]
    ]
    return [one for one in shared if one[2]]
