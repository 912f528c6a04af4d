"""The points of a study and a frontier for every arm.

d = √KL is the distance from the reference; a frontier is the fit gain = d(α − γ·d) over the ends of an arm's finished
runs (Gao et al. 2022, arXiv 2210.10760), never the best of them, which would reward having more. Checkpoints on the way
are drawn and not fitted: they are no policies of a smaller KL that anybody would choose.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .regression import Fit, can_curve, gain_at
from .results import REFERENCE, Result, StudyRecord
from .stats import Floats, clustered_mean, number

REWARD = "reward"
PROXY = "proxy"  # what a learned reward thinks of samples, over what it thinks of the reference's
ACCURACY = "accuracy"
WIN_RATE = "win rate"  # against the reference, by a judge
CONTROLLED = "length-controlled win rate"  # at equal lengths, by a judge
PEOPLE = "win rate by people"
CORRECTED = "win rate by people and judge"  # votes of people, and a judge whose bias they take out
JUDGED = (WIN_RATE, CONTROLLED, PEOPLE, CORRECTED)
ROUNDING = 1e-3  # nats: a KL this little below 0 is 0 but for rounding
CHANCE = 0.5  # held-out accuracy of the reference itself: every margin is 0, and ties count half


@dataclass(frozen=True)
class Point:
    """A run at a checkpoint: KL in nats, and gain over the reference in the units of the vertical axis.

    `end`: the run is finished there (each n of best-of-n is an end). `unit` is what its random effect belongs to: the
    run, or its arm and seed where the runs of a seed share what is random: a fitted model, or flipped votes. With one
    seed that cannot be told apart from the arm, so that it is the run, and `shares` says so.
    """

    run: str
    arm: str
    beta: float | None
    seed: int
    step: int
    kl: float
    kl_se: float | None
    gain: float
    gain_se: float | None
    noise: float = 0.0
    end: bool = True
    unit: str = ""
    shares: bool = False

    @property
    def setting(self) -> tuple[float | None, int]:
        """What was chosen and not found: β and the steps, or n of best-of-n."""
        return self.beta, self.step


@dataclass(frozen=True)
class Frontier:
    """gain = d(alpha − gamma·d) at d = √KL, fitted to `points` run ends whose KL lies in [low, high] nats.

    Where all settings reach about the same distance only the linear term is fitted: `curved` is False and gamma is 0.
    """

    arm: str
    alpha: float
    gamma: float
    curved: bool
    points: int
    low: float
    high: float
    noise: float = 0.0

    def at(self, kl: float) -> float:
        """The fitted gain at a KL in nats."""
        return gain_at(math.sqrt(kl), (self.alpha, self.gamma) if self.curved else (self.alpha,))

    @property
    def form(self) -> str:
        """The fit in words."""
        alpha, gamma = number(self.alpha, 0.01), number(self.gamma, 0.01)
        over = "fitted to one run end" if self.points == 1 else f"fitted to {self.points} run ends"
        if not self.curved:
            return f"{self.arm}: α·d, α = {alpha}, {over}; all at about one distance, so no term in d²"
        return f"{self.arm}: d(α − γ·d), α = {alpha}, γ = {gamma}, {over}"


@dataclass(frozen=True)
class PerPrompt:
    """Means of each prompt at each point: kl and gain [points, prompts]; not a number at a checkpoint without them.

    Of an estimate that is no mean over prompts, `gain` is the estimate plus what each prompt influences it, so that
    means, covariances and jackknives over prompts are those of the estimate. `df` are its degrees of freedom, where
    they are not those of all prompts.
    """

    kl: Floats
    gain: Floats
    df: float | None = None

    def rows(self, chosen: Sequence[int]) -> PerPrompt:
        """The same for some of the points."""
        return replace(self, kl=self.kl[chosen], gain=self.gain[chosen])


def points_of(study: StudyRecord, axis: str) -> tuple[tuple[Point, ...], PerPrompt | None, list[str]]:
    """One point per run and checkpoint with a place on both axes; means per prompt where samples allow; notes."""
    points = placed([point for row in study.trained() if (point := point_of(row, axis))], study)
    missing = len(study.trained()) - len(points)
    notes = [f"{missing} checkpoints have no usable KL or no {axis} and are not drawn."] if missing else []
    if axis == ACCURACY or not any(point.end for point in points):
        return tuple(points), None, notes
    table, left_out = _per_prompt(study, points)
    if left_out:
        notes.append(f"{left_out} prompts lack a scored sample at the end of some run and are left out.")
    if table is None:
        return tuple(points), None, [*notes, "There are no samples of the same prompts everywhere to pair over."]
    return tuple(measured(point, table, i) for i, point in enumerate(points)), table, notes


def point_of(row: Result, axis: str) -> Point | None:
    """A row as a point; None where it has no KL or no gain that is finite."""
    if axis == REWARD:
        return point_at(row, row.gain, row.gain_se)
    return point_at(row, None if row.accuracy is None else row.accuracy - CHANCE, row.accuracy_se)


def point_at(row: Result, gain: float | None, gain_se: float | None) -> Point | None:
    """A row as a point with this gain; None where it has no KL or that is not finite."""
    if row.kl is None or gain is None or not math.isfinite(row.kl) or not math.isfinite(gain) or row.kl < -ROUNDING:
        return None
    return Point(row.run, row.arm, row.beta, row.seed, row.step, max(row.kl, 0.0), row.kl_se, gain, gain_se, row.noise)


SHARING = ("ppo", "rloo", "best-of-n", "amortized-ipo")  # the runs of a seed learn from one fitted model


def placed(points: Sequence[Point], study: StudyRecord) -> list[Point]:
    """The points with whether their runs end there, and the units of their random effects."""
    ends = {(row.run, row.step) for row in study.ends()}
    of_seed = study.info["runs"] != "exchangeable"
    return with_units(
        replace(
            point,
            end=(point.run, point.step) in ends,
            shares=of_seed or point.noise > 0 or point.arm.split("[")[0] in SHARING,
        )
        for point in points
    )


def with_units(points: Iterable[Point]) -> list[Point]:
    """The points with the unit that each one's random effect belongs to."""
    points = list(points)
    seeds: dict[str, set[int]] = defaultdict(set)
    for point in points:
        if point.end:
            seeds[point.arm].add(point.seed)

    def unit(point: Point) -> str:
        return f"{point.arm}, seed {point.seed}" if point.shares and len(seeds[point.arm]) > 1 else point.run

    return [replace(point, unit=unit(point)) for point in points]


def measured(point: Point, table: PerPrompt, index: int) -> Point:
    """The point with its means and errors from the samples, where it has them."""
    prompts = range(table.kl.shape[1])
    if np.isnan(table.gain[index]).any():
        return point
    kl, gain = clustered_mean(table.kl[index], prompts), clustered_mean(table.gain[index], prompts)
    return replace(point, kl=max(kl.value, 0.0), kl_se=kl.se, gain=gain.value, gain_se=gain.se)


def _per_prompt(study: StudyRecord, points: Sequence[Point]) -> tuple[PerPrompt | None, int]:
    """Means over the samples of each prompt that all ends and the reference have, and how many prompts they lack."""
    kls: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rewards: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in study.samples:
        if sample.reward is not None and math.isfinite(sample.reward) and math.isfinite(sample.kl):
            kls[sample.run, sample.step][sample.prompt_id].append(sample.kl)
            rewards[sample.run, sample.step][sample.prompt_id].append(sample.reward)
    keys = [(point.run, point.step) for point in points]
    ends = [(point.run, point.step) for point in points if point.end]
    shared = set.intersection(*(set(rewards[key]) for key in [(REFERENCE, 0), *ends]))
    left_out = len({sample.prompt_id for sample in study.samples}) - len(shared)
    if len(shared) < 2:
        return None, left_out

    def means(of: Mapping[tuple[str, int], Mapping[int, Sequence[float]]], key: tuple[str, int]) -> Floats:
        return np.array([np.mean(of[key].get(prompt, [math.nan])) for prompt in sorted(shared)])

    start = means(rewards, (REFERENCE, 0))
    kl = np.stack([means(kls, key) for key in keys])
    return PerPrompt(kl, np.stack([means(rewards, key) - start for key in keys])), left_out


def fit_frontier(points: Sequence[Point]) -> Frontier | None:
    """The frontier of one arm's run ends (`regression`). None if all are at the origin."""
    away = [point for point in points if point.kl > 0]
    if not away:
        return None
    d, settings = distances(away), [point.setting for point in away]
    fit = Fit(d, settings, can_curve(d, settings))
    coefficients = fit.solution() @ np.array([point.gain for point in away])
    gamma = float(coefficients[1]) if fit.curved else 0.0
    low, high = float(d.min()) ** 2, float(d.max()) ** 2
    return Frontier(away[0].arm, float(coefficients[0]), gamma, fit.curved, len(away), low, high, away[0].noise)


def distances(points: Sequence[Point]) -> Floats:
    """d = √KL of each."""
    return np.sqrt([point.kl for point in points])
