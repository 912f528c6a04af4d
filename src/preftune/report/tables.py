"""The tables of a report: its results with their errors, its comparisons, its reward models, what it cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..evidence import (
    PROXY,
    REFERENCE,
    Comparison,
    Estimate,
    Result,
    Sample,
    StudyRecord,
    clustered_mean,
    namer,
    number,
    over_seeds,
    run_names,
)

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


def reward_rows(reward: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, accuracy, log-loss) on held-out votes: of each seed's reward model, then of the baselines."""
    seeds = {seed: info for seed, info in reward.items() if isinstance(info, Mapping) and "held_out" in info}
    several = len(seeds) > 1
    rows = [(f"reward model, seed {n}" if several else "reward model", info["held_out"]) for n, info in seeds.items()]
    first = next(iter(seeds.values()), {})
    rows += [(BASELINES.get(name, name), info) for name, info in first.get("baselines", {}).items()]
    return [(name, _told(info["accuracy"], 100), _told(info["log_loss"], 1)) for name, info in rows]


def preference_rows(study: StudyRecord) -> list[tuple[str, str, str, str]]:
    """(arm, whose preference, accuracy, log-loss) on held-out votes of what amortized-ipo was told by, told once."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    name_of = namer(study)
    for row in study.finals():
        held = study.info.get("preferences", {}).get(row.run, {}).get("held_out")
        if held:
            name = name_of(row.arm, None, row.seed, row.noise)
            found[row.arm, name] = (_told(held["accuracy"], 100), _told(held["log_loss"], 1))
    return [(*who, *values) for who, values in found.items()]


def _told(estimate: Mapping[str, float | None], times: float) -> str:
    value, se = estimate["value"], estimate["se"]
    return str(Estimate(times * (value or 0.0), None if se is None else times * se))


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


def budget_rows(study: StudyRecord) -> list[tuple[str, str, Mapping[str, float]]]:
    """(arm, run, what it cost in three currencies) of every run that says so."""
    names, budgets = run_names(study), study.info.get("budgets", {})
    return [(row.arm, names[row.run], budgets[row.run]) for row in study.finals() if row.run in budgets]


def columns_of(study: StudyRecord) -> list[Column]:
    """A column for every quantity that some row has."""
    ended = _ended(study.samples)
    extras = dict.fromkeys(name for row in study.results for name in row.extra if not name.endswith("_se"))
    columns = [
        Column("gain", "over the reference", _mean("gain")),
        Column("reward", "", _mean("reward")),
        Column("KL", "nats", _mean("kl")),
        Column("win rate", "% against the reference", _mean("win_rate", 100)),
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
    return [[_cell(estimate, error) for estimate, error in zip(line.values, largest, strict=True)] for line in lines]


def _cell(estimate: Estimate | None, error: float) -> tuple[str, str]:
    if estimate is None:
        return "–", ""
    return number(estimate.value, error), "" if estimate.se is None else number(estimate.se, error)
