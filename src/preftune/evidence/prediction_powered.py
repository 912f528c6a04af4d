"""Few votes of people and a judge on everything: prediction-powered inference, with prompts as its unit.

Of P prompts n are voted on. h_g is the mean vote on prompt g (win 1, tie ½, loss 0), l_g the judge's mean on the pairs
that were voted on, f_g its mean on all pairs of g. With means over voted prompts (h̄, l̄) and over all (f̄), and s_xy the
sample covariance over voted prompts, s_ff the variance over all,

    θ(λ) = h̄ + λ (f̄ − l̄)
    V(λ) = [s_hh − 2λ s_hl + λ² s_ll]/n + [λ² s_ff + 2λ s_hf − 2λ² s_lf]/P
    λ*   = (s_hl/n − s_hf/P) / (s_ll/n + (s_ff − 2 s_lf)/P), within [0, 1]
    SE   = √( V(λ*) (n − 1)/(n − 2) ), Student's t with n − 2 degrees of freedom

(Angelopoulos et al. 2023, arXiv 2301.09633 and 2311.01453, who have the normal distribution for t.) λ = 0, people
alone, where all prompts are voted on, or fewer than `FEWEST`, or the judge says the same of all. No judge biases θ,
however wrong it is, if it is wrong in the same way where people vote and where they do not. That takes

- voted prompts that are a random part of all, drawn before anybody saw what the judge says, pairs within a prompt too;
- votes that the judge has not learned from;
- a judge's "no verdict" that is one and the same number, such as ½, in l and in f. Any number will do, as the votes
  correct it like any other error. Leaving such pairs out of one of the two would be a bias.

Shapes: R points (a run at a checkpoint each), P prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .influence import Estimates
from .stats import Estimate, Floats

FEWEST = 10  # voted prompts from which on a λ can be fitted to them


@dataclass(frozen=True)
class Powered:
    """A win rate by people and judge together (`both`), by `people` alone, and by the `judge` alone, which may be
    biased. λ is the judge's `weight`; `voted` of `prompts` were voted on."""

    both: Estimate
    people: Estimate
    judge: Estimate
    weight: float
    voted: int
    prompts: int

    @property
    def saved(self) -> float | None:
        """How many times as many prompts would have to be voted on for people alone to have the error of both: about
        1/(1 − ρ²(1 − n/P)). None where an error is unknown."""
        return (self.people.se / self.both.se) ** 2 if self.people.se and self.both.se else None


@dataclass(frozen=True)
class PoweredPoints:
    """Win rates at R points by people and judge together, the one `weight` λ of the judge at all of them, and how many
    prompts were voted on. The degrees of freedom are those of `estimates`, not of its number of prompts."""

    estimates: Estimates
    weight: float
    voted: int


def ppi(h: npt.ArrayLike, l: npt.ArrayLike, f: npt.ArrayLike) -> Powered:  # noqa: E741 (the paper's letters)
    """θ, from `h`, `l` and `f` [P]; h and l are not a number where nobody voted. For the difference of two arms all
    three are differences.

    An error is None where it cannot be known: from one voted prompt, or where all votes agree. Raises ValueError for
    unequal shapes, no votes, or a judge that says nothing.
    """
    votes = _Votes.of(h, l, f)
    n, prompts = votes.counts
    people, judge = _mean(votes.h[0]), _mean(votes.f[0])
    if people.se is None or not votes.can_fit:
        return Powered(people, people, judge, 0.0, n, prompts)
    weight = votes.best_weight()
    value = float(votes.values(weight)[0])
    se = math.sqrt(votes.variance(weight) * (n - 1) / (n - 2))
    return Powered(Estimate(value, se, n - 2), people, judge, weight, n, prompts)


def ppi_points(h: npt.ArrayLike, l: npt.ArrayLike, f: npt.ArrayLike) -> PoweredPoints:  # noqa: E741
    """θ at R points, from `h`, `l` and `f` [R, P]; the same prompts are voted on at all points, and elsewhere h and l
    are not a number. Raises ValueError for anything else.

    One λ for all points: with it every contrast of points is an estimate of the same kind, and what a prompt has in
    common at all points cancels in it. It is the λ that makes the sum of the variances of all differences between two
    points smallest, for a verdict rests on differences: λ* with Σ_{i<j} s_xy(x_i − x_j) for s_xy, which is R times the
    sum over points of s_xy(x_i − mean over points). Of one point it is `ppi`'s.

        ψ_g = √(P(P − 1)/(n(n − 1))) (h_g − h̄ − λ(l_g − l̄)) where voted, + λ (f_g − f̄)

    and all of it times √((n − 1)/(n − 2)), so that its variance is V(λ)(n − 1)/(n − 2), up to a factor of about
    1 − (1/n − 1/P)/2 on its smallest term 2λ(s_hf − λ s_lf)/P.
    """
    votes = _Votes.of(h, l, f)
    n, prompts = votes.counts
    if n < 2:
        raise ValueError("needs votes on two prompts at least")
    between = votes.mapped(lambda table: table - table.mean(axis=0)) if len(votes.f) > 1 else votes
    weight = between.best_weight() if between.can_fit else 0.0
    rest = votes.h - weight * votes.l
    scale = math.sqrt(prompts * (prompts - 1) / (n * (n - 1)))
    influence = weight * _centred(votes.f)
    influence[:, votes.where] += scale * _centred(rest)
    df = n - 2 if between.can_fit else n - 1
    return PoweredPoints(Estimates(votes.values(weight), influence * math.sqrt((n - 1) / df), df), weight, n)


def _mean(values: Floats) -> Estimate:
    """Of one value a prompt. Where all are the same, nothing is known of the error."""
    count = len(values)
    varied = count > 1 and np.ptp(values) > 0
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count) if varied else None, count - 1)


def _centred(table: Floats) -> Floats:
    return np.asarray(table - table.mean(axis=1, keepdims=True))


@dataclass(frozen=True)
class _Votes:
    """h and l [R, n] of the voted prompts, which are `where` [n] among all; f [R, P] of all."""

    h: Floats
    l: Floats  # noqa: E741
    f: Floats
    where: npt.NDArray[np.intp]

    @staticmethod
    def of(h: npt.ArrayLike, l: npt.ArrayLike, f: npt.ArrayLike) -> _Votes:  # noqa: E741
        votes, same, everything = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (h, l, f))
        if not votes.shape == same.shape == everything.shape:
            raise ValueError(f"h, l and f have shapes {votes.shape}, {same.shape} and {everything.shape}")
        voted = ~np.isnan(votes)
        if not voted.any() or (voted != voted[0]).any():
            raise ValueError("needs votes, on the same prompts at every point")
        where = np.flatnonzero(voted[0])
        if np.isnan(everything).any() or np.isnan(same[:, where]).any():
            raise ValueError("needs the judge on every pair; without a verdict one and the same number in l and f")
        return _Votes(votes[:, where], same[:, where], everything, where)

    @property
    def counts(self) -> tuple[int, int]:
        """(n, P)."""
        return self.h.shape[1], self.f.shape[1]

    @property
    def can_fit(self) -> bool:
        """Whether a λ other than 0 can be fitted."""
        n, prompts = self.counts
        return FEWEST <= n < prompts and float(np.ptp(self.l, axis=1).max()) > 0

    def mapped(self, change: Callable[[Floats], Floats]) -> _Votes:
        """The same with h, l and f changed."""
        return _Votes(change(self.h), change(self.l), change(self.f), self.where)

    def values(self, weight: float) -> Floats:
        """θ(λ) [R]."""
        return np.asarray(self.h.mean(axis=1) + weight * (self.f.mean(axis=1) - self.l.mean(axis=1)))

    def best_weight(self) -> float:
        """λ*, of the summed variance of all points."""
        n, prompts = self.counts
        over, f = _covariance, self.f[:, self.where]
        gain = over(self.h, self.l) / n - over(self.h, f) / prompts
        cost = over(self.l, self.l) / n + (over(self.f, self.f) - 2 * over(self.l, f)) / prompts
        weight = min(max(gain / cost, 0.0), 1.0) if cost > 0 else 0.0
        return weight if self.variance(weight) > 0 else 0.0

    def variance(self, weight: float) -> float:
        """V(λ), summed over the points."""
        n, prompts = self.counts
        over, rest = _covariance, self.h - weight * self.l
        judged = weight**2 * over(self.f, self.f) + 2 * weight * over(rest, self.f[:, self.where])
        return over(rest, rest) / n + judged / prompts


def _covariance(a: Floats, b: Floats) -> float:
    """s_ab over the prompts of two tables, summed over the points."""
    return float((_centred(a) * _centred(b)).sum() / (a.shape[1] - 1))
