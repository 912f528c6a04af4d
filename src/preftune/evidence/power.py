"""The difference that a study could see in four of five studies like it, before any of its runs is made.

Nobody knows then where the runs will end, how much they scatter or how scores vary. Assumed, and said wherever the
answer is shown:

- the run ends of an arm lie evenly in d = √KL between its largest β, at d = 1, and its smallest, at d = 2 (only the
  ratio counts); an arm with one setting ends in the middle, at d = 1.5;
- runs of one setting differ by their prompts only: τ² = 0;
- the score of a response is what all policies have in common on its prompt and random numbers (which they share), the
  frontier's gain, and noise of standard deviation σ, independent between runs and between the n responses to each of P
  prompts.

With c_a and c_b the contrasts of the gains fitted at the place of comparison (`regression`), the arms at the same
places, and m comparisons in the study,

    SE² = σ² (|c_a|² + |c_b|²) / (P·n)
    difference = (t_{1 − .05/2m, P − 1} + t_{.8, P − 1}) · SE

the formula of a finished study's `detectable`, in units of σ. Where the noise is a run's liking of a whole prompt and
not of a response, more responses do not average it, and n counts as 1. Runs that scatter (τ² > 0) hide more.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .comparisons import FEWEST, LEVEL, detectable_difference, place
from .frontiers import SHARING, Point, distances, with_units
from .regression import Fit, Spread, can_curve, pooled, spread_of
from .stats import Estimate

NEAREST, FARTHEST = 1.0, 2.0  # d of an arm's largest and of its smallest β
MOST_SEEDS = 8  # that are looked at when a plan has too few


@dataclass(frozen=True)
class PlannedEnd:
    """Where a run is to end: `step` is n of best-of-n, else 0."""

    arm: str
    beta: float | None
    seed: int
    noise: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Outlook:
    """What a plan could tell of two arms: `difference` in units of σ, `alike` the same where more responses to a prompt
    do not help. Both are None where the arms cannot be told apart; `why` says why.

    `sure`: each arm has enough runs for a spread of its own. Otherwise the answer rests on arms whose spreads look
    alike, which three of ten studies with equal spreads will not show (`regression.UNEQUAL`).
    """

    a: str
    b: str
    noise: float
    runs: int
    difference: float | None = None
    alike: float | None = None
    sure: bool = False
    why: str = ""


def outlook(ends: Sequence[PlannedEnd], prompts: int, samples: int) -> tuple[Outlook, ...]:
    """Every pair of arms within each rate of label noise; `prompts` have `samples` scored responses of every run."""
    found = []
    for noise in dict.fromkeys(end.noise for end in ends):
        own = [end for end in ends if end.noise == noise]
        arms = [_planned(own, arm) for arm in dict.fromkeys(end.arm for end in own)]
        spreads = pooled([_spread(points) for points in arms])
        pairs = itertools.combinations(zip(arms, spreads, strict=True), 2)
        found += [_pair(a, b, (of_a, of_b), prompts) for (a, of_a), (b, of_b) in pairs]
    told = sum(not pair.why for pair in found)
    return tuple(_in_units(pair, told, prompts, samples) for pair in found)


def _planned(ends: Sequence[PlannedEnd], arm: str) -> list[Point]:
    """The run ends of an arm where they are assumed; the units are those of a finished study."""
    own = [end for end in ends if end.arm == arm]
    settings = sorted({(-(end.beta or 0.0), end.step) for end in own})  # from the nearest on
    spaced = np.linspace(NEAREST, FARTHEST, len(settings)) if len(settings) > 1 else [(NEAREST + FARTHEST) / 2]
    d = dict(zip(settings, map(float, spaced), strict=True))
    shares = arm.split("[")[0] in SHARING
    points = [
        Point(
            run=f"{arm}, β {end.beta}, seed {end.seed}",
            arm=arm,
            beta=end.beta,
            seed=end.seed,
            step=end.step,
            kl=d[-(end.beta or 0.0), end.step] ** 2,
            kl_se=None,
            gain=0.0,
            gain_se=None,
            noise=end.noise,
            shares=shares or end.noise > 0,
        )
        for end in own
    ]
    return with_units(points)


def _fit(points: Sequence[Point]) -> Fit:
    d, settings = distances(points), [point.setting for point in points]
    return Fit(d, settings, can_curve(d, settings))


def _spread(points: Sequence[Point]) -> Spread:
    """In how many dimensions the residuals of such runs would tell a variance between units."""
    count = len(points)
    return spread_of(_fit(points), np.zeros(count), [point.unit for point in points], np.eye(count))


def _pair(a: Sequence[Point], b: Sequence[Point], spreads: tuple[Spread, Spread], prompts: int) -> Outlook:
    """The pair with SE·√P/σ at one response a prompt in the place of `difference`."""
    pair = Outlook(a[0].arm, b[0].arm, a[0].noise, len(a) + len(b))
    at = place(a, b)
    if prompts < 2:
        return replace(pair, why="fewer than two prompts with scored responses")
    if at is None or min(spread.dimensions for spread in spreads) < FEWEST:
        return replace(pair, why="too few runs to tell a method from a run")
    size = sum(float((_fit(points).contrast(at) ** 2).sum()) for points in (a, b))
    sure = min(_spread(points).dimensions for points in (a, b)) >= FEWEST
    return replace(pair, difference=size**0.5, sure=sure)


def _in_units(pair: Outlook, told: int, prompts: int, samples: int) -> Outlook:
    if pair.difference is None:
        return pair
    error = Estimate(0.0, pair.difference / prompts**0.5, prompts - 1)
    alike = detectable_difference(error, LEVEL / told)
    return replace(pair, difference=None if alike is None else alike / samples**0.5, alike=alike)


def seeds_needed(ends: Sequence[PlannedEnd]) -> int | None:
    """With how many seeds every pair of arms could be told apart for sure; None if not with `MOST_SEEDS`."""
    seeds = sorted({end.seed for end in ends})
    for count in range(len(seeds), MOST_SEEDS + 1):
        new = [seeds[-1] + 1 + i for i in range(count - len(seeds))]
        more = [replace(end, seed=seed) for end in ends if end.seed == seeds[0] for seed in new]
        if all(pair.sure for pair in outlook([*ends, *more], prompts=2, samples=1)):
            return count
    return None
