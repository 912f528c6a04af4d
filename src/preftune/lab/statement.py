"""Statements of the theory that run: each computes both sides of its equation, in random worlds.

A statement is judged by its `residual`, which must vanish. Where a form in circulation is wrong, or a hypothesis is
needed, `gap` is how far the other form is from the truth, and must not vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import worlds
from .optima import borda, tilt
from .worlds import Floats, World

TOLERANCE = 1e-6  # what a residual may be: optimisers stop, floating point rounds
CLEAR = 1e-2  # what a gap must be
BETAS = (0.1, 0.5, 1.0)

HOLDS = "holds"
CORRECTED = "wrong as written"  # the corrected form holds
NEEDED = "needs its hypothesis"
FAILS = "the method fails"  # it does not do what it is for; the residual is that of what it does instead


class Evidence(NamedTuple):
    """How far the right form is from an equality, and how far the wrong one is; None where there is no wrong one."""

    residual: float
    gap: float | None = None


@dataclass(frozen=True)
class Statement:
    """A claim in words and symbols, what became of it, and the function that computes its evidence."""

    name: str
    group: str
    claim: str
    verdict: str
    remark: str
    check: Callable[[np.random.Generator], Evidence]


@dataclass(frozen=True)
class Checked:
    """A statement with its evidence; `passed` if the residual vanished and the gap did not."""

    statement: Statement
    evidence: Evidence

    @property
    def passed(self) -> bool:
        gap = self.evidence.gap
        return self.evidence.residual < TOLERANCE and (gap is None or gap > CLEAR)


Check = Callable[[np.random.Generator], Evidence]


class Chapter(list[Statement]):
    """Statements in the order in which they are written down."""

    def states(
        self, group: str, name: str, claim: str, verdict: str = HOLDS, remark: str = ""
    ) -> Callable[[Check], Check]:
        """Enter the function below."""

        def enter(check: Check) -> Check:
            self.append(Statement(name, group, claim, verdict, remark, check))
            return check

        return enter


def apart(*equations: tuple[Floats, ...]) -> float:
    """The largest difference between the two sides of some equations."""
    return float(max(np.abs(left - right).max() for left, right in equations))


def some_world(rng: np.random.Generator) -> World:
    """A random world of 3 prompts and 4 responses."""
    return worlds.arbitrary(rng, prompts=3, responses=4)


def product(first: Floats, second: Floats) -> Floats:
    """How likely each ordered pair is when its responses are drawn apart, `[X, K, K]`."""
    return first[:, :, None] * second[:, None, :]


def any_policy(rng: np.random.Generator, like: Floats) -> Floats:
    """A random policy over the responses of `like`, `[X, K]`."""
    return rng.dirichlet(np.ones(like.shape[1]), size=len(like))


def differences(s: Floats) -> Floats:
    """s_a − s_b of all ordered pairs, `[…, K, K]`."""
    return s[..., :, None] - s[..., None, :]


def ipo_policy(w: World, beta: float = 1.0) -> Floats:
    """IPO's optimum: π_ref·exp(E_μ p/β) / Z."""
    return tilt(w.reference, borda(w.preference, w.sampler), beta)
