"""Random-effects meta-regression of gain on distance: what a fitted gain at one distance is worth.

The gain of run i of an arm at distance d_i = √KL is d_i(α + a_u − γ·d_i) plus the noise of its prompts. The effect a_u
~ N(0, τ²) is that of the unit u that the run belongs to: the run itself, or its seed where the runs of a seed share
what was fitted. With X the rows (d_i, −d_i²), z_i the mean distance of all runs with i's setting (β, or n of best-of-n)
and Z the rows (z_i/d_i)(z_i, −z_i²),

    (α, γ) = (ZᵀX)⁻¹ Zᵀ gain

These are instruments: z was chosen, and d_i was not. Of two runs with one β the luckier one goes farther and gains
more, so that least squares on d_i itself takes luck for the shape of the frontier; here the weights of a_u are without
luck. A gain at distance d* is a contrast c of the points, and its variance is

    V = cᵀS c + τ² Σ_u (Σ_{i∈u} c_i d_i)²

with S the covariance of the points over prompts. S is in no weight: it is estimated from as many prompts as there may
be points. τ² is estimated by moments from weighted residuals (two steps: DerSimonian & Kacker 2007), its share of the
degrees of freedom by Satterthwaite.

Shapes: N points of an arm, U units, P prompts; k = 2 coefficients, or 1 if the frontier is not curved.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from .stats import Floats

APART = 1.25  # times as far: two settings nearer than this hold a line, not a curve
MOST = 2.0  # times the weight of a run that went as far as the others of its setting
UNEQUAL = 0.3  # Bartlett's p-value below which arms have a variance between runs of their own


@dataclass(frozen=True)
class Spread:
    """What the residuals of some arms say of the variance between units: q, a sum of squares; its mean without any
    variance, and how it rises with τ²; how unevenly (the sum of squared eigenvalues); in how many dimensions."""

    q: float = 0.0
    noise: float = 0.0
    slope: float = 0.0
    square: float = 0.0
    dimensions: int = 0

    @property
    def variance(self) -> float:
        """τ²: 0 where the residuals are no larger than the prompts' noise makes them."""
        return max(0.0, (self.q - self.noise) / self.slope) if self.slope > 0 else 0.0

    @property
    def df(self) -> float:
        """Degrees of freedom of q (Satterthwaite): `dimensions` if units count evenly in it, less if not."""
        return self.slope**2 / self.square if self.square > 0 else 0.0

    def __add__(self, other: Spread) -> Spread:
        return Spread(
            self.q + other.q,
            self.noise + other.noise,
            self.slope + other.slope,
            self.square + other.square,
            self.dimensions + other.dimensions,
        )


def terms(d: Floats, curved: bool) -> Floats:
    """What gain is linear in: d, and −d² if the frontier is curved, `[..., k]`."""
    return np.stack([d, -(d**2)], axis=-1) if curved else d[..., None]


def gain_at(d: float, coefficients: Sequence[float]) -> float:
    """The gain at distance d of a frontier with coefficients (α, γ), or (α,)."""
    return float(terms(np.array(d), len(coefficients) > 1) @ np.array(coefficients))


@dataclass(frozen=True)
class Fit:
    """Where the points of an arm lie: `d` `[..., N]`, the `settings` that they were run with, and the form fitted."""

    d: Floats
    settings: Sequence[Hashable]
    curved: bool

    def solution(self) -> Floats:
        """(ZᵀX)⁻¹Zᵀ, `[..., k, N]`: what makes coefficients of gains."""
        same = membership(self.settings)
        mean = self.d @ (same / same.sum(0)) @ same.T
        weight = np.minimum(mean / np.maximum(self.d, 1e-9), MOST)  # a run that never left says little of a slope
        instruments = np.swapaxes(terms(mean, self.curved) * weight[..., None], -1, -2)
        return np.asarray(np.linalg.pinv(instruments @ terms(self.d, self.curved)) @ instruments)

    def contrast(self, at: float) -> Floats:
        """c, `[..., N]`: the gain fitted at distance `at` is c · gains."""
        return np.asarray(terms(np.array(at), self.curved) @ self.solution())


def can_curve(d: Floats, settings: Sequence[Hashable]) -> bool:
    """Whether the points tell a curve from a line: the origin and two settings that reach distances well apart."""
    same = membership(settings)
    means = d @ same / same.sum(0)
    return bool(means.max() > APART * means.min())


def spread_of(fit: Fit, gain: Floats, units: Sequence[str], covariance: Floats) -> Spread:
    """What an arm's residuals say of its units; `covariance` is S, `[N, N]`.

    Each residual has the inverse of its variance for a weight, with the τ² of residuals that have none. With a unit
    that all points belong to there is nothing to say: its effect is in α.
    """
    even = _spread(fit, gain, units, covariance, np.ones_like(fit.d))
    expected = fit.d**2 * even.variance + np.diag(covariance)
    if not even.dimensions or not (expected > 0).all():
        return even
    return _spread(fit, gain, units, covariance, expected.mean() / expected)


def _spread(fit: Fit, gain: Floats, units: Sequence[str], covariance: Floats, weight: Floats) -> Spread:
    residual = np.eye(len(fit.d)) - terms(fit.d, fit.curved) @ fit.solution()
    weighted = np.sqrt(weight)[:, None] * residual
    effects = weighted @ (fit.d[:, None] * membership(units))
    values = np.linalg.svd(effects, compute_uv=False) ** 2
    if values.sum() <= 1e-12:
        return Spread()
    between = effects @ np.linalg.pinv(effects, rcond=1e-8) @ weighted  # what runs of a unit do not share stays out
    left, dimensions = between @ gain, int((values > 1e-12 * values.max()).sum())
    noise = float(np.trace(between @ covariance @ between.T))
    return Spread(float(left @ left), noise, float(values.sum()), float((values**2).sum()), dimensions)


def membership(groups: Sequence[Hashable]) -> Floats:
    """1 where a point belongs to a group, `[N, groups]`."""
    distinct = list(dict.fromkeys(groups))
    return np.array([[float(group == one) for one in distinct] for group in groups])


def pooled(spreads: Sequence[Spread]) -> list[Spread]:
    """One for all arms, unless Bartlett's test says that they differ: then each its own. An arm with none has none."""
    known = [one for one in spreads if one.dimensions]
    if len(known) < 2 or _unequal(known) < UNEQUAL:
        return list(spreads)
    together = sum(known, Spread())
    return [together if one.dimensions else one for one in spreads]


def _unequal(spreads: Sequence[Spread]) -> float:
    """Bartlett's p-value of "the variances of the residuals are equal"."""
    df = np.array([one.df for one in spreads], dtype=float)
    variances = np.array([max(one.q / one.slope, 1e-300) for one in spreads])
    total = df.sum()
    overall = float(df @ variances) / total
    statistic = total * np.log(overall) - float(df @ np.log(variances))
    correction = 1 + (float((1 / df).sum()) - 1 / total) / (3 * (len(spreads) - 1))
    return float(chdtrc(len(spreads) - 1, max(statistic / correction, 0.0)))


@dataclass(frozen=True)
class Part:
    """An arm's part in a contrast: the spread of its units, and what it counts, Σ_u (Σ_{i∈u} c_i d_i)²."""

    spread: Spread
    share: float


def share_of(c: Floats, d: Floats, units: Sequence[str]) -> float:
    """Σ_u (Σ_{i∈u} c_i d_i)²."""
    return float((((c * d) @ membership(units)) ** 2).sum())


def total_variance(over_prompts: float, prompts: float, parts: Sequence[Part]) -> tuple[float, float]:
    """(V, its degrees of freedom): prompts and units add; a τ² of 0 takes no degrees of freedom (Satterthwaite).

    Arms whose spread was pooled have one τ² together.
    """
    shares: dict[Spread, float] = {}
    for part in parts:
        shares[part.spread] = shares.get(part.spread, 0.0) + part.share
    variance = over_prompts + sum(spread.variance * share for spread, share in shares.items())
    uncertain = over_prompts**2 / max(prompts - 1, 1)
    for spread, share in shares.items():
        if spread.variance > 0:
            uncertain += (share * spread.q / spread.slope) ** 2 / spread.df
    return variance, variance**2 / uncertain if uncertain > 0 else float("inf")
