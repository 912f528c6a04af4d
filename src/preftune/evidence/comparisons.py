"""Arms compared at the same KL, the best run of each, and the record of all that is said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .frontiers import Frontier, PerPrompt, Point, distances
from .regression import Fit, Part, Spread, pooled, share_of, spread_of, total_variance
from .stats import Estimate, Floats, clustered_mean, student

LEVEL = 0.05  # how small a corrected p-value must be before a difference is called one
POWER = 0.8  # of the difference that a comparison could have seen
FEWEST = 2  # dimensions of residuals from which a spread between runs is concluded
NEAR = 1.25  # the nearest run end may be so many times as far as the place of comparison: below it lies the origin
STEP = 4.0  # a β that is proposed is at most so many times another


@dataclass(frozen=True)
class Comparison:
    """The frontier of arm `a` minus that of arm `b` at one `kl` (nats) between the run ends of both.

    `difference` is None where they cannot be compared; `why` says why, and `next` which run would change it. `p_value`
    is corrected (Holm) for all comparisons of the study. The interval has the `level` at which Holm's procedure judges
    this pair, so that it excludes 0 exactly where the pair is told apart; `detectable` is the difference that would
    have been told apart in four of five such studies. `alpha` is what the study may spend on all its pairs: less than
    .05 at a predeclared look. `scope` says over what the interval is; `runs` counts the run ends that it rests on.
    `next` says what would make the two comparable.
    """

    a: str
    b: str
    kl: float | None = None
    difference: Estimate | None = None
    p_value: float = 1.0
    level: float = 1 - LEVEL
    alpha: float = LEVEL
    detectable: float | None = None
    scope: str = ""
    runs: int = 0
    prompts: int = 0
    why: str = ""
    next: str = ""
    noise: float = 0.0

    @property
    def distinct(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_value < self.alpha

    @property
    def verdict(self) -> str:
        """`better` or `worse` (a than b), `no difference`, or `not comparable`."""
        if self.difference is None or self.difference.se is None:
            return "not comparable"
        return ("better" if self.difference.value > 0 else "worse") if self.distinct else "no difference"

    def interval(self) -> tuple[float, float]:
        """(low, high) of the difference; not a number where there is none."""
        return self.difference.interval(self.level) if self.difference else (math.nan, math.nan)


@dataclass(frozen=True)
class Best:
    """The best run of an arm at its end, and its gain over the reference.

    Chosen among `among` runs on one half of the prompts; the gain is that on the other half, `prompts` in number. With
    one run nothing is chosen, and all prompts count.
    """

    arm: str
    run: str
    beta: float | None
    seed: int
    step: int
    gain: Estimate
    among: int
    prompts: int
    noise: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The answer of a study: `sentence` has it in words with its uncertainty, the rest are the numbers behind it.

    `axis` is "reward", "win rate" (by a judge), or "accuracy" where nothing scored the samples: then nothing is
    compared. `points` are of every checkpoint; frontiers and comparisons rest on the ends of finished runs alone.
    `alarms` are what a reader should worry about, `alarmed` why, by arm and noise; `caveats` are what limits the
    sentence. `secondary` are the same numbers on other axes, which the sentence does not rest on.
    """

    sentence: str
    axis: str
    axis_label: str
    points: tuple[Point, ...]
    frontiers: tuple[Frontier, ...]
    comparisons: tuple[Comparison, ...]
    best: tuple[Best, ...]
    alarms: tuple[str, ...]
    caveats: tuple[str, ...]
    judge: str = ""
    alarmed: dict[tuple[str, float], tuple[str, ...]] = field(default_factory=dict)
    secondary: tuple[Verdict, ...] = ()

    def at_noise(self, noise: float) -> Verdict:
        """The numbers at one rate of label noise."""
        return replace(
            self,
            points=tuple(point for point in self.points if point.noise == noise),
            frontiers=tuple(fit for fit in self.frontiers if fit.noise == noise),
            comparisons=tuple(pair for pair in self.comparisons if pair.noise == noise),
            best=tuple(best for best in self.best if best.noise == noise),
            alarmed={where: why for where, why in self.alarmed.items() if where[1] == noise},
            secondary=tuple(one.at_noise(noise) for one in self.secondary),
        )

    def record(self) -> dict[str, Any]:
        """`verdict.json`, schema 2; a number that is not there is null.

        Pairs on another axis than the record itself, or by another judge, are secondary.
        """
        return {
            "schema": 2,
            "sentence": self.sentence,
            "axis": self.axis,
            "judge": self.judge,
            "pairs": [_pair_record(pair, one) for one in (self, *self.secondary) for pair in one.comparisons],
            "arms": [_arm_record(fit, self) for fit in self.frontiers],
            "alarms": list(self.alarms),
            "caveats": list(self.caveats),
        }


def _pair_record(pair: Comparison, answer: Verdict) -> dict[str, Any]:
    low, high = pair.interval()
    told = pair.difference is not None
    numbers = {"kl": pair.kl, "difference": pair.difference.value if pair.difference else None}
    numbers |= {"low": low, "high": high, "p_value": pair.p_value if told else None, "detectable": pair.detectable}
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in numbers.items()}
    words = {"scope": pair.scope, "verdict": pair.verdict, "why": pair.why, "next": pair.next}
    where = {"a": pair.a, "b": pair.b, "noise": pair.noise, "judge": answer.judge, "axis": answer.axis}
    return where | finite | {"level": pair.level, "runs": pair.runs, "prompts": pair.prompts} | words


def _arm_record(fit: Frontier, answer: Verdict) -> dict[str, Any]:
    best = next((best for best in answer.best if (best.arm, best.noise) == (fit.arm, fit.noise)), None)
    record: dict[str, Any] = {"arm": fit.arm, "noise": fit.noise, "alpha": fit.alpha, "gamma": fit.gamma}
    record |= {"curved": fit.curved, "runs": fit.points, "low": fit.low, "high": fit.high}
    record |= {"alarms": list(answer.alarmed.get((fit.arm, fit.noise), ()))}
    if best:
        run = {"run": best.run, "beta": best.beta, "seed": best.seed, "step": best.step, "among": best.among}
        record |= {"best": run | {"gain": best.gain.value, "se": best.gain.se, "prompts": best.prompts}}
    return record


# --- where two arms can be compared -----------------------------------------------------------------------------------


def place(a: Sequence[Point], b: Sequence[Point]) -> float | None:
    """d*, the distance at which two arms are compared, from their run ends; None if there is none.

    It is the middle of what lies between the second-smallest and the second-largest run end of both: a single lucky KL
    decides nothing. Only where there is no such place may the origin, where every gain is exactly 0, stand for the two
    smallest, if the arm's nearest run has d ≤ 1.25 d*.
    """
    for origin in (False, True):
        (low_a, high_a), (low_b, high_b) = _reach(a, origin), _reach(b, origin)
        low, high = max(low_a, low_b), min(high_a, high_b)
        if low <= high:
            return (low + high) / 2
    return None


def _reach(points: Sequence[Point], origin: bool = True) -> tuple[float, float]:
    """The distances at which an arm can be compared, from the lowest to the highest."""
    d = sorted(math.sqrt(point.kl) for point in points)
    if not d:
        return math.inf, -math.inf
    return (d[0] / NEAR if origin else d[min(1, len(d) - 1)]), d[max(len(d) - 2, 0)]


def bracket(points: Sequence[Point]) -> tuple[float, float] | None:
    """From which KL to which (nats) the run ends of an arm allow a comparison; None if it has none.

    With two ends nothing lies between the second-smallest and the second-largest, and the origin stands in.
    """
    ends = [point for point in points if point.end and point.kl > 0]
    low, high = _reach(ends, origin=False)
    if low > high:
        low, high = _reach(ends)
    return (low**2, high**2) if ends else None


def _apart(a: Sequence[Point], b: Sequence[Point]) -> tuple[str, str]:
    """Why two arms that are not at the same distance cannot be compared, and which run would change that."""
    near, far = sorted((a, b), key=lambda points: _reach(points)[1])
    spans = [f"{p[0].arm}'s run ends allow {_reach(p)[0] ** 2:.2g} to {_reach(p)[1] ** 2:.2g} nats" for p in (a, b)]
    return f"they share no range of KL ({' and '.join(spans)})", _proposal(near, math.sqrt(math.prod(_reach(far))))


def _proposal(points: Sequence[Point], d: float) -> str:
    """The β at which an arm would get so far, at most a factor of 4 away: log KL is about linear in log β."""
    kls: dict[float, list[float]] = {}
    for point in points:
        if point.beta is not None and point.kl > 0:
            kls.setdefault(point.beta, []).append(math.log(point.kl))
    if not kls:
        return f"runs of {points[0].arm} that end farther from the reference would change that"
    x, y = np.log(list(kls)), np.array([np.mean(values) for values in kls.values()])
    slope = float(np.polyfit(x, y, 1)[0]) if len(x) > 1 else -1.0
    slope = min(slope, -0.25)
    nearest = int(np.argmax(y))
    shift = (2 * math.log(d) - float(y[nearest])) / slope
    bounded = min(max(shift, -math.log(STEP)), math.log(STEP))
    effect = "would change that" if shift == bounded else "would bring them closer"
    return f"two runs or more of {points[0].arm} at β = {math.exp(x[nearest] + bounded):.2g} {effect}"


# --- comparing --------------------------------------------------------------------------------------------------------


KNOWN = Spread(dimensions=FEWEST)  # of runs that are compared as they are: nothing lies between them


@dataclass(frozen=True)
class _Arm:
    """The run ends of an arm away from the reference, their means per prompt, and how they are fitted."""

    frontier: Frontier
    points: Sequence[Point]
    table: PerPrompt | None
    fit: Fit

    @property
    def units(self) -> list[str]:
        return [point.unit for point in self.points]

    def spread(self) -> Spread:
        """What the residuals say of the variance between units."""
        if self.table is None:
            covariance = np.diag([(point.gain_se or 0.0) ** 2 for point in self.points])
        else:
            covariance = np.atleast_2d(np.cov(self.table.gain)) / self.table.gain.shape[1]
        return spread_of(self.fit, np.array([point.gain for point in self.points]), self.units, covariance)

    def without_each_prompt(self, at: float) -> Floats:
        """The gain at d = `at`, `[prompts]`, fitted anew without each prompt."""
        assert self.table is not None
        kl, gain = (_without_each(values) for values in (self.table.kl, self.table.gain))
        left = replace(self.fit, d=np.sqrt(kl.clip(0)))
        return np.asarray((left.contrast(at) * gain).sum(-1))


def _without_each(values: Floats) -> Floats:
    """Means over all prompts but one, `[prompts, points]`, of values `[points, prompts]`."""
    return np.asarray(((values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)).T)


def compare(
    frontiers: Sequence[Frontier], ends: Sequence[Point], table: PerPrompt | None, *, these_runs: bool = False
) -> tuple[Comparison, ...]:
    """Every pair of arms at a distance between the run ends of both, before any correction (`corrected`).

    `ends` are the ends of finished runs, `table` their means per prompt. The error is that of `regression`: over
    prompts, paired between the arms and with the noise of their KL (jackknife), and over units. Without `table` the
    errors of the points are added up as if an arm's were all one error, which is wider than the truth. With
    `these_runs` the error is over prompts alone, and what it says is of these runs and not of their methods.
    """
    arms = [_arm(frontier, ends, table) for frontier in frontiers]
    spreads = [KNOWN] * len(arms) if these_runs else pooled([arm.spread() for arm in arms])
    pairs = itertools.combinations(zip(arms, spreads, strict=True), 2)
    return tuple(_compare_pair(a, b, (of_a, of_b)) for (a, of_a), (b, of_b) in pairs)


def _arm(frontier: Frontier, ends: Sequence[Point], table: PerPrompt | None) -> _Arm:
    rows = [i for i, point in enumerate(ends) if point.arm == frontier.arm and point.kl > 0]
    points = [ends[i] for i in rows]
    fit = Fit(distances(points), [point.setting for point in points], frontier.curved)
    return _Arm(frontier, points, table.rows(rows) if table else None, fit)


def _compare_pair(a: _Arm, b: _Arm, spreads: tuple[Spread, Spread]) -> Comparison:
    prompts = a.table.gain.shape[1] if a.table else 0
    runs = len(a.points) + len(b.points)
    pair = Comparison(a.frontier.arm, b.frontier.arm, runs=runs, prompts=prompts)
    at = place(a.points, b.points)
    if at is None:
        why, following = _apart(a.points, b.points)
        return replace(pair, why=why, next=following)
    if min(spread.dimensions for spread in spreads) < FEWEST:
        why = "too few finished runs to tell a method from a run"
        return replace(pair, kl=at**2, why=why, next="more seeds of each arm would change that")
    over_prompts = _over_prompts(a, b, at)
    if over_prompts is None:
        following = "more held-out prompts, with samples of every run, would change that"
        return replace(pair, kl=at**2, why="the errors over prompts are not known", next=following)
    shares = [share_of(arm.fit.contrast(at), arm.fit.d, arm.units) for arm in (a, b)]
    clusters = a.table.df + 1 if a.table and a.table.df is not None else prompts or 2
    variance, df = total_variance(over_prompts, clusters, list(map(Part, spreads, shares)))
    value = a.frontier.at(at**2) - b.frontier.at(at**2)
    difference = Estimate(value, math.sqrt(variance), df if prompts else math.inf)
    scope = "over prompts, of these runs" if spreads[0] is KNOWN else _scope([*a.points, *b.points])
    return replace(pair, kl=at**2, difference=difference, scope=scope)


def _over_prompts(a: _Arm, b: _Arm, at: float) -> float | None:
    """The variance of the difference over prompts: frontiers fitted anew without each prompt (jackknife)."""
    if a.table and b.table:
        values = a.without_each_prompt(at) - b.without_each_prompt(at)
        return float((len(values) - 1) * values.var())
    errors = [np.array([math.nan if p.gain_se is None else p.gain_se for p in arm.points]) for arm in (a, b)]
    sizes = [float(np.abs(arm.fit.contrast(at)) @ of) for arm, of in zip((a, b), errors, strict=True)]
    return None if math.isnan(sum(sizes)) else sizes[0] ** 2 + sizes[1] ** 2


def _scope(points: Sequence[Point]) -> str:
    """Over what an interval is: prompts, and runs or seeds; or conditional on the only seed of some arm."""
    sharing = [point for point in points if point.shares]
    if not sharing:
        return f"over prompts and {len({point.unit for point in points})} runs"
    seeds = {arm: {point.seed for point in sharing if point.arm == arm} for arm in {point.arm for point in sharing}}
    if min(map(len, seeds.values())) < 2:
        return "over prompts and runs, conditional on one seed"
    return f"over prompts and {len({point.seed for point in points})} seeds"


def corrected(pairs: Sequence[Comparison], spend: float = LEVEL) -> tuple[Comparison, ...]:
    """The comparisons corrected (Holm 1979) for having made all of these, of which some is false at a rate of `spend`.

    From the smallest p on, the k-th of m is judged at spend/(m − k + 1), until one is not told apart: from there on all
    are judged as that one. A pair's interval has that level, and `detectable` the first one's, which is the strictest.
    """
    made = sorted((i for i, pair in enumerate(pairs) if pair.difference), key=lambda i: _raw_p(pairs[i]))
    found, running, alpha = list(pairs), 0.0, spend / max(len(made), 1)
    failed = False
    for rank, i in enumerate(made):
        left, raw = len(made) - rank, _raw_p(pairs[i])
        alpha = alpha if failed else spend / left
        failed = failed or raw >= alpha
        running = max(running, min(1.0, left * raw))
        seen = detectable_difference(pairs[i].difference, spend / len(made))
        found[i] = replace(pairs[i], p_value=running, level=1 - alpha, alpha=spend, detectable=seen)
    return tuple(found)


def _raw_p(pair: Comparison) -> float:
    return pair.difference.p_value if pair.difference else 1.0


def detectable_difference(difference: Estimate | None, alpha: float) -> float | None:
    """The difference that is told apart at this level with a probability of 80%."""
    if difference is None or difference.se is None:
        return None
    return (student(1 - alpha / 2, difference.df) + student(POWER, difference.df)) * difference.se


def best_run(arm: str, ends: Sequence[Point], table: PerPrompt) -> Best:
    """The arm's run with the highest gain at its end on even prompts, reported on the odd ones."""
    rows = [i for i, point in enumerate(ends) if point.arm == arm]
    chosen, judged = rows[0], table.gain
    if len(rows) > 1:
        chosen = max(rows, key=lambda i: float(table.gain[i, ::2].mean()))
        judged = table.gain[:, 1::2]
    point, gains = ends[chosen], judged[chosen]
    gain = clustered_mean(gains, range(len(gains)))
    return Best(arm, point.run, point.beta, point.seed, point.step, gain, among=len(rows), prompts=len(gains))
