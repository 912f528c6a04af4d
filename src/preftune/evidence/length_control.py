"""Win rates at equal length: what a judge would say of responses as long as those they are compared with.

For pair i of run r, of which a judge says that it is won with F_i in [0, 1], and that is Δ_i longer,

    logit E F_i = a_r + b · tanh(Δ_i / sd),    LC_r = σ(a_r)

a fractional response (Papke & Wooldridge 1996), after length-controlled AlpacaEval (Dubois et al. 2024,
arXiv 2404.04475). `b` is what a judge makes of length: one for all of its runs. sd is that of Δ over all pairs, which
are not centred, so that LC_r is at Δ = 0 and that the other order of every pair gives 1 − LC_r and the same b. Errors
are the sandwich with prompts as clusters (Liang & Zeger 1986), the sd taken as known: with U_g the score of all pairs
of prompt g and H the information, ψ_g = P·H⁻¹U_g of (a, b), times LC_r(1 − LC_r) of LC_r.

Length is partly caused by quality, so this is a check of how much an answer depends on length, beside the plain rate.

Shapes: R runs, P prompts, S pairs of a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from .influence import Estimates
from .stats import Floats

FARTHEST = 15.0  # |a| or |b|: beyond that, odds of three million to one, they are on their way to infinity
ITERATIONS = 100
NOT_VARIED = "within the runs no two pairs differ in length: there is no slope to fit"
SEPARATED = "length alone tells who wins: no slope is steep enough"
ENDLESS = "the fit did not converge"


@dataclass(frozen=True)
class LengthControlled:
    """`rates`: LC_r of R runs and the influence of the prompts on them; `slope`: b, None where nothing was fitted.

    `why` says of each run why it has no rate, which is then not a number, and is empty where it has one. A run without
    a rate took no part in the slope.
    """

    rates: Estimates
    slope: float | None
    why: tuple[str, ...]


def length_controlled(wins: npt.ArrayLike, longer: npt.ArrayLike) -> LengthControlled:
    """Length-controlled win rates of R runs by one judge, from `wins` in [0, 1] and `longer`, by how much a response is
    longer than the one that it was compared with; both [R, P] or [R, P, S], not a number where there is no verdict.

    Each prompt of a run weighs the same, however many of its pairs are there. Raises ValueError for unequal shapes.
    """
    won, delta = np.atleast_3d(np.asarray(wins, dtype=float)), np.atleast_3d(np.asarray(longer, dtype=float))
    if won.shape != delta.shape or won.ndim != 3 or won.shape[1] < 2:
        raise ValueError(f"needs wins and lengths [runs, prompts, pairs] of one shape, not {won.shape}, {delta.shape}")
    there = ~(np.isnan(won) | np.isnan(delta))
    why = [_refused(won[r][there[r]], delta[r][there[r]], int(there[r].any(-1).sum())) for r in range(len(won))]
    kept = np.array([not reason for reason in why])
    values, influence = np.full(len(won), math.nan), np.full(won.shape[:2], math.nan)
    df = won.shape[1] - 2
    if not kept.any():
        return LengthControlled(Estimates(values, influence, df), None, tuple(why))
    fitted = _fit(won[kept], delta[kept], there[kept])
    if isinstance(fitted, str):
        return LengthControlled(Estimates(values, influence, df), None, tuple(reason or fitted for reason in why))
    values[kept], influence[kept], slope = fitted
    return LengthControlled(Estimates(values, influence, df), slope, tuple(why))


def _refused(won: Floats, delta: Floats, prompts: int) -> str:
    """Why a run has no rate at equal length, whatever the slope."""
    if prompts < 2:
        return "it has verdicts on fewer than two prompts"
    if delta.min() > 0 or delta.max() < 0:
        side = "longer" if delta.min() > 0 else "shorter"
        return f"its responses are all {side} than those they are compared with: equal length lies outside the data"
    if won.max() == 0 or won.min() == 1:
        return f"it {'lost' if won.max() == 0 else 'won'} every pair"
    return ""


def _fit(won: Floats, delta: Floats, there: npt.NDArray[np.bool_]) -> tuple[Floats, Floats, float] | str:
    """LC [R], its influence values [R, P] and b, by Newton's method; or why there are none."""
    sd = float(delta[there].std())
    x = np.where(there, np.tanh(delta / sd), 0.0) if sd else np.zeros_like(delta)
    y = np.where(there, won, 0.0)
    count = there.sum(-1, keepdims=True)
    weight = there / np.maximum(count, 1)
    a, b = logit((weight * y).sum((1, 2)) / weight.sum((1, 2))), 0.0
    if _Newton(a, b, x, y, weight).slope_information < 1e-9 * weight.sum():
        return NOT_VARIED
    for _ in range(ITERATIONS):
        at = _Newton(a, b, x, y, weight)
        step_a, step_b = (step.sum(-1) for step in at.steps())
        size = max(float(np.abs(step_a).max()), abs(float(step_b)))
        shorter = min(1.0, 1 / size) if size else 1.0
        a, b = a + shorter * step_a, b + shorter * float(step_b)
        if max(float(np.abs(a).max()), abs(b)) > FARTHEST:
            return SEPARATED
        if size < 1e-10:
            rate = expit(a)
            return rate, (rate * (1 - rate))[:, None] * won.shape[1] * _Newton(a, b, x, y, weight).steps()[0], b
    return ENDLESS


@dataclass(frozen=True)
class _Newton:
    """The scores of prompts and the information at (a, b). H has an arrow's shape: a diagonal, and a row of b."""

    a: Floats
    b: float
    x: Floats
    y: Floats
    weight: Floats

    @property
    def _information(self) -> tuple[Floats, Floats, float]:
        p = expit(self.a[:, None, None] + self.b * self.x)
        of = self.weight * p * (1 - p)
        return of.sum((1, 2)), (of * self.x).sum((1, 2)), float((of * self.x**2).sum())

    @property
    def slope_information(self) -> float:
        """What is known of b once every a is fitted."""
        diagonal, row, corner = self._information
        return corner - float((row**2 / diagonal).sum())

    def steps(self) -> tuple[Floats, Floats]:
        """H⁻¹U_g: of a [R, P] and of b [P]. Summed over prompts they are Newton's step."""
        diagonal, row, _ = self._information
        score = self.weight * (self.y - expit(self.a[:, None, None] + self.b * self.x))
        of_a, of_b = score.sum(2), (score * self.x).sum((0, 2))
        step_b = (of_b - (row / diagonal) @ of_a) / self.slope_information
        return np.asarray((of_a - row[:, None] * step_b) / diagonal[:, None]), np.asarray(step_b)
