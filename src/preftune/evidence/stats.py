"""Means, differences and their uncertainty, with prompts as clusters and seeds as a random effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.optimize import brentq

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
        return math.inf if self.se is None else _student(0.5 + level / 2, self.df) * self.se

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


def paired_difference(
    a: npt.ArrayLike, b: npt.ArrayLike, clusters: Sequence[Hashable], weights: npt.ArrayLike | None = None
) -> Estimate:
    """Mean of a − b over the same items [N], clustered by prompt: what the two have in common cancels."""
    return clustered_mean(np.subtract(a, b), clusters, weights)


def paired_bootstrap(
    statistic: Callable[[Indices], Floats], prompts: int, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic of prompts and its bootstrap standard error over prompts, which may be clusters of anything.

    `statistic` takes prompt indices [..., n] and returns a number for each leading index [...]. Everything that it
    computes from one draw of prompts is paired. Deterministic by seed. Raises ValueError for fewer than two prompts.
    """
    if prompts < 2:
        raise ValueError(f"a bootstrap over prompts needs two or more, got {prompts}")
    everyone = np.arange(prompts)
    from scipy.stats import bootstrap  # whose import takes longer than most commands need

    result = bootstrap(
        (everyone,),
        lambda drawn, axis: statistic(np.moveaxis(drawn, axis, -1)),
        vectorized=True,
        n_resamples=resamples,
        batch=500,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    # a resample of n prompts varies by (n−1)/n of what n new prompts would
    error = float(result.standard_error) * math.sqrt(prompts / (prompts - 1))
    return Estimate(float(statistic(everyone)), error, prompts - 1)


def over_seeds(values: npt.ArrayLike) -> Estimate:
    """Mean of one value per seed, with seeds as a random effect: se = sd/√S with S − 1 degrees of freedom."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return Estimate(float(array.mean()), None, 0)
    return Estimate(float(array.mean()), float(array.std(ddof=1)) / math.sqrt(array.size), array.size - 1)


def with_seeds(over_prompts: Estimate, seeds: Estimate) -> Estimate:
    """The estimate over prompts, widened by the variance between seeds.

    The variances add; in the 95% interval each error counts with its own Student's t, `half² = Σ (t_i · se_i)²`, which
    does not fall short with two seeds as Satterthwaite's degrees of freedom do (Graybill & Wang 1980). The variance
    between seeds holds some of the prompts' noise too, so the sum errs on the wide side. Where either standard error
    is unknown, so is the result's.
    """
    if over_prompts.se is None or seeds.se is None:
        return Estimate(over_prompts.value, None, 0)
    se = math.hypot(over_prompts.se, seeds.se)
    half = math.hypot(over_prompts.half_width(), seeds.half_width())
    return Estimate(over_prompts.value, se, _degrees(half / se) if se else seeds.df)


def _degrees(t: float) -> float:
    """The degrees of freedom at which Student's t has its 97.5% point at `t`."""
    few, many = 1.0, 1e6
    if t >= _student(0.975, few):
        return few
    if t <= _student(0.975, many):
        return math.inf
    return float(brentq(lambda df: _student(0.975, df) - t, few, many))


def _student(probability: float, df: float) -> float:
    """The point below which Student's t with `df` degrees of freedom lies with this probability."""
    return float(special.stdtrit(df, probability))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values corrected for having made all of these comparisons (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return tuple(adjusted)
