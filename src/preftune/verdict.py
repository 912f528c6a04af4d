"""What a study may say: a frontier for every arm, arms compared at the same KL, best runs, alarms, one sentence.

d = √KL is the distance from the reference; a frontier is the fit gain = d(α − γ·d) over all points of an arm (Gao
et al. 2022, arXiv 2210.10760), never the best of its points, which would reward having more of them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .alarms import UNMOVED, WORSE, last_quarter, loss_above_reference, unmoved
from .results import REFERENCE, Result, StudyRecord
from .stats import (
    Estimate,
    Floats,
    Indices,
    clustered_mean,
    holm,
    number,
    over_seeds,
    paired_bootstrap,
    with_seeds,
)

REWARD = "reward"
PROXY = "proxy"  # what a learned reward thinks of samples, over what it thinks of the reference's
ACCURACY = "accuracy"
CHANCE = 0.5  # held-out accuracy of the reference itself: every margin is 0, and ties count half
LEVEL = 0.05  # how small a corrected p-value must be before a difference is called one
ROUNDING = 1e-3  # nats: a KL this little below 0 is 0 but for rounding
GROWTH = 1.25  # samples this many times as long as the reference's raise an alarm


@dataclass(frozen=True)
class Point:
    """A run at a checkpoint: KL in nats, and gain over the reference in the units of the vertical axis."""

    run: str
    arm: str
    beta: float | None
    seed: int
    step: int
    kl: float
    kl_se: float | None
    gain: float
    gain_se: float | None
    noise: float = 0.0


@dataclass(frozen=True)
class Frontier:
    """gain = d(alpha − gamma·d) at d = √KL, fitted over `points` points whose KL lies in [low, high] nats.

    With fewer than three distinct d only the linear term is fitted: `curved` is False and gamma is 0.
    """

    arm: str
    alpha: float
    gamma: float
    curved: bool
    points: int
    low: float
    high: float
    noise: float = 0.0

    def at(self, kl: float) -> float:
        """The fitted gain at a KL in nats."""
        d = math.sqrt(kl)
        return d * (self.alpha - self.gamma * d)

    @property
    def form(self) -> str:
        """The fit in words."""
        alpha, gamma = number(self.alpha, 0.01), number(self.gamma, 0.01)
        over = f"by least squares over all {self.points} points"
        if not self.curved:
            return f"{self.arm}: α·d, α = {alpha}, {over}; fewer than three distinct ones, so no term in d²"
        return f"{self.arm}: d(α − γ·d), α = {alpha}, γ = {gamma}, {over}"


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


@dataclass(frozen=True)
class PerPrompt:
    """Means of each prompt at each point: kl and gain [points, prompts]."""

    kl: Floats
    gain: Floats

    def rows(self, chosen: Sequence[int]) -> PerPrompt:
        """The same for some of the points."""
        return PerPrompt(self.kl[chosen], self.gain[chosen])


def verdict(study: StudyRecord) -> Verdict:
    """Everything that the study's numbers support, and no more.

    Arms are compared within one rate of label noise, and corrected for all comparisons of the study.
    """
    scored = not study.trained() or any(row.gain is not None for row in study.trained())
    axis = REWARD if scored else ACCURACY
    found = [_evidence(study.at_noise(noise), axis) for noise in study.noises()]
    pairs = corrected([pair for evidence in found for pair in evidence.comparisons])
    notes = dict.fromkeys(note for evidence in found for note in evidence.notes)
    paired = all(evidence.paired for evidence in found)
    answer = Verdict(
        sentence="",
        axis=axis,
        axis_label=_axis_label(study, axis),
        points=tuple(point for evidence in found for point in evidence.points),
        frontiers=tuple(fit for evidence in found for fit in evidence.frontiers),
        comparisons=pairs,
        best=tuple(best for evidence in found for best in evidence.best),
        alarms=alarms(study),
        caveats=(*study.notes, *notes, *_caveats(study, axis, paired)),
    )
    sentences = [_sentence(study.at_noise(noise), answer.at_noise(noise)) for noise in study.noises()]
    if len(sentences) == 1:
        return replace(answer, sentence=sentences[0])
    told = zip(study.noises(), sentences, strict=True)
    return replace(answer, sentence=" ".join(f"{noise_in_words(noise)}: {sentence}" for noise, sentence in told))


def noise_in_words(noise: float) -> str:
    """`With 20% of the training votes flipped`."""
    return f"With {100 * noise:.3g}% of the training votes flipped"


class Evidence(NamedTuple):
    """The numbers at one rate of label noise, and whether their errors are paired over prompts."""

    points: tuple[Point, ...]
    frontiers: tuple[Frontier, ...]
    comparisons: tuple[Comparison, ...]
    best: tuple[Best, ...]
    notes: list[str]
    paired: bool


def _evidence(study: StudyRecord, axis: str) -> Evidence:
    points, table, notes = _points(study, axis)
    noise = study.noises()[0]
    reached = {point.arm for point in points}
    arms = [arm for arm in dict.fromkeys([*study.info["arms"], *sorted(reached)]) if arm in reached]
    fits = tuple(fit for arm in arms if (fit := fit_frontier([p for p in points if p.arm == arm])))
    best = tuple(replace(best_run(arm, points, table), noise=noise) for arm in arms) if table else ()
    pairs = tuple(replace(pair, noise=noise) for pair in compare(fits, points, table))
    return Evidence(points, fits, pairs, best, notes, table is not None)


def proxy_view(study: StudyRecord, answer: Verdict) -> Verdict | None:
    """The same runs by the learned reward instead of the gold one: points and frontiers. None if there is none."""
    points = tuple(
        replace(point, gain=row.extra[PROXY], gain_se=row.extra.get(f"{PROXY}_se"))
        for row in study.trained()
        if PROXY in row.extra and (point := _point(row, answer.axis))
    )
    if not points:
        return None
    groups = dict.fromkeys((p.arm, p.noise) for p in points)
    fits = (fit_frontier([p for p in points if (p.arm, p.noise) == group]) for group in groups)
    label = "gain in the learned reward, nats"
    return replace(
        answer,
        points=points,
        frontiers=tuple(fit for fit in fits if fit),
        comparisons=(),
        axis=REWARD,
        axis_label=label,
    )


def run_name(arm: str, beta: float | None, seed: int | None = None, noise: float | None = None) -> str:
    """A run as a reader knows it, such as `dpo β=0.1 noise 0.2 seed 0`."""
    told = ((" β=", beta), (" noise ", noise), (" seed ", seed))
    return arm + "".join(f"{word}{value:g}" for word, value in told if value is not None)


def run_names(study: StudyRecord) -> dict[str, str]:
    """The name of every run by its id; seed and noise are told where the study has several."""
    names = {row.run: told_name(study, row.arm, row.beta, row.seed, row.noise) for row in study.trained()}
    return {REFERENCE: REFERENCE} | names


def told_name(study: StudyRecord, arm: str, beta: float | None, seed: int | None, noise: float) -> str:
    """`run_name` with the seed and the noise only where the study has several."""
    several_seeds, several_noises = len(study.info["seeds"]) > 1, len(study.noises()) > 1
    return run_name(arm, beta, seed if several_seeds else None, noise if several_noises else None)


# --- points -----------------------------------------------------------------------------------------------------------


def _points(study: StudyRecord, axis: str) -> tuple[tuple[Point, ...], PerPrompt | None, list[str]]:
    """One point per run and checkpoint with a place on both axes; means per prompt where samples allow; notes."""
    points = [point for row in study.trained() if (point := _point(row, axis))]
    missing = len(study.trained()) - len(points)
    notes = [f"{missing} checkpoints have no usable KL or no {axis} and are not drawn."] if missing else []
    if axis == ACCURACY:
        return tuple(points), None, notes
    table, left_out = _per_prompt(study, points)
    if left_out:
        notes.append(f"{left_out} prompts lack a scored sample at some checkpoint and are left out.")
    if table is None:
        return tuple(points), None, [*notes, "There are no samples of the same prompts everywhere to pair over."]
    return tuple(_measured(point, table, i) for i, point in enumerate(points)), table, notes


def _point(row: Result, axis: str) -> Point | None:
    gain = row.gain if axis == REWARD else None if row.accuracy is None else row.accuracy - CHANCE
    if row.kl is None or gain is None or not math.isfinite(row.kl) or not math.isfinite(gain) or row.kl < -ROUNDING:
        return None
    gain_se = row.gain_se if axis == REWARD else row.accuracy_se
    return Point(row.run, row.arm, row.beta, row.seed, row.step, max(row.kl, 0.0), row.kl_se, gain, gain_se, row.noise)


def _measured(point: Point, table: PerPrompt, index: int) -> Point:
    """The point with its means and errors from the samples."""
    prompts = range(table.kl.shape[1])
    kl, gain = clustered_mean(table.kl[index], prompts), clustered_mean(table.gain[index], prompts)
    return replace(point, kl=max(kl.value, 0.0), kl_se=kl.se, gain=gain.value, gain_se=gain.se)


def _per_prompt(study: StudyRecord, points: Sequence[Point]) -> tuple[PerPrompt | None, int]:
    """Means over the samples of each prompt that all points and the reference have, and how many prompts they lack."""
    kls: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    rewards: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in study.samples:
        if sample.reward is not None and math.isfinite(sample.reward) and math.isfinite(sample.kl):
            kls[sample.run, sample.step][sample.prompt_id].append(sample.kl)
            rewards[sample.run, sample.step][sample.prompt_id].append(sample.reward)
    keys = [(point.run, point.step) for point in points]
    shared = set.intersection(*(set(rewards[key]) for key in [(REFERENCE, 0), *keys]))
    left_out = len({sample.prompt_id for sample in study.samples}) - len(shared)
    if not points or len(shared) < 2:
        return None, left_out

    def means(of: Mapping[tuple[str, int], Mapping[int, Sequence[float]]], key: tuple[str, int]) -> Floats:
        return np.array([np.mean(of[key][prompt]) for prompt in sorted(shared)])

    start = means(rewards, (REFERENCE, 0))
    kl = np.stack([means(kls, key) for key in keys])
    return PerPrompt(kl, np.stack([means(rewards, key) - start for key in keys])), left_out


# --- frontiers --------------------------------------------------------------------------------------------------------


def fit_frontier(points: Sequence[Point]) -> Frontier | None:
    """The frontier of one arm's points: least squares through the origin on d and d². None if none left the origin."""
    away = [point for point in points if point.kl > 0]
    if not away:
        return None
    d = np.sqrt([point.kl for point in away])
    curved = len(np.unique(d.round(6))) >= 3
    alpha, gamma = _coefficients(d, np.array([point.gain for point in away]), curved)
    low, high = float(d.min()) ** 2, float(d.max()) ** 2
    return Frontier(away[0].arm, float(alpha), float(gamma), curved, len(away), low, high, away[0].noise)


def _coefficients(d: Floats, gain: Floats, curved: bool) -> tuple[Floats, Floats]:
    """(α, γ), each [...], of the least-squares fit to d and gain [..., points]; γ = 0 if not curved.

    In two steps, for the sake of accuracy: on d, then on the part of d² that d does not explain.
    """
    square = (d * d).sum(-1)
    alpha = _ratio((d * gain).sum(-1), square)
    if not curved:
        return alpha, np.zeros_like(alpha)
    lean = _ratio((d**3).sum(-1), square)
    rest = d * d - lean[..., None] * d
    gamma = -_ratio((rest * gain).sum(-1), (rest * rest).sum(-1))
    return alpha + gamma * lean, gamma


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom [...], 0 where bottom is."""
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)


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
        alpha, gamma = _coefficients(d, shares @ rows.gain.T, curved)
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
        alpha, gamma = _coefficients(np.sqrt([point.kl for point in points]), np.eye(len(points)), fit.curved)
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


# --- alarms -----------------------------------------------------------------------------------------------------------


def alarms(study: StudyRecord) -> tuple[str, ...]:
    """What a reader should worry about: one sentence for each kind of trouble, with the runs that have it."""
    kinds = {
        "The KL is not a number, so the policy or its evaluation is broken": _no_kl(study),
        "The KL is negative, which no KL can be, so its evaluation is wrong": _negative_kl(study),
        "The loss is not a number": _no_loss(study),
        f"The loss ended above the reference's own on the same votes: {WORSE} (the two over the last quarter of "
        "training)": _loss_rose(study),
        UNMOVED[0].upper() + UNMOVED[1:]: _unmoved(study),
        "Preferred and other responses both became less likely than under the reference, so probability went to "
        "responses that nobody compared (log-ratios in nats over the last quarter of training)": _both_fell(study),
        "Samples grew more than a quarter longer than the reference's, so part of a gain may be length": _longer(study),
        "The reward rose while a second opinion fell, so the reward may be gamed": _second_opinion_fell(study),
        "The learned reward went on rising while gold fell from its best, which is over-optimisation (gold at its "
        "best and at the end)": _over_optimised(study),
    }
    return tuple(f"{trouble}: {_listed(cases)}." for trouble, cases in kinds.items() if cases)


def _listed(cases: Sequence[str], most: int = 6) -> str:
    more = [f"and {len(cases) - most} more"] if len(cases) > most else []
    return "; ".join([*cases[:most], *more])


def _no_kl(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.results if row.kl is not None and not math.isfinite(row.kl)]
    return [f"{names[row.run]} at step {row.step}" for row in rows]


def _negative_kl(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.results if row.kl is not None and row.kl < -ROUNDING]
    return [f"{names[row.run]} at step {row.step} ({number(row.kl or 0, row.kl or 0)} nats)" for row in rows]


def _no_loss(study: StudyRecord) -> list[str]:
    names = run_names(study)
    first = {
        run: step["step"]
        for run, steps in study.metrics.items()
        for step in reversed(steps)
        if not math.isfinite(step.get("loss", 0.0))
    }
    return [f"{names.get(run, run)} from step {step:.0f} on" for run, step in first.items()]


def _both_fell(study: StudyRecord) -> list[str]:
    names, cases = run_names(study), []
    for run, steps in study.metrics.items():
        preferred, other = (last_quarter(steps, f"log_ratio_{side}") for side in ("preferred", "other"))
        if preferred and other and preferred.interval()[1] < 0 and other.interval()[1] < 0:
            cases.append(f"{names.get(run, run)}: {preferred.value:.2f} and {other.value:.2f}".replace("-", "−"))
    return cases


def _loss_rose(study: StudyRecord) -> list[str]:
    names = run_names(study)
    ends = {run: loss_above_reference(steps) for run, steps in study.metrics.items()}
    return [f"{names.get(run, run)}: {both[0]:.3g} and {both[1]:.3g}" for run, both in ends.items() if both]


def _unmoved(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.finals() if row.step > 0 and unmoved(row.accuracy, row.accuracy_se)]
    return [f"{names[row.run]} at step {row.step}" for row in rows]


def _longer(study: StudyRecord) -> list[str]:
    names, reference = run_names(study), study.reference()
    start = (reference and reference.length) or math.inf
    rows = [row for row in study.finals() if (row.length or 0) > GROWTH * start and (row.gain is None or row.gain > 0)]
    return [f"{names[row.run]}: {row.length:.0f} tokens against {start:.0f}" for row in rows]


def _second_opinion_fell(study: StudyRecord) -> list[str]:
    names, reference = run_names(study), study.reference()
    before = reference.extra if reference else {}
    return [
        f"{names[row.run]}: {name} from {before[name]:.2f} to {value:.2f}".replace("-", "−")
        for row in study.finals()
        for name, value in row.extra.items()
        if name in before and f"{name}_se" in row.extra and f"{name}_se" in before and (row.gain or 0) > 0
        if value - before[name] < -2 * math.hypot(row.extra[f"{name}_se"], before[f"{name}_se"])
    ]


def _over_optimised(study: StudyRecord) -> list[str]:
    """Runs whose gold has fallen from an earlier checkpoint by two errors, the learned reward not having fallen."""
    names, cases = run_names(study), []
    for last in study.finals():
        rows = [row for row in study.trained() if row.run == last.run and row.gain is not None and PROXY in row.extra]
        best = max(rows, key=lambda row: row.gain or 0.0, default=last)
        if best is last or last.gain is None or best.gain is None or PROXY not in last.extra:
            continue
        error = math.hypot(best.gain_se or 0.0, last.gain_se or 0.0)
        if best.gain - last.gain > 2 * error and last.extra[PROXY] >= best.extra[PROXY]:
            cases.append(f"{names[last.run]}: {best.gain:.2f} and {last.gain:.2f}".replace("-", "−"))
    return cases


# --- words ------------------------------------------------------------------------------------------------------------


def _axis_label(study: StudyRecord, axis: str) -> str:
    if axis == ACCURACY:
        return "held-out accuracy"
    gold = study.info.get("gold") or {}
    return f"gain in {gold.get('name', 'reward')} over the reference"


def _sentence(study: StudyRecord, answer: Verdict) -> str:
    expected, unfinished = len(study.expected()), len(study.unfinished())
    if not study.trained():
        return f"Nothing has been evaluated yet: none of the {expected} runs has reached a checkpoint."
    parts = [
        f"So far {expected - unfinished} of {expected} runs have finished." if unfinished else "",
        "Nothing scored the samples, so no quality is claimed, only agreement with held-out votes."
        if answer.axis == ACCURACY
        else "",
        "" if answer.points else "Nothing has both a KL and a place on the vertical axis, so there is no frontier.",
        _told_apart(answer.comparisons, answer.axis),
        _above_reference(answer.best, run_names(study)),
    ]
    return " ".join(part for part in parts if part)


def _told_apart(comparisons: Sequence[Comparison], axis: str) -> str:
    made = [pair for pair in comparisons if pair.difference]
    if len(comparisons) == 1:
        return _pair_in_words(comparisons[0], axis) + "."
    if not made:
        return "No two arms have reached the same KL, so none can be compared." if comparisons else ""
    found = [pair for pair in made if pair.distinct]
    if not found:
        return f"None of the {len(made)} pairs of arms compared at the same KL can be told apart (Holm-corrected)."
    clear = "; ".join(_pair_in_brief(pair) for pair in found)
    counts = f"Of {len(made)} pairs of arms compared at the same KL, {len(found)} can be told apart (Holm-corrected)"
    scope = _scope(min(pair.seeds for pair in found))
    more = "reward" if axis == REWARD else "held-out accuracy"
    return f"{counts}: {clear} in {more} (95% intervals {scope})."


def _pair_in_words(pair: Comparison, axis: str) -> str:
    if pair.difference is None or pair.kl is None:
        return f"{pair.a} and {pair.b} cannot be compared at the same KL: {pair.why_not}"
    value, se = pair.difference.value, pair.difference.se
    if se is None:
        return f"{pair.a} and {pair.b} cannot be told apart: the error of their difference is unknown"
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.difference.interval())
    more = "gains more reward than" if axis == REWARD else "agrees with more held-out votes than"
    lead = f"{ahead} {more} {behind}" if pair.distinct else f"{pair.a} and {pair.b} cannot be told apart"
    size = f"{ahead}'s frontier lies {number(abs(value), se)} above {behind}'s"
    return (
        f"{lead}: at the same KL of {pair.kl:.2g} nats {size} (95% interval {number(low, se)} to {number(high, se)}, "
        f"{_scope(pair.seeds)})"
    )


def _pair_in_brief(pair: Comparison) -> str:
    assert pair.difference is not None and pair.difference.se is not None
    value, se = pair.difference.value, pair.difference.se
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.difference.interval())
    return f"{ahead} leads {behind} by {number(abs(value), se)} ({number(low, se)} to {number(high, se)})"


def _scope(seeds: int) -> str:
    return f"over prompts and {seeds} seeds" if seeds >= 2 else "over prompts, conditional on these runs"


def _above_reference(best: Sequence[Best], names: Mapping[str, str]) -> str:
    if not best:
        return ""
    runs = [f"{names[b.run]} gains {b.gain}{_strength(b.gain)}" for b in best]
    chosen = any(b.among > 1 for b in best)
    halves = " (chosen on half of the prompts, reported on the other half)" if chosen else ""
    return f"Best run of each arm against the reference{halves}: {'; '.join(runs)}."


def _strength(gain: Estimate) -> str:
    if gain.z is None:
        return ""
    told = "" if gain.p_value < LEVEL else ", not to be told from 0"
    return f" (z = {gain.z:.1f}{told})".replace("-", "−")


def _caveats(study: StudyRecord, axis: str, paired: bool) -> Iterable[str]:
    if study.unfinished():
        several = len(study.noises()) > 1
        names = [run_name(arm, beta, seed, noise if several else None) for arm, beta, seed, noise in study.unfinished()]
        yield f"The study is partial. Not finished: {_listed(names)}."
    if failed := [f"{run} ({reason})" for run, reason in study.info["failed"].items()]:
        yield f"Runs failed; what they had reached before is drawn: {_listed(failed)}."
    if len(study.info["seeds"]) < 2:
        yield "One seed: intervals are over prompts only, conditional on these runs; another seed may answer otherwise."
    if axis == ACCURACY:
        yield "Held-out accuracy says how often the margins agree with held-out votes, not whether samples are better."
    if not paired and study.trained():
        yield "Errors are not paired over prompts; the interval of a difference is wider than it need be."
    short = [row for row in study.finals() if row.ended is not None and row.ended < 0.9]
    if short:
        share = min(row.ended or 0.0 for row in short)
        yield (
            f"As few as {share:.0%} of a run's samples ended within the token limit: KL and length are those of the "
            "length-limited policy."
        )
