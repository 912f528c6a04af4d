"""The tables of a report: its results with their errors, its comparisons, its reward models, what it cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..evidence import (
    CHANCE,
    PROXY,
    REFERENCE,
    WIN_RATE,
    Comparison,
    Estimate,
    Result,
    Sample,
    StudyRecord,
    Verdict,
    clustered_mean,
    judges_of,
    namer,
    number,
    over_seeds,
    run_names,
)

COSTS = ("votes_seen", "tokens_trained", "tokens_sampled")
DIGITS = 0.002  # of the largest number of a column: what is smaller is not printed, however small the errors are
BASELINES = {"tfidf": "TF-IDF, logistic", "length": "length alone"}


class Column(NamedTuple):
    """A column of the table of results: a mean with its standard error, read from a row."""

    title: str
    unit: str
    read: Callable[[Result], Estimate | None]


class Line(NamedTuple):
    """A row of the table: who, at which step, and an estimate per column, None where there is none."""

    arm: str
    name: str
    step: str
    values: tuple[Estimate | None, ...]
    minor: bool = False


def comparison_row(pair: Comparison, several_noises: bool) -> Mapping[str, str]:
    """A comparison as a row of its table."""
    arms = f"{pair.a} − {pair.b}" + (f", noise {pair.noise:g}" if several_noises else "")
    why = f"not comparable: {pair.why}" + (f"; {pair.next}" if pair.next else "")
    row = {"pair": arms, "kl": "", "difference": "", "interval": "", "p": "", "answer": why}
    if pair.difference is None or pair.kl is None:
        return row
    se = pair.difference.se or math.nan
    low, high = (number(end, se) for end in pair.interval())
    return row | {
        "kl": f"{pair.kl:.2g}",
        "difference": str(pair.difference),
        "interval": f"{low} to {high} ({100 * pair.level:.3g}%)",
        "p": "< 0.001" if pair.p_value < 0.001 else f"{pair.p_value:.3f}",
        "answer": pair.verdict if pair.distinct else f"no difference found; {pair.detectable:.2g} could have been seen",
    }


class BestRow(NamedTuple):
    """The best run of an arm, and what it gains over the reference."""

    arm: str
    name: str
    gain: str


def best_rows(study: StudyRecord, answer: Verdict) -> list[BestRow]:
    """The best run of every arm, at each rate of label noise."""
    names = run_names(study)
    return [BestRow(best.arm, names[best.run], _signed(best.gain)) for best in answer.best]


def _signed(gain: Estimate) -> str:
    return f"+{gain}" if gain.value > 0 else str(gain)


def reward_rows(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, accuracy, log-loss) on held-out votes: of each seed's reward model, then of the baselines."""
    seeds = {seed: info for seed, info in reward.items() if _mapping(_mapping(info).get("held_out"))}
    several = len(seeds) > 1
    rows = [(f"reward model, seed {n}" if several else "reward model", info["held_out"]) for n, info in seeds.items()]
    first: Mapping[str, Any] = next(iter(seeds.values()), {})
    rows += [(BASELINES.get(name, name), info) for name, info in _mapping(first.get("baselines")).items()]
    return [(name, *_quality(info)) for name, info in rows]


def judge_fits(study: StudyRecord) -> list[tuple[str, str, str]]:
    """The same of every judge that was fitted, with its baselines."""
    return [
        (name if what == "reward model" else what, accuracy, log_loss)
        for name, fit in fits_of_judges(study).items()
        for what, accuracy, log_loss in reward_rows({name: fit})
    ]


def fits_of_judges(study: StudyRecord) -> dict[str, Any]:
    """What was recorded of the judges that were fitted, by `judge` and their name."""
    return {f"judge {name}": judge["fit"] for name, judge in judges_of(study).items() if judge.get("fit")}


def _quality(held_out: Any) -> tuple[str, str]:
    """Accuracy in per cent and log-loss in nats, each with its error."""
    info = _mapping(held_out)
    return _told(info.get("accuracy"), 100), _told(info.get("log_loss"), 1)


def _told(estimate: Any, times: float) -> str:
    value, se = _mapping(estimate).get("value"), _mapping(estimate).get("se")
    if not isinstance(value, int | float):
        return "–"
    return str(Estimate(times * value, times * se if isinstance(se, int | float) else None))


def preference_rows(study: StudyRecord) -> list[tuple[str, str, str, str]]:
    """(arm, whose preference, accuracy, log-loss) on held-out votes of what amortized-ipo was told by, told once."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    name_of = namer(study)
    for row in study.finals():
        held = _mapping(study.info["preferences"].get(row.run)).get("held_out")
        if held:
            found[row.arm, name_of(row.arm, None, row.seed, row.noise)] = _quality(held)
    return [(*who, *values) for who, values in found.items()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def noise_rows(study: StudyRecord) -> list[tuple[str, str, list[str]]]:
    """(arm, arm and β, its gain at the end at each rate of label noise), where a study has several rates."""
    noises = study.noises()
    if len(noises) < 2 or not any(row.gain is not None for row in study.finals()):
        return []
    groups: dict[tuple[str, float | None], dict[float, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for row in study.finals():
        if row.gain is not None:
            groups[row.arm, row.beta][row.noise].append(row)
    return [
        (arm, arm if beta is None else f"{arm} β={beta:g}", [_gain(of.get(noise, [])) for noise in noises])
        for (arm, beta), of in groups.items()
    ]


def _gain(rows: Sequence[Result]) -> str:
    if not rows:
        return "–"
    gains = [row.gain or 0.0 for row in rows]
    return str(over_seeds(gains) if len(rows) > 1 else Estimate(gains[0], rows[0].gain_se))


def search_rows(study: StudyRecord) -> list[tuple[str, str, str, str]]:
    """(arm, β, KL at its end, why this β) of every run of the search for β, where the study has made one."""
    tried = study.info["search"].get("tried", [])
    return [
        (str(one.get("arm")), f"{_real(one.get('beta')):g}", f"{_real(one.get('kl')):.2g}", str(one.get("why")))
        for one in (tried if isinstance(tried, list) else [])
        if isinstance(one, Mapping)
    ]


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def budget_rows(study: StudyRecord) -> list[tuple[str, str, list[Any]]]:
    """(arm, run, what it cost in three currencies) of every run that says so."""
    names, budgets = run_names(study), study.info["budgets"]
    costs = [(row, _mapping(budgets.get(row.run))) for row in study.finals()]
    return [(row.arm, names[row.run], [cost.get(name) for name in COSTS]) for row, cost in costs if cost]


def columns_of(study: StudyRecord, answer: Verdict) -> list[Column]:
    """A column for every quantity that some row has, and for every judge's win rate."""
    ended = _ended(study.samples)
    by_judges = [one for one in (answer, *answer.secondary) if one.axis == WIN_RATE]
    extras = dict.fromkeys(name for row in study.results for name in row.extra if not name.endswith("_se"))
    columns = [
        Column("gain", "over the reference", _mean("gain")),
        Column("reward", "", _mean("reward")),
        Column("KL", "nats", _mean("kl")),
        Column("win rate", "% against the reference", _mean("win_rate", 100)),
        *(Column("win rate", f"%, by judge {one.judge}", _judged(one)) for one in by_judges),
        *(Column(name, "learned reward" if name == PROXY else "second opinion", _opinion(name)) for name in extras),
        Column("accuracy", "% of held-out votes", _mean("accuracy", 100)),
        Column("log-loss", "nats per vote", _mean("log_loss")),
        Column("validation", "log-loss, nats per training vote", _mean("validation")),
        Column("length", "tokens", _mean("length")),
        Column("ended", "% within the limit", lambda row: ended.get((row.run, row.step))),
    ]
    return [column for column in columns if any(column.read(row) for row in study.results)]


def _mean(name: str, times: float = 1) -> Callable[[Result], Estimate | None]:
    def read(row: Result) -> Estimate | None:
        value, se = getattr(row, name), getattr(row, f"{name}_se")
        return None if value is None else Estimate(times * value, None if se is None else times * se)

    return read


def _judged(answer: Verdict) -> Callable[[Result], Estimate | None]:
    """The win rate of a run's end by the judge of a verdict."""
    found = {
        (point.run, point.step): Estimate(100 * (point.gain + CHANCE), point.gain_se and 100 * point.gain_se)
        for point in answer.points
    }
    return lambda row: found.get((row.run, row.step))


def _opinion(name: str) -> Callable[[Result], Estimate | None]:
    return lambda row: Estimate(row.extra[name], row.extra.get(f"{name}_se")) if name in row.extra else None


def _ended(samples: Sequence[Sample]) -> dict[tuple[str, int], Estimate]:
    """Per cent of the samples of each run and step that ended by themselves."""
    groups: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.run, sample.step].append(sample)
    return {
        key: clustered_mean([100.0 * s.ended for s in group], [s.prompt_id for s in group])
        for key, group in groups.items()
    }


def lines_of(study: StudyRecord, columns: Sequence[Column]) -> list[Line]:
    """The reference, then the last checkpoint of every run; with several seeds their mean comes before them."""
    reference, names = study.reference(), run_names(study)
    lines = [Line(REFERENCE, REFERENCE, "0", _read(reference, columns))] if reference else []
    groups: dict[tuple[str, float | None, float], list[Result]] = defaultdict(list)
    for row in study.finals():
        groups[row.arm, row.beta, row.noise].append(row)
    for (arm, beta, noise), rows in groups.items():
        minor = len(rows) > 1
        each = [
            Line(arm, f"seed {row.seed}" if minor else names[row.run], f"{row.step:,}", _read(row, columns), minor)
            for row in rows
        ]
        if minor:
            means = tuple(_over_seeds(values) for values in zip(*(line.values for line in each), strict=True))
            lines.append(Line(arm, namer(study)(arm, beta, None, noise), f"{len(rows)} seeds", means))
        lines += each
    return lines


def _read(row: Result, columns: Sequence[Column]) -> tuple[Estimate | None, ...]:
    return tuple(column.read(row) for column in columns)


def _over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    values = [estimate.value for estimate in estimates if estimate]
    return over_seeds(values) if values else None


def cells_of(lines: Sequence[Line]) -> list[list[tuple[str, str]]]:
    """(number, error) in print for each line and column; a column has one number of decimals, by its largest error."""
    columns = list(zip(*(line.values for line in lines), strict=True))
    largest = [max((estimate.se or 0.0 for estimate in column if estimate), default=0.0) for column in columns]
    largest = [max(error, DIGITS * _size(column)) for error, column in zip(largest, columns, strict=True)]
    return [[_cell(estimate, error) for estimate, error in zip(line.values, largest, strict=True)] for line in lines]


def _size(column: Sequence[Estimate | None]) -> float:
    return max((abs(e.value) for e in column if e and math.isfinite(e.value)), default=0.0)


def _cell(estimate: Estimate | None, error: float) -> tuple[str, str]:
    if estimate is None:
        return "–", ""
    return number(estimate.value, error), "" if estimate.se is None else number(estimate.se, error)
