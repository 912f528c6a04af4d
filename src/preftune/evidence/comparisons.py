"""Arms compared at the same KL, the best run of each, and the record of all that is said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .frontiers import Frontier, PerPrompt, Point, coefficients, fit_frontier
from .stats import Estimate, Floats, Indices, clustered_mean, holm, number, over_seeds, paired_bootstrap, with_seeds

LEVEL = 0.05  # how small a corrected p-value must be before a difference is called one


@dataclass(frozen=True)
class Comparison:
    """The frontier of arm `a` minus that of arm `b` at one `kl` (nats) that both have reached.

    `difference` is None where they cannot be compared, and `why_not` says why. `p_value` is corrected (Holm) for all
    comparisons of the study. `seeds` counts those that both arms have: from two on, the interval is over seeds too.
    """

    a: str
    b: str
    kl: float | None = None
    difference: Estimate | None = None
    p_value: float = 1.0
    seeds: int = 0
    why_not: str = ""
    noise: float = 0.0

    @property
    def distinct(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Best:
    """The best run of an arm at its last checkpoint, and its gain over the reference.

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

    `axis` is "reward", or "accuracy" where nothing scored the samples: then no quality is claimed. `alarms` are what a
    reader should worry about; `caveats` are what limits the sentence.
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

    def at_noise(self, noise: float) -> Verdict:
        """The numbers at one rate of label noise."""
        return replace(
            self,
            points=tuple(point for point in self.points if point.noise == noise),
            frontiers=tuple(fit for fit in self.frontiers if fit.noise == noise),
            comparisons=tuple(pair for pair in self.comparisons if pair.noise == noise),
            best=tuple(best for best in self.best if best.noise == noise),
        )


def compare(frontiers: Sequence[Frontier], points: Sequence[Point], table: PerPrompt | None) -> tuple[Comparison, ...]:
    """Every pair of arms at the middle (in d) of the distances that both have reached, Holm-corrected.

    With `table` the error is a bootstrap over prompts, paired between the arms. Without it the errors of the points
    are added up as if an arm's were all one error, which is wider than the truth. From two common seeds on, the
    variance between seeds is added. Deterministic.
    """
    return corrected([_compare_pair(a, b, points, table) for a, b in itertools.combinations(frontiers, 2)])


def corrected(pairs: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons with their p-values corrected (Holm) for having made all of these."""
    p_values = iter(holm([pair.difference.p_value for pair in pairs if pair.difference]))
    return tuple(replace(pair, p_value=next(p_values)) if pair.difference else pair for pair in pairs)


def _compare_pair(a: Frontier, b: Frontier, points: Sequence[Point], table: PerPrompt | None) -> Comparison:
    low, high = max(a.low, b.low), min(a.high, b.high)
    if low >= high:
        ranges = " and ".join(f"{f.arm} {number(f.low, f.low)} to {number(f.high, f.high)}" for f in (a, b))
        return Comparison(a.arm, b.arm, why_not=f"their checkpoints share no range of KL ({ranges} nats)")
    at = (math.sqrt(low) + math.sqrt(high)) / 2
    rows_a, rows_b = ([i for i, p in enumerate(points) if p.arm == f.arm and p.kl > 0] for f in (a, b))
    if table is None:
        difference = _from_errors(a, b, [points[i] for i in rows_a], [points[i] for i in rows_b], at)
    else:
        statistic = _refitted(table.rows(rows_a), table.rows(rows_b), (a.curved, b.curved), at)
        difference = paired_bootstrap(statistic, table.kl.shape[1])
    seeds = sorted({points[i].seed for i in rows_a} & {points[i].seed for i in rows_b})
    if len(seeds) >= 2:
        each = [_at_seed(a.arm, points, seed, at) - _at_seed(b.arm, points, seed, at) for seed in seeds]
        difference = with_seeds(difference, over_seeds(each))
    return Comparison(a.arm, b.arm, at**2, difference, seeds=len(seeds))


def _refitted(a: PerPrompt, b: PerPrompt, curved: tuple[bool, bool], at: float) -> Callable[[Indices], Floats]:
    """Prompt indices [..., n] -> frontier a minus frontier b at d = `at` [...], fitted to means over these prompts."""

    def fitted(rows: PerPrompt, curved: bool, shares: Floats) -> Floats:
        d = np.sqrt((shares @ rows.kl.T).clip(0))
        alpha, gamma = coefficients(d, shares @ rows.gain.T, curved)
        return np.asarray(at * (alpha - gamma * at))

    def statistic(prompts: Indices) -> Floats:
        shares = _shares(prompts, a.kl.shape[1])
        return fitted(a, curved[0], shares) - fitted(b, curved[1], shares)

    return statistic


def _shares(drawn: Indices, prompts: int) -> Floats:
    """Draws of prompts [..., n] -> the share of each prompt in its draw [..., prompts]: a mean is a product with it."""
    flat = drawn.reshape(-1, drawn.shape[-1])
    places = flat + prompts * np.arange(len(flat))[:, None]
    counts = np.bincount(places.ravel(), minlength=prompts * len(flat))
    return np.asarray(counts.reshape(*drawn.shape[:-1], prompts) / drawn.shape[-1])


def _at_seed(arm: str, points: Sequence[Point], seed: int, at: float) -> float:
    """The gain at d = `at` on the frontier of one seed of an arm."""
    fit = fit_frontier([point for point in points if point.arm == arm and point.seed == seed])
    return math.nan if fit is None else fit.at(at**2)


def _from_errors(a: Frontier, b: Frontier, points_a: Sequence[Point], points_b: Sequence[Point], at: float) -> Estimate:
    """The difference at d = `at` from the points' errors: within an arm they add, between the arms their squares do."""
    variance = 0.0
    for fit, points in ((a, points_a), (b, points_b)):
        alpha, gamma = coefficients(np.sqrt([point.kl for point in points]), np.eye(len(points)), fit.curved)
        share = at * (alpha - gamma * at)  # of the gain of each point in the fitted one
        errors = np.array([math.nan if point.gain_se is None else point.gain_se for point in points])
        variance += float(np.abs(share) @ errors) ** 2
    return Estimate(a.at(at**2) - b.at(at**2), None if math.isnan(variance) else math.sqrt(variance))


def best_run(arm: str, points: Sequence[Point], table: PerPrompt) -> Best:
    """The arm's run with the highest gain at its last checkpoint on even prompts, reported on the odd ones."""
    last: dict[str, int] = {}
    for i, point in enumerate(points):
        if point.arm == arm and (point.run not in last or point.step > points[last[point.run]].step):
            last[point.run] = i
    rows = list(last.values())
    chosen, judged = rows[0], table.gain
    if len(rows) > 1:
        chosen = max(rows, key=lambda i: float(table.gain[i, ::2].mean()))
        judged = table.gain[:, 1::2]
    point, gains = points[chosen], judged[chosen]
    gain = clustered_mean(gains, range(len(gains)))
    return Best(arm, point.run, point.beta, point.seed, point.step, gain, among=len(rows), prompts=len(gains))
