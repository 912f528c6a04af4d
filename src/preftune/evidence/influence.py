"""Estimates at several points from the same prompts, and what each prompt contributes to them.

An estimate θ̂ that is no plain mean has an influence value ψ_g of every prompt g: θ̂ − θ ≈ (1/P) Σ_g ψ_g (Hampel 1974;
the infinitesimal jackknife). The pseudo-values θ̂ + ψ_g then stand for the prompts: their mean is the estimate, and
their covariance over prompts, divided by P, is that of the estimates, paired between points. So whatever is done with
the means of prompts can be done with any estimate. Of a plain mean they are the prompts' own values.

Shapes: R points (a run at a checkpoint each), P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .stats import Estimate, Floats


@dataclass(frozen=True)
class Estimates:
    """`values` [R], and `influence` [R, P] of the prompts on them: Σ_g ψ_g = 0, and Σ_g ψ_g ψ_gᵀ / (P(P − 1)) is their
    covariance, with `df` degrees of freedom. Not a number at a point where there is no estimate."""

    values: Floats
    influence: Floats
    df: float

    @property
    def pseudo_values(self) -> Floats:
        """[R, P]: what stands for the prompts' own values."""
        return np.asarray(self.values[:, None] + self.influence)

    @property
    def covariance(self) -> Floats:
        """[R, R]: of the estimates, over prompts."""
        prompts = self.influence.shape[1]
        return np.asarray(self.influence @ self.influence.T / (prompts * (prompts - 1)))

    def contrast(self, weights: npt.ArrayLike) -> Estimate:
        """Σ_r weights_r · values_r and its error; points of weight 0 take no part."""
        weight = np.asarray(weights, dtype=float)
        used = weight != 0
        part = weight[used] @ self.influence[used]
        variance = float(part @ part) / (len(part) * (len(part) - 1))
        return Estimate(
            float(weight[used] @ self.values[used]), None if math.isnan(variance) else math.sqrt(variance), self.df
        )

    def at(self, point: int) -> Estimate:
        """The estimate at one point."""
        return self.contrast(np.eye(len(self.values))[point])


def mean_where_there(values: npt.ArrayLike) -> Estimates:
    """Means over prompts of values [R, P], not a number where a prompt has none: a judge that gave no verdict.

    Over the n prompts of a point that are there, ψ_g = (P/n)(x_g − mean), and 0 of the others. That estimates the mean
    over all prompts only if those missing are like the others; `missing_bounds` says how far off it can be. A mean of
    one prompt has no error, one of none is not a number. Raises ValueError for another shape, or less than two prompts.
    """
    table = _table(values)
    there = ~np.isnan(table)
    count = there.sum(axis=1)
    means = np.array([row[seen].mean() if seen.any() else math.nan for row, seen in zip(table, there, strict=True)])
    with np.errstate(divide="ignore"):
        scale = np.where(count > 1, table.shape[1] / count, math.nan)
    influence = np.where(there, table - means[:, None], 0.0) * scale[:, None]
    return Estimates(means, influence, max(int(count.min()) - 1, 0))


def missing_bounds(values: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The means [R] over all prompts of values [R, P] in [0, 1] if every missing one (not a number) were 0, and if it
    were 1: between them lies the mean of all, whatever is missing and why (Manski 1990)."""
    table = _table(values)
    return np.asarray(np.nan_to_num(table, nan=0.0).mean(axis=1)), np.asarray(
        np.nan_to_num(table, nan=1.0).mean(axis=1)
    )


def _table(values: npt.ArrayLike) -> Floats:
    table = np.asarray(values, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"needs values [points, prompts] of two prompts at least, not of shape {table.shape}")
    return table
