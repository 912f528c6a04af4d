"""The choice of a learning rate from what pilots cost: which rates to try, and which of them to take. No torch.

Shapes: P validation prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..evidence import Estimate, clustered_mean

RATES, FURTHER = 4, 2  # of the grid, and beyond one end of it at most
FIRST = {False: 1e-5, True: 1e-4}  # the grid's smallest rate; with an adapter


@dataclass(frozen=True)
class Tried:
    """A rate and its pilot's cost on each validation prompt, `[P]`, lower is better; none: the pilot is out.

    `weights` are what each prompt counts, `[P]`, the same in every pilot of an arm.
    """

    lr: float
    costs: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def mean(self) -> Estimate:
        """The weighted mean over prompts, and its standard error."""
        return clustered_mean(self.costs, range(len(self.costs)), self.weights)


def rate_beyond(lr: float, rungs: int) -> float:
    """The rate so many rungs higher on the ladder 1e-5, 3e-5, 1e-4, 3e-4, ..."""
    tens, odd = divmod(round(2 * math.log10(lr)) + rungs, 2)
    return float(f"{(1, 3)[odd]}e{tens}")


def rates_to_try(tried: Sequence[Tried], lora: bool) -> tuple[float, ...]:
    """The rates whose pilots are to be made next, none when it is enough.

    First the grid of `RATES` rates; then one beyond the end where the lowest mean cost is, or below all if all of them
    are out, `FURTHER` times at most.
    """
    known = sorted(one.lr for one in tried)
    grid = tuple(rate_beyond(FIRST[lora], i) for i in range(RATES))
    if missing := tuple(lr for lr in grid if lr not in known):
        return missing
    best = lowest(tried)
    if len(known) >= RATES + FURTHER:
        return ()
    if best is None or best.lr == known[0]:
        return (rate_beyond(known[0], -1),)
    return (rate_beyond(known[-1], 1),) if best.lr == known[-1] else ()


def lowest(tried: Sequence[Tried]) -> Tried | None:
    """The pilot with the lowest mean cost, of equals the one with the smaller rate; None if all are out."""
    return min((one for one in tried if one.costs), key=lambda one: (one.mean.value, one.lr), default=None)


def choose_rate(tried: Sequence[Tried]) -> tuple[float, str] | None:
    """The rate to take, and why: the smallest of those whose cost is above the lowest by one standard error at most.

    That error is of the difference, paired by prompt: all pilots of an arm are asked the same. None if all are out.
    """
    best = lowest(tried)
    if best is None:
        return None
    known = sorted(one.lr for one in tried)
    for one in sorted(tried, key=lambda one: one.lr):
        gap = difference(one, best) if one.costs else None
        if gap and gap.value <= (gap.se or 0.0):
            reason = "the lowest cost"
            if one is not best:
                reason = f"the smallest rate within one standard error of the lowest cost, {best.lr:g}'s ({gap} above)"
            at_end = "; at the end of what was tried" if one.lr in (known[0], known[-1]) else ""
            return one.lr, reason + at_end
    raise RuntimeError("the lowest cost is no more than itself")


def difference(one: Tried, other: Tried) -> Estimate:
    """How much more the one costs than the other, paired by prompt."""
    return clustered_mean(np.subtract(one.costs, other.costs), range(len(one.costs)), one.weights)
