"""The axes of judges: the win rate of run ends against the reference, and its uncertainty over prompts.

F of a contest is what a judge thinks of it, in both orders; identical texts are ties. A run's estimate is its mean over
prompts, each the mean of its contests that have a verdict. Gain is the win rate minus ½, which the reference has.

Shapes: R run ends, P prompts, S samples of a prompt.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .frontiers import (
    ACCURACY,
    CONTROLLED,
    CORRECTED,
    JUDGED,
    PEOPLE,
    REWARD,
    WIN_RATE,
    PerPrompt,
    Point,
    measured,
    placed,
    point_at,
)
from .influence import Estimates, mean_where_there
from .judgements import OPPONENT, Sampled
from .length_control import length_controlled
from .people import VoteTables, vote_tables
from .prediction_powered import Powered, ppi, ppi_points
from .results import Result, Sample, StudyRecord
from .stats import Floats

MOST_NEEDED = 10_000  # votes that anybody is told to find
EVEN = 0.5  # the win rate of the reference against itself
MISSING = 0.02  # share of contests without a verdict above which bounds are told


@dataclass(frozen=True)
class Axis:
    """What is drawn over KL and compared: `kind` such as "reward" or "win rate", and the judge whose it is."""

    kind: str
    judge: str = ""

    @property
    def judged(self) -> bool:
        """Whether it is a win rate against the reference."""
        return self.kind in JUDGED


@dataclass(frozen=True)
class Contests:
    """The contests of some run ends against the opponent by one judge: F and, in tokens, by how much the run's response
    is longer, `[R, P, S]` each; not a number where there is no verdict. `met` says where there was a contest."""

    win: Floats
    longer: Floats
    met: npt.NDArray[np.bool_]
    samples: tuple[int, ...]  # the numbers of the S samples

    @property
    def even(self) -> dict[tuple[int, int, int], float]:
        """F of every contest by run end, prompt and number of the sample; ½ where there is no verdict."""
        known = np.where(np.isnan(self.win), EVEN, self.win)
        return {(int(r), int(p), self.samples[s]): float(known[r, p, s]) for r, p, s in np.argwhere(self.met)}

    @property
    def by_prompt(self) -> Floats:
        """Mean F of the contests of each prompt that have a verdict, `[R, P]`."""
        return mean_of_known(self.win)


def mean_of_known(values: Floats) -> Floats:
    """Means over the last axis of what is a number; not a number where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean of nothing
        return np.asarray(np.nanmean(values, axis=-1))


def judges_of(study: StudyRecord) -> dict[str, Mapping[str, Any]]:
    """What `study.json` says of each judge, by its name."""
    return {str(one.get("name")): one for one in study.info["judges"] if isinstance(one, Mapping)}


def no_axis(judge: Mapping[str, Any]) -> str:
    """Why a judge carries no axis, in words; "" if it does: its accuracy on held-out votes is above ½, or unknown."""
    accuracy = (judge.get("agreement") or {}).get("accuracy") or {}
    value, low = accuracy.get("value"), accuracy.get("low")
    if not isinstance(value, int | float) or not isinstance(low, int | float) or low > EVEN:
        return ""
    told = f"{_agrees(value)}, which is not above 50% (95% interval from {100 * low:.0f}%)"
    needed = ((1.96 + 0.84) * EVEN / (value - EVEN)) ** 2 if value > EVEN else math.inf  # on as many prompts; 80% power
    if needed > MOST_NEEDED:
        return told
    return f"{told}; if it is that good, about {needed:,.0f} held-out votes show it in four of five cases"


def tells_votes(judge: Mapping[str, Any]) -> str:
    """How often a judge agrees with held-out votes, in words."""
    found = judge.get("agreement") or {}
    accuracy = found.get("accuracy")
    if not accuracy:
        return "no vote is there that it did not learn from"
    low, high = (accuracy[name] for name in ("low", "high"))
    interval = "" if low is None else f" (95% interval {100 * low:.0f}% to {100 * high:.0f}%)"
    return f"{_agrees(accuracy['value'])}{interval}, {found['votes']} votes on {found['prompts']} prompts"


def _agrees(share: float) -> str:
    return f"it agrees with {100 * share:.0f}% of held-out votes"


def contests_of(study: StudyRecord, judge: str, ends: Sequence[Sampled], prompts: Sequence[int]) -> Contests:
    """What the judge thinks of these ends, or controls, against the opponent."""
    at = {end: i for i, end in enumerate(ends)}
    number = {prompt: i for i, prompt in enumerate(prompts)}
    own = [
        one
        for one in study.judgements
        if one.judge == judge and one.against == OPPONENT and not one.again and (one.run, one.step) in at
    ]
    samples = {sample: i for i, sample in enumerate(sorted({one.sample for one in own}))}
    win, longer = (np.full((len(ends), len(prompts), max(len(samples), 1)), np.nan) for _ in range(2))
    tokens, met = lengths(study), np.zeros(win.shape, dtype=np.bool_)
    for one in own:
        if one.prompt_id not in number:
            continue
        place = at[one.run, one.step], number[one.prompt_id], samples[one.sample]
        met[place] = True
        win[place] = math.nan if one.preference is None else one.preference
        own_tokens = tokens.get((one.run, one.step, one.prompt_id, one.sample), np.nan)
        longer[place] = own_tokens - tokens.get((OPPONENT, 0, one.prompt_id, one.other), np.nan)
    return Contests(win, longer, met, tuple(samples))


Lengths = Mapping[tuple[str, int, int, int], int]


def lengths(study: StudyRecord) -> Lengths:
    """Tokens of every sample, the opponent's and the controls' too."""
    return {
        (sample.run, sample.step, sample.prompt_id, sample.sample): sample.tokens
        for sample in (*study.samples, *study.opponents)
    }


def _judged_by(study: StudyRecord, judge: str) -> tuple[list[Result], list[int], Contests]:
    """The run ends that a judge has seen, the prompts that any judge has seen, and its contests of both."""
    seen = {(one.run, one.step) for one in study.judgements if one.judge == judge and one.against == OPPONENT}
    rows = [row for row in study.ends() if (row.run, row.step) in seen]
    prompts = sorted({one.prompt_id for one in study.judgements})
    return rows, prompts, contests_of(study, judge, [(row.run, row.step) for row in rows], prompts)


def judged_points(study: StudyRecord, axis: Axis) -> tuple[tuple[Point, ...], PerPrompt | None, list[str]]:
    """The run ends that a judge has seen, on its axis; their means or influences per prompt; notes."""
    rows, prompts, contests = _judged_by(study, axis.judge)
    if not rows or len(prompts) < 2:
        return (), None, []
    found, notes = _estimates(study, axis, rows, prompts, contests)
    gain = found.pseudo_values - EVEN
    points = [point_at(row, float(value) - EVEN, None) for row, value in zip(rows, found.values, strict=True)]
    kept = [i for i, point in enumerate(points) if point is not None and np.isfinite(gain[i]).all()]
    if not kept:
        return (), None, notes
    table = PerPrompt(_kls(study.samples, [rows[i] for i in kept], prompts), gain[kept], found.df)
    drawn = placed([point for i in kept if (point := points[i]) is not None], study)
    return tuple(measured(point, table, i) for i, point in enumerate(drawn)), table, notes


def _estimates(
    study: StudyRecord, axis: Axis, rows: Sequence[Result], prompts: Sequence[int], contests: Contests
) -> tuple[Estimates, list[str]]:
    """The win rates of an axis with the influence of every prompt on them, and notes."""
    if axis.kind == WIN_RATE:
        return mean_where_there(contests.by_prompt), []
    if axis.kind == CONTROLLED:
        found = length_controlled(contests.win, contests.longer)
        told = zip(rows, found.why, strict=True)
        return found.rates, [f"{row.run} has no win rate at equal length: {why}." for row, why in told if why]
    tables = vote_tables(study.people, rows, prompts, contests.even)
    notes = _notes_of(tables)
    if axis.kind == PEOPLE or tables.voted < 2:
        return mean_where_there(tables.h), notes
    powered = ppi_points(tables.h, tables.l, tables.f)
    return powered.estimates, [*notes, f"The judge's weight beside people's votes is {powered.weight:.2f}."]


def _notes_of(tables: VoteTables) -> list[str]:
    """How much people have voted on."""
    told = [f"People voted on {tables.voted} of {tables.h.shape[1]} prompts, at every run end."]
    if tables.partly:
        told.append(f"{tables.partly} prompts with votes lack some run's, and are left out of people's win rates.")
    return told


def _kls(samples: Sequence[Sample], rows: Sequence[Result], prompts: Sequence[int]) -> Floats:
    """Mean KL of the samples of each prompt, `[R, P]`; the row's own where a prompt has none."""
    kl: dict[tuple[str, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        kl[sample.run, sample.step][sample.prompt_id].append(sample.kl)
    return np.array(
        [[float(np.mean(kl[row.run, row.step].get(prompt, [row.kl or 0.0]))) for prompt in prompts] for row in rows]
    )


def axes_of(study: StudyRecord) -> tuple[Axis, ...]:
    """The axes of a study: the primary one, on which it answers, and then the secondary ones.

    Gold is primary where there is any, else the first judge's raw win rate. A judge that carries none has none.
    People's votes correct the first judge that has one.
    """
    judges = judges_of(study)
    raw = tuple(Axis(WIN_RATE, name) for name, judge in judges.items() if not no_axis(judge))
    controlled = tuple(Axis(CONTROLLED, axis.judge) for axis in raw)
    people = (Axis(PEOPLE, raw[0].judge), Axis(CORRECTED, raw[0].judge)) if study.people and raw else ()
    others = (*raw, *controlled, *people)
    if study.info["gold"]:
        return (Axis(REWARD), *others)
    if judges and not no_axis(next(iter(judges.values()))):
        return others
    return (Axis(ACCURACY), *others)


def people_of(study: StudyRecord) -> list[tuple[str, Powered]]:
    """What people, the judge that they correct, and both together say of every run end; [] where nobody voted."""
    axis = next((axis for axis in axes_of(study) if axis.kind == PEOPLE), None)
    if axis is None:
        return []
    rows, prompts, contests = _judged_by(study, axis.judge)
    tables = vote_tables(study.people, rows, prompts, contests.even)
    if tables.voted < 2:
        return []
    return [(row.run, ppi(tables.h[i], tables.l[i], tables.f[i])) for i, row in enumerate(rows)]
