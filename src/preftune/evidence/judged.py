"""The axes of judges: the win rate of run ends against the reference, and its uncertainty over prompts.

F of a contest is what a judge thinks of it, in both orders; identical texts are ties. A run's estimate is its mean over
prompts, each the mean of its contests that have a verdict. Gain is the win rate minus ½, which the reference has.

Shapes: R run ends, P prompts, S samples of a prompt.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .frontiers import ACCURACY, CONTROLLED, JUDGED, REWARD, WIN_RATE, PerPrompt, Point, measured, placed, point_at
from .judgements import CONTROLS, OPPONENT, Judgement, Sampled
from .results import Result, Sample, StudyRecord
from .stats import Floats

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
    is longer, `[R, P, S]` each; not a number where there is no verdict. `why` counts what has none, by reason."""

    win: Floats
    longer: Floats
    why: Mapping[str, int]

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
    told = f"it agrees with {100 * value:.0f}% of held-out votes, which is not above 50%"
    return f"{told} (95% interval from {100 * low:.0f}%)"


def contests_of(study: StudyRecord, judge: str, ends: Sequence[Sampled], prompts: Sequence[int]) -> Contests:
    """What the judge thinks of these ends, or controls, against the opponent."""
    at = {end: i for i, end in enumerate(ends)}
    number = {prompt: i for i, prompt in enumerate(prompts)}
    own = [
        one
        for one in study.judgements
        if one.judge == judge and one.against == OPPONENT and not one.again and (one.run, one.step) in at
    ]
    size = max((one.sample for one in own), default=0) + 1
    win, longer = (np.full((len(ends), len(prompts), size), np.nan) for _ in range(2))
    tokens = lengths(study)
    why: dict[str, int] = defaultdict(int)
    for one in own:
        if one.prompt_id not in number:
            continue
        place = at[one.run, one.step], number[one.prompt_id], one.sample
        if one.preference is None:
            why[one.why] += 1
            continue
        win[place] = one.preference
        longer[place] = _length(tokens, one.run, one) - tokens.get((OPPONENT, 0, one.prompt_id, one.other), np.nan)
    return Contests(win, longer, dict(why))


Lengths = Mapping[tuple[str, int, int, int], int]


def lengths(study: StudyRecord) -> Lengths:
    """Tokens of every sample, the opponent's and the controls' too."""
    return {
        (sample.run, sample.step, sample.prompt_id, sample.sample): sample.tokens
        for sample in (*study.samples, *study.opponents)
    }


def _length(tokens: Lengths, run: str, one: Judgement) -> float:
    return tokens.get((run, 0 if run in CONTROLS else one.step, one.prompt_id, one.sample), np.nan)


def judged_points(study: StudyRecord, axis: Axis) -> tuple[tuple[Point, ...], PerPrompt | None, list[str]]:
    """The run ends that a judge has seen, on its axis; their means or influences per prompt; notes."""
    rows = [row for row in study.ends() if any(one.run == row.run for one in study.judgements)]
    prompts = sorted({one.prompt_id for one in study.judgements})
    if not rows or len(prompts) < 2:
        return (), None, []
    contests = contests_of(study, axis.judge, [(row.run, row.step) for row in rows], prompts)
    gain = _gains(contests, axis)
    points = [point_at(row, float(g.mean()), None) for row, g in zip(rows, gain, strict=True)]
    kept = [i for i, point in enumerate(points) if point is not None]
    if not kept:
        return (), None, []
    table = PerPrompt(_kls(study.samples, [rows[i] for i in kept], prompts), gain[kept])
    drawn = placed([point for point in points if point is not None], study)
    return tuple(measured(point, table, i) for i, point in enumerate(drawn)), table, []


def _gains(contests: Contests, axis: Axis) -> Floats:
    """Gain plus what each prompt influences it, `[R, P]`."""
    assert axis.kind in (WIN_RATE, CONTROLLED)
    return influences_of_means(contests.by_prompt) - EVEN


def influences_of_means(values: Floats) -> Floats:
    """The mean over the prompts that are there plus what each influences it, `[R, P]`; not a number where none is.

    mean + P/n · (x_g − mean) for each of the n prompts that are there, and the mean itself for the others: the mean of
    these is the mean of the n, and their variance over P is its squared error.
    """
    there = np.isfinite(values)
    count = there.sum(1, keepdims=True)
    mean = mean_of_known(values)[:, None]
    share = values.shape[1] / np.maximum(count, 1)
    return np.asarray(mean + np.where(there, share * (np.nan_to_num(values) - mean), 0.0))


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
    """
    judges = judges_of(study)
    raw = tuple(Axis(WIN_RATE, name) for name, judge in judges.items() if not no_axis(judge))
    controlled = tuple(Axis(CONTROLLED, axis.judge) for axis in raw)
    if study.info["gold"]:
        return (Axis(REWARD), *raw, *controlled)
    if judges and not no_axis(next(iter(judges.values()))):
        return (*raw, *controlled)
    return (Axis(ACCURACY), *raw, *controlled)
