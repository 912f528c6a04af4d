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

    `weights` are what each prompt counts, `[P]`, the same in every pilot of an arm. `losses` are what the method itself
    would have lower, `[P]`, where that is not the cost: a log-loss whose scale is fitted does not see how far a policy
    has come, and of two rates that it cannot tell apart the one may have taught nothing yet.
    """

    lr: float
    costs: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    @property
    def mean(self) -> Estimate:
        """The weighted mean cost over prompts, and its standard error."""
        return clustered_mean(self.costs, range(len(self.costs)), self.weights)

    @property
    def loss(self) -> Estimate:
        """The same of the method's own loss."""
        own = self.losses or self.costs
        return clustered_mean(own, range(len(own)), self.weights)


def rate_beyond(lr: float, rungs: int) -> float:
    """The rate so many rungs higher on the ladder 1e-5, 3e-5, 1e-4, 3e-4, ..."""
    tens, odd = divmod(round(2 * math.log10(lr)) + rungs, 2)
    return float(f"{(1, 3)[odd]}e{tens}")


def rates_to_try(tried: Sequence[Tried], lora: bool) -> tuple[float, ...]:
    """The rates whose pilots are to be made next, none when it is enough.

    First the grid of `RATES` rates; then one beyond the end where the best is, or below all if all of them are out,
    `FURTHER` times at most.
    """
    known = sorted(one.lr for one in tried)
    grid = tuple(rate_beyond(FIRST[lora], i) for i in range(RATES))
    if missing := tuple(lr for lr in grid if lr not in known):
        return missing
    best = best_of(tried)
    if len(known) >= RATES + FURTHER:
        return ()
    if best is None or best.lr == known[0]:
        return (rate_beyond(known[0], -1),)
    return (rate_beyond(known[-1], 1),) if best.lr == known[-1] else ()


def lowest(tried: Sequence[Tried]) -> Tried | None:
    """The pilot with the lowest mean cost, of equals the one with the smaller rate; None if all are out."""
    return min((one for one in tried if one.costs), key=lambda one: (one.mean.value, one.lr), default=None)


def candidates(tried: Sequence[Tried]) -> list[Tried]:
    """The pilots whose cost is above the lowest by one standard error at most, from the smallest rate."""
    low = lowest(tried)
    inside = sorted((one for one in tried if one.costs), key=lambda one: one.lr)
    return [one for one in inside if low and not is_above(difference(one.costs, low.costs, low.weights))]


def best_of(tried: Sequence[Tried]) -> Tried | None:
    """Of the candidates the one whose own loss is lowest, of equals the one with the smaller rate."""
    return min(candidates(tried), key=lambda one: (one.loss.value, one.lr), default=None)


def choose_rate(tried: Sequence[Tried]) -> tuple[float, str] | None:
    """The rate to take, and why: the smallest of those that one standard error does not tell from the best.

    Neither by cost from the lowest, nor by the method's own loss from the lowest among these. Standard errors are of
    differences, paired by prompt: all pilots of an arm are asked the same. None if all are out.
    """
    low, best, known = lowest(tried), best_of(tried), sorted(one.lr for one in tried)
    if low is None or best is None:
        return None
    for one in candidates(tried):
        if is_above(difference(one.losses or one.costs, best.losses or best.costs, best.weights)):
            continue
        reason = "the lowest cost"
        if one is not low:
            gap = difference(one.costs, low.costs, low.weights)
            kind = (
                "with the lowest loss of its own" if one is best else "the smallest that its own loss does not rule out"
            )
            reason = f"within one standard error of the lowest cost, {low.lr:g}'s ({gap} above), and of such {kind}"
        at_end = "; at the end of what was tried" if one.lr in (known[0], known[-1]) else ""
        return one.lr, reason + at_end
    raise RuntimeError("the best is no worse than itself")


def difference(one: Sequence[float], other: Sequence[float], weights: Sequence[float]) -> Estimate:
    """How much more the one costs than the other, paired by prompt, `[P]` each."""
    return clustered_mean(np.subtract(one, other), range(len(one)), weights)


def is_above(gap: Estimate) -> bool:
    """Whether it is more than one standard error above 0."""
    return gap.value > (gap.se or 0.0)
