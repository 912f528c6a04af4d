"""Intervals that hold however often they are looked at: a person may stop voting when the answer is clear.

Exact, from one x_g in [0, 1] a prompt in random order of prompts (a prompt's first vote: win 1, tie ½, loss 0). Sixteen
bets on or against each mean m, none of which can lose all that it has:

    λ_j(m) = +min(c_j/√(m(1 − m)), .97/m)  and  −min(c_j/√(m(1 − m)), .97/(1 − m)),   c = .1 … 1 in eight equal ratios
    K(m) = (1/16) Σ_j Π_g (1 + λ_j(m)(x_g − m)),    interval: all from the least to the largest m with K(m) < 1/α

If the mean is m, K(m) is a martingale that begins at 1, and ever reaches 1/α with a probability of at most α (Ville).
(Waudby-Smith & Ramdas 2024, doi 10.1093/jrsssb/qkad009.)

For large samples, from any estimate with an error that shrinks as votes come in (doi 10.1214/24-AOS2408):

    half = SE·√( (1 + SE²/τ²)(2 ln(1/α) + ln(1 + τ²/SE²)) ),   τ = 2.8 · .45/√(planned votes)

which is narrowest near the planned number of votes; that is chosen before the first vote. Of several comparisons each
has its part of α.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from .stats import Estimate, Floats

SIZES = np.geomspace(0.1, 1, 8)
MOST = 0.97  # of what it has a bet may lose
GRID = np.arange(1, 1000) / 1000
LEAD = 0.1  # of a win rate over one half, that should be found in four of five cases
LOOKED_AT = 1.9  # times as many votes as for one look, for an interval that always holds
FEWEST, EACH = 20, 8  # votes in all, and wins and losses each, from which on the interval for large samples is one


@dataclass(frozen=True)
class Question:
    """A comparison as it stands: on how many prompts, how often the first wins (a tie one half), and the interval that
    holds at any time. `more`: votes still needed for a lead of ten points, about."""

    name: str
    prompts: int
    wins: float | None
    low: float
    high: float
    more: int

    @property
    def clear(self) -> bool:
        """Whether ½ is outside of the interval."""
        return not self.low <= 0.5 <= self.high


def question_of(name: str, x: Sequence[float], alpha: float) -> Question:
    """How a comparison stands after one vote a prompt, the first on each: win 1, tie ½, loss 0."""
    low, high = exact_interval(x, alpha)
    ties = sum(one == 0.5 for one in x) / len(x) if x else 0.0
    needed = math.ceil(LOOKED_AT * 1.96 * (1 - ties) / LEAD**2)
    return Question(name, len(x), float(np.mean(x)) if x else None, low, high, max(needed - len(x), 0))


def exact_interval(x: npt.ArrayLike, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) of the mean of `x` [n] in [0, 1], one value a prompt; wrong at any n with a probability of `alpha`.

    (0, 1) of no values. Bounds are rounded outwards to .001. Raises ValueError for a value outside of [0, 1].
    """
    data = np.asarray(x, dtype=float)
    if not ((data >= 0) & (data <= 1)).all():
        raise ValueError("needs values between 0 and 1")
    values, counts = np.unique(data, return_counts=True)
    wealth = log_wealth(GRID, values, counts)
    inside = np.flatnonzero(wealth < -math.log(alpha))
    if not len(inside):  # no mean is left, as where the order is not random: the least unlikely one
        inside = np.array([int(np.argmin(wealth))])
    edges = np.array([0.0, *GRID, 1.0])
    return float(edges[inside[0]]), float(edges[inside[-1] + 2])


def log_wealth(m: Floats, values: Floats, counts: npt.ArrayLike) -> Floats:
    """log K of the means `m` [M] after `values` [V] have occurred so many times: `counts` [..., V] -> [..., M]."""
    size = SIZES[:, None] / np.sqrt(m * (1 - m))
    bets = np.concatenate([np.minimum(size, MOST / m), -np.minimum(size, MOST / (1 - m))])
    gained = np.log1p(bets[..., None] * (values - m[:, None]))  # [16, M, V]
    total = np.asarray(counts, dtype=float) @ gained.reshape(bets.size, len(values)).T
    total = total.reshape(*total.shape[:-1], *bets.shape)
    return np.asarray(logsumexp(total, axis=-2) - math.log(len(bets)))


def enough(wins: int, ties: int, losses: int) -> bool:
    """Whether these votes are so many that `anytime_interval` holds."""
    return wins + ties + losses >= FEWEST and min(wins, losses) >= EACH


def anytime_interval(estimate: Estimate, planned: int, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) from an estimate whose error is that of the votes so far, with so many votes `planned`; unbounded
    where the error is unknown. Before there are `enough` votes it does not hold."""
    half = math.inf if not estimate.se else anytime_half_width(estimate.se, planned, alpha)
    return estimate.value - half, estimate.value + half


def anytime_half_width(se: float, planned: int, alpha: float = 0.05) -> float:
    """Half of the interval's width, of a standard error above 0."""
    ratio = (2.8 * 0.45) ** 2 / planned / se**2
    return se * math.sqrt((1 + 1 / ratio) * (2 * math.log(1 / alpha) + math.log1p(ratio)))
