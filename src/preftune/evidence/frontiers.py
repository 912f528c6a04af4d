"""The points of a study and a frontier for every arm.

d = √KL is the distance from the reference; a frontier is the fit gain = d(α − γ·d) over all points of an arm (Gao
et al. 2022, arXiv 2210.10760), never the best of its points, which would reward having more of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .results import REFERENCE, Result, StudyRecord
from .stats import Floats, clustered_mean, number

REWARD = "reward"
PROXY = "proxy"  # what a learned reward thinks of samples, over what it thinks of the reference's
ACCURACY = "accuracy"
ROUNDING = 1e-3  # nats: a KL this little below 0 is 0 but for rounding
CHANCE = 0.5  # held-out accuracy of the reference itself: every margin is 0, and ties count half


@dataclass(frozen=True)
class Point:
    """A run at a checkpoint: KL in nats, and gain over the reference in the units of the vertical axis."""

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


@dataclass(frozen=True)
class Frontier:
    """gain = d(alpha − gamma·d) at d = √KL, fitted over `points` points whose KL lies in [low, high] nats.

    With fewer than three distinct d only the linear term is fitted: `curved` is False and gamma is 0.
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
        d = math.sqrt(kl)
        return d * (self.alpha - self.gamma * d)

    @property
    def form(self) -> str:
        """The fit in words."""
        alpha, gamma = number(self.alpha, 0.01), number(self.gamma, 0.01)
        over = f"by least squares over all {self.points} points"
        if not self.curved:
            return f"{self.arm}: α·d, α = {alpha}, {over}; fewer than three distinct ones, so no term in d²"
        return f"{self.arm}: d(α − γ·d), α = {alpha}, γ = {gamma}, {over}"


@dataclass(frozen=True)
class PerPrompt:
    """Means of each prompt at each point: kl and gain [points, prompts]."""

    kl: Floats
    gain: Floats

    def rows(self, chosen: Sequence[int]) -> PerPrompt:
        """The same for some of the points."""
        return PerPrompt(self.kl[chosen], self.gain[chosen])


def points_of(study: StudyRecord, axis: str) -> tuple[tuple[Point, ...], PerPrompt | None, list[str]]:
    """One point per run and checkpoint with a place on both axes; means per prompt where samples allow; notes."""
    points = [point for row in study.trained() if (point := point_of(row, axis))]
    missing = len(study.trained()) - len(points)
    notes = [f"{missing} checkpoints have no usable KL or no {axis} and are not drawn."] if missing else []
    if axis == ACCURACY:
        return tuple(points), None, notes
    table, left_out = _per_prompt(study, points)
    if left_out:
        notes.append(f"{left_out} prompts lack a scored sample at some checkpoint and are left out.")
    if table is None:
        return tuple(points), None, [*notes, "There are no samples of the same prompts everywhere to pair over."]
    return tuple(_measured(point, table, i) for i, point in enumerate(points)), table, notes


def point_of(row: Result, axis: str) -> Point | None:
    """A row as a point; None where it has no KL or no gain that is finite."""
    gain = row.gain if axis == REWARD else None if row.accuracy is None else row.accuracy - CHANCE
    if row.kl is None or gain is None or not math.isfinite(row.kl) or not math.isfinite(gain) or row.kl < -ROUNDING:
        return None
    gain_se = row.gain_se if axis == REWARD else row.accuracy_se
    return Point(row.run, row.arm, row.beta, row.seed, row.step, max(row.kl, 0.0), row.kl_se, gain, gain_se, row.noise)


def _measured(point: Point, table: PerPrompt, index: int) -> Point:
    """The point with its means and errors from the samples."""
    prompts = range(table.kl.shape[1])
    kl, gain = clustered_mean(table.kl[index], prompts), clustered_mean(table.gain[index], prompts)
    return replace(point, kl=max(kl.value, 0.0), kl_se=kl.se, gain=gain.value, gain_se=gain.se)


def _per_prompt(study: StudyRecord, points: Sequence[Point]) -> tuple[PerPrompt | None, int]:
    """Means over the samples of each prompt that all points and the reference have, and how many prompts they lack."""
    kls: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rewards: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in study.samples:
        if sample.reward is not None and math.isfinite(sample.reward) and math.isfinite(sample.kl):
            kls[sample.run, sample.step][sample.prompt_id].append(sample.kl)
            rewards[sample.run, sample.step][sample.prompt_id].append(sample.reward)
    keys = [(point.run, point.step) for point in points]
    shared = set.intersection(*(set(rewards[key]) for key in [(REFERENCE, 0), *keys]))
    left_out = len({sample.prompt_id for sample in study.samples}) - len(shared)
    if not points or len(shared) < 2:
        return None, left_out

    def means(of: Mapping[tuple[str, int], Mapping[int, Sequence[float]]], key: tuple[str, int]) -> Floats:
        return np.array([np.mean(of[key][prompt]) for prompt in sorted(shared)])

    start = means(rewards, (REFERENCE, 0))
    kl = np.stack([means(kls, key) for key in keys])
    return PerPrompt(kl, np.stack([means(rewards, key) - start for key in keys])), left_out


def fit_frontier(points: Sequence[Point]) -> Frontier | None:
    """The frontier of one arm's points: least squares through the origin on d and d². None if none left the origin."""
    away = [point for point in points if point.kl > 0]
    if not away:
        return None
    d = np.sqrt([point.kl for point in away])
    curved = len(np.unique(d.round(6))) >= 3
    alpha, gamma = coefficients(d, np.array([point.gain for point in away]), curved)
    low, high = float(d.min()) ** 2, float(d.max()) ** 2
    return Frontier(away[0].arm, float(alpha), float(gamma), curved, len(away), low, high, away[0].noise)


def coefficients(d: Floats, gain: Floats, curved: bool) -> tuple[Floats, Floats]:
    """(α, γ), each [...], of the least-squares fit to d and gain [..., points]; γ = 0 if not curved.

    In two steps, for the sake of accuracy: on d, then on the part of d² that d does not explain.
    """
    square = (d * d).sum(-1)
    alpha = _ratio((d * gain).sum(-1), square)
    if not curved:
        return alpha, np.zeros_like(alpha)
    lean = _ratio((d**3).sum(-1), square)
    rest = d * d - lean[..., None] * d
    gamma = -_ratio((rest * gain).sum(-1), (rest * rest).sum(-1))
    return alpha + gamma * lean, gamma


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom [...], 0 where bottom is."""
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)
