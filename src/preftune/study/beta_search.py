"""Which β brings the arms of a study to the same distances from the reference, by KL alone.

β means another thing to every method: IPO goes as far as DPO at about a fifth of its β, PPO at another one. So each arm
starts at the same β, and targets are laid around the middle of their distances d = √KL. An arm is run at the β at which
its own runs say that it would reach a target, until it has been near all of them or cannot. What a run gained is never
looked at, so that intervals stay what they say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

START = 0.1
AROUND = (1.0, 2 / 3, 1.5)  # the targets, in units of the middle: its KL, and from .44 to 2.25 times as much
ALONE = (0.85, 1.2, 0.6, 1.6)  # with one seed, whose runs alone must tell a method from a run, it takes four
STEP = 4.0  # a β is at most so many times the nearest one that was tried
MOST = 8  # runs of an arm in the search
SLOPE = -0.75  # of log KL in log β, before an arm has two runs; later its own, within these bounds
BOUNDS = (-3.0, -0.2)

# (arm, β) of runs that do not depend on each other → KL at the end of each in nats; None if it failed
Runs = Callable[[Sequence[tuple[str, float]]], Sequence[float | None]]


@dataclass(frozen=True)
class Tried:
    """A run of the search: where it ended (None if it failed), and why this β."""

    arm: str
    beta: float
    kl: float | None
    why: str


@dataclass(frozen=True)
class Search:
    """What was tried, in order, the distances aimed at, and the β of each arm that came nearest to them."""

    tried: tuple[Tried, ...] = ()
    targets: tuple[float, ...] = ()
    chosen: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """The search as `study.json` has it."""
        return {
            "targets_kl": [target**2 for target in self.targets],
            "tried": [vars(one) for one in self.tried],
            "chosen": {arm: list(betas) for arm, betas in self.chosen.items()},
        }

    def missed(self, arm: str) -> list[float]:
        """The targets that no run of the arm came near."""
        ends = [d for _, d in _ends(arm, self.tried)]
        return [target for target in self.targets if not any(_is_near(d, target, self.targets) for d in ends)]


def search_betas(
    arms: Sequence[str],
    runs: Runs,
    say: Callable[[str], None] = lambda line: None,
    *,
    alone: bool = False,
    given: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Search:
    """Run arms until each has been near the same distances, or cannot; `say` is told every decision.

    Rounds have a run of each arm that goes on, the first one all β that are `given`; an arm follows its own runs alone.
    `alone`: there is one seed. An arm starts at the β that are `given` for it, and keeps them.
    """
    tried: list[Tried] = []

    def attempt(some: Sequence[tuple[str, float, str]]) -> None:
        for arm, beta, why in some:
            say(f"{arm}: β {beta:g} ({why})")
        ends = runs([(arm, beta) for arm, beta, _ in some])
        tried.extend(Tried(arm, beta, kl, why) for (arm, beta, why), kl in zip(some, ends, strict=True))

    first = {arm: [(beta, "given") for beta in given.get(arm, ())] for arm in arms}
    attempt([(arm, *one) for arm in arms for one in first[arm] or [(START, "where every arm starts")]])
    targets = _targets([d for arm in arms for _, d in _ends(arm, tried)], ALONE if alone else AROUND)
    while some := [(arm, *one) for arm in arms if (one := next_beta(arm, tried, targets)) is not None]:
        attempt(some)
    return Search(tuple(tried), targets, {arm: kept(given.get(arm, ()), _nearest(arm, tried, targets)) for arm in arms})


def kept(given: Sequence[float], found: Sequence[float]) -> tuple[float, ...]:
    """Both, each once, from the smallest."""
    return tuple(sorted({*given, *found}))


def assumed_betas(alone: bool) -> tuple[float, ...]:
    """The β that a search would come to if every arm went as far as the middle at `START`, and KL as `SLOPE` says."""
    return tuple(sorted(float(f"{START * times ** (2 / SLOPE):.2g}") for times in (ALONE if alone else AROUND)))


def _targets(distances: Sequence[float], around: Sequence[float]) -> tuple[float, ...]:
    """Distances around the middle (geometric mean) of the arms' first ones."""
    if not distances:
        return ()
    middle = math.exp(sum(map(math.log, distances)) / len(distances))
    return tuple(middle * times for times in around)


def next_beta(arm: str, tried: Sequence[Tried], targets: Sequence[float]) -> tuple[float, str] | None:
    """The next β of an arm, and why; None if it has been near all targets, or no other β would bring it nearer."""
    ends = _ends(arm, tried)
    own = [one for one in tried if one.arm == arm]
    if len(own) >= MOST or len(ends) < len(own):
        return None
    for target in targets:
        if any(_is_near(d, target, targets) for _, d in ends):
            continue
        beta = _proposal(ends, target)
        if all(abs(math.log(beta / other)) > 0.1 for other, _ in ends):
            return beta, f"to end at about {target**2:.2g} nats"
    return None


def _ends(arm: str, tried: Sequence[Tried]) -> list[tuple[float, float]]:
    """(β, d) of the arm's runs that left the reference."""
    return [(one.beta, math.sqrt(one.kl)) for one in tried if one.arm == arm and one.kl is not None and one.kl > 0]


def _is_near(d: float, target: float, targets: Sequence[float]) -> bool:
    """Whether a run that ended at d has reached the target: it is less than half of the way to the next one."""
    away = abs(math.log(d / target))
    return all(away < abs(math.log(other / target)) / 2 for other in targets if other != target)


def _proposal(ends: Sequence[tuple[float, float]], target: float) -> float:
    """The β at which the arm would reach the target, from its two nearest run ends; log KL is about linear in log β."""
    by_distance = sorted(ends, key=lambda end: abs(math.log(end[1] / target)))
    (beta, d), *others = by_distance
    slope = SLOPE
    if others:
        run, rise = math.log(others[0][0] / beta), 2 * math.log(others[0][1] / d)
        slope = min(max(rise / run, BOUNDS[0]), BOUNDS[1]) if run else SLOPE
    shift = 2 * math.log(target / d) / slope
    bounded = min(max(shift, -math.log(STEP)), math.log(STEP))
    return float(f"{beta * math.exp(bounded):.2g}")


def _nearest(arm: str, tried: Sequence[Tried], targets: Sequence[float]) -> tuple[float, ...]:
    """The arm's β that came nearest to the targets, each once; where none left the reference, those that were tried."""
    ends = _ends(arm, tried)
    if not ends:
        return tuple(one.beta for one in tried if one.arm == arm)
    chosen = {min(ends, key=lambda end: abs(math.log(end[1] / target)))[0] for target in targets}
    return tuple(sorted(chosen))
