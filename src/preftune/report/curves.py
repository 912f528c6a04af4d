"""What happened on the way: training curves, and the lengths of samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from ..evidence import Estimate, Result, StudyRecord, run_names
from .frontier import KL_TITLE, Panel
from .looks import beta_text, dashes, looks
from .svg import Axis, Frame, axis_over, chart, dot, frame_of, line, of_arm, root_axis

BINS = 60  # points that a training curve is drawn with at most
FEW = 16  # runs up to which each is drawn faintly behind the means
SIZE = (400, 240)

CURVES = {  # column of metrics.jsonl: title, note
    "log_ratio_preferred": ("Log-ratio of preferred responses", "nats; 0 is the reference"),
    "log_ratio_other": ("Log-ratio of the other responses", "nats; 0 is the reference"),
    "margin": ("Margin", "β × the difference of the two log-ratios"),
    "accuracy": ("Accuracy on training votes", "with a positive margin, ties half"),
    "score": ("Learned reward of the policy's own samples", "nats, mean of a batch"),
    "kl": ("KL of the policy's own samples", "nats per response, exact along each"),
    "entropy": ("Entropy", "nats per sampled token"),
    "ended": ("Share that ended by itself", "of the policy's own samples"),
    "clip_fraction": ("Clip fraction", "tokens whose ratio left the interval"),
    "explained_variance": ("Explained variance", "of returns, by the critic"),
    "loss": ("Loss", "its scale differs between methods"),
    "grad_norm": ("Gradient norm", "before clipping"),
}
RATIOS = ("log_ratio_preferred", "log_ratio_other")

Points = list[tuple[float, float]]


class Setting(NamedTuple):
    """Whose runs are averaged: an arm at one β; `noisy` where it learned from flipped votes."""

    arm: str
    beta: str
    noisy: bool


class Curve(NamedTuple):
    """One line of a chart: whose it is, and whether it is a single run behind the means."""

    setting: Setting
    points: Points
    faint: bool = False


# --- training ---------------------------------------------------------------------------------------------------------


def training_panels(study: StudyRecord) -> dict[str, Panel]:
    """One chart for each quantity that any run logged, by its column; both log-ratios share their scale."""
    rows = {row.run: row for row in study.trained()}
    runs = {run: steps for run, steps in study.metrics.items() if run in rows}
    logged = {name: {run: _logged(steps, name) for run, steps in runs.items()} for name in CURVES}
    shared = [value for name in RATIOS for points in logged[name].values() for _, value in points]
    panels = {}
    for name, (title, note) in CURVES.items():
        found = {run: points for run, points in logged[name].items() if points}
        if found:
            curves = _curves(found, {run: _setting(rows[run]) for run in found})
            values = shared if name in RATIOS else [value for curve in curves for _, value in curve.points]
            panels[name] = Panel(title, note, _drawn(study, curves, values, title))
    return panels


def _setting(row: Result) -> Setting:
    return Setting(row.arm, beta_text(row), row.noise > 0)


def _logged(steps: Sequence[Mapping[str, float]], name: str) -> Points:
    """(step, value), as means of equal stretches of steps where there are many."""
    pairs = [(step["step"], step[name]) for step in steps if math.isfinite(step.get(name, math.nan))]
    if not pairs:
        return []
    bins = np.array_split(np.array(pairs, dtype=float), min(len(pairs), BINS))
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in bins]


def _curves(runs: Mapping[str, Points], settings: Mapping[str, Setting]) -> list[Curve]:
    """The runs, faintly, where they are few; then a smooth mean over the runs of each setting."""
    groups: dict[Setting, list[Points]] = defaultdict(list)
    for run, points in runs.items():
        groups[settings[run]].append(points)
    faint = [Curve(settings[run], points, faint=True) for run, points in runs.items()] if len(runs) <= FEW else []
    return [*faint, *(Curve(setting, smooth(mean_of(many))) for setting, many in groups.items())]


def mean_of(runs: Sequence[Points]) -> Points:
    """The mean at each step of the longest curve, over those that have come so far."""
    steps = [step for step, _ in max(runs, key=len)]
    xs, ys = zip(*(zip(*points, strict=True) for points in runs), strict=True)
    values = [np.interp(steps, x, y, left=math.nan, right=math.nan) for x, y in zip(xs, ys, strict=True)]
    means = np.nanmean(values, axis=0).tolist()
    return [(step, value) for step, value in zip(steps, means, strict=True) if math.isfinite(value)]


def smooth(points: Points) -> Points:
    """A running mean over about a tenth of the points."""
    reach = max(len(points) // 20, 1)
    values = [value for _, value in points]
    around = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    return [(step, sum(near) / len(near)) for (step, _), near in zip(points, around, strict=True)]


def _drawn(study: StudyRecord, curves: Sequence[Curve], values: Iterable[float], title: str) -> Markup:
    steps = [step for curve in curves for step, _ in curve.points]
    frame = frame_of(*SIZE, _step_axis(steps), axis_over("", values, 4))
    return chart(frame, _lines(study, curves, frame), f"{title} against optimiser step")


def _lines(study: StudyRecord, curves: Sequence[Curve], frame: Frame) -> Iterator[Markup]:
    styles, patterns = looks(study), dashes(study)
    for (arm, beta, noisy), points, faint in curves:
        look, classes = styles[arm], "line faint" if faint else "line thin" if noisy else "line"
        dash = () if faint else patterns[beta]
        yield line([frame.at(x, y) for x, y in points], f"{classes} {look.colour}", look.number, dash)


def _step_axis(steps: Iterable[float]) -> Axis:
    axis = axis_over("optimiser step", steps, 5, zero=True)
    return axis._replace(ticks=tuple(tick for tick in axis.ticks if tick == int(tick)))


# --- length -----------------------------------------------------------------------------------------------------------


def length_panel(study: StudyRecord) -> Panel | None:
    """Length of the samples against KL, every run from the reference on."""
    rows = [row for row in study.trained() if _is_real(row.length) and _is_real(row.kl)]
    if not rows:
        return None
    reference = study.reference()
    start = [reference.length] if reference and reference.length is not None else []
    ends = [*start, *(end for row in rows for end in _around(row))]
    x = root_axis(KL_TITLE, (row.kl or 0.0 for row in rows), 7)
    frame = frame_of(760, 280, x, axis_over("tokens per response", ends, 5, least=1.0))
    level = [line([frame.at(0, start[0]), frame.at(frame.x.high, start[0])], "base")] if start else []
    marks = [*level, *_length_paths(study, rows, start, frame), *_lengths(study, rows, frame)]
    title = "Length of samples"
    return Panel(title, "the dotted line is the reference", chart(frame, marks, f"{title} against KL"))


def _is_real(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _around(row: Result) -> tuple[float, float]:
    length, error = row.length or 0.0, row.length_se or 0.0
    error = error if math.isfinite(error) else 0.0
    return length - error, length + error


def _length_paths(study: StudyRecord, rows: Sequence[Result], start: Sequence[float], frame: Frame) -> Iterator[Markup]:
    styles = looks(study)
    runs: dict[str, list[Result]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.step):
        runs[row.run].append(row)
    weight = "thin" if len(runs) <= 24 else "faint"
    for own in runs.values():
        look = styles[own[0].arm]
        places = [frame.at(0, length) for length in start] + [frame.at(row.kl or 0.0, row.length or 0.0) for row in own]
        yield line(places, f"line {weight} {look.colour}", look.number)


def _lengths(study: StudyRecord, rows: Sequence[Result], frame: Frame) -> Iterator[Markup]:
    styles, names, last = looks(study), run_names(study), {(row.run, row.step) for row in study.finals()}
    for row in rows:
        look, (x, y) = styles[row.arm], frame.at(row.kl or 0.0, row.length or 0.0)
        low, high = (frame.at(row.kl or 0.0, end)[1] for end in _around(row))
        if (row.run, row.step) in last:
            bar = Markup('<path class="bars {}"{} d="M{:.1f} {:.1f}V{:.1f}"/>')
            yield bar.format(look.colour, of_arm(look.number), x, low, high)
        tip = f"{names[row.run]}, step {row.step}\n{Estimate(row.length or 0.0, row.length_se)} tokens"
        yield dot(
            (x, y), look.shape, f"dot {look.colour}", look.number, tip, 0.9 if (row.run, row.step) in last else 0.4
        )
