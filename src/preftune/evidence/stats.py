"""Means, differences and their uncertainty, with prompts as clusters."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and the degrees of freedom of that standard error (for Student's t).

    `se` is None where it cannot be known: from one prompt, or from one seed.
    """

    value: float
    se: float | None
    df: float = math.inf

    def __str__(self) -> str:
        """Such as `0.88 ± 0.06`: the error with two significant digits, the number with as many decimals."""
        if self.se is None:
            return number(self.value, self.value)
        return f"{number(self.value, self.se)} ± {number(self.se, self.se)}"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's t interval; unbounded where the standard error is unknown."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def half_width(self, level: float = 0.95) -> float:
        """Half of the interval's width; infinite where the standard error is unknown."""
        return math.inf if self.se is None else student(0.5 + level / 2, self.df) * self.se

    @property
    def z(self) -> float | None:
        """The number in units of its standard error; None where that is unknown, or both are 0."""
        if self.se is None or (self.se == 0 and self.value == 0):
            return None
        return self.value / self.se if self.se else math.copysign(math.inf, self.value)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the number is 0" (Student's t); 1 where nothing can be said."""
        return 1.0 if self.z is None else 2 * float(special.stdtr(self.df, -abs(self.z)))


def number(value: float, error: float) -> str:
    """`value` in print, with as many decimals as two significant digits of `error` take."""
    if not math.isfinite(value):
        return {"nan": "unknown", "inf": "∞", "-inf": "−∞"}[str(value)]
    scale = abs(error) if math.isfinite(error) and error else abs(value) / 10
    decimals = min(max(1 - math.floor(math.log10(scale)), 0), 6) if scale else 2
    return f"{value:,.{decimals}f}".replace("-", "−")


def clustered_mean(
    values: npt.ArrayLike, clusters: Sequence[Hashable], weights: npt.ArrayLike | None = None
) -> Estimate:
    """Weighted mean of `values` [N] and its standard error when the values of one cluster (a prompt) are not
    independent: √(G/(G−1) · Σ_g (Σ_{i∈g} w_i (v_i − mean))²) / Σw over the G clusters (Liang & Zeger 1986).

    With equal weight in every cluster this is the standard error of the G cluster means. Raises ValueError for no
    values, another number of clusters or weights, or weights that do not add to something positive.
    """
    array = np.asarray(values, dtype=float)
    weight = np.ones_like(array) if weights is None else np.asarray(weights, dtype=float)
    if array.ndim != 1 or not array.size or array.shape != weight.shape or len(clusters) != len(array):
        raise ValueError(f"needs one cluster and one weight for each of {array.shape} values, and one value at least")
    total = float(weight.sum())
    if not total > 0:
        raise ValueError(f"the weights add to {total}, not to something positive")
    mean = float(weight @ array) / total
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    count = len(numbers)
    if count < 2:
        return Estimate(mean, None, 0)
    sums = np.bincount(index, weights=weight * (array - mean), minlength=count)
    return Estimate(mean, math.sqrt(count / (count - 1) * float(sums @ sums)) / total, count - 1)


def over_seeds(values: npt.ArrayLike) -> Estimate:
    """Mean of one value per seed, with seeds as a random effect: se = sd/√S with S − 1 degrees of freedom."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return Estimate(float(array.mean()), None, 0)
    return Estimate(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(array.size), array.size - 1)


def student(probability: float, df: float) -> float:
    """The point below which Student's t with `df` degrees of freedom lies with this probability."""
    return float(special.stdtrit(df, probability))
