"""The charts of a report: Vega-Lite specifications made with altair. Their data are numbers and names, no samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import altair as alt
import numpy as np
import vl_convert

from ..errors import UserError
from ..evidence import (
    ACCURACY,
    CHANCE,
    Estimate,
    Frontier,
    Point,
    Result,
    StudyRecord,
    Verdict,
    noise_in_words,
    proxy_view,
    read_study,
    run_names,
    verdict,
)
from ..text import harmless

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
COLOURS = ("#2867b2", "#c8553d", "#3c8d5a", "#8457aa", "#b8860b", "#3a8fa3")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4))
GREY = "#8a8f98"
INK = "#333a45"
BINS = 150  # points that a training curve is drawn with at most

KL_TITLE = "KL from the reference, nats (√ scale)"

Row = dict[str, Any]
Spec = dict[str, Any]


class Look(NamedTuple):
    """How an arm looks in every chart and in the text: a colour and a shape."""

    colour: str
    shape: str


class Panel(NamedTuple):
    """One chart with the words around it."""

    name: str
    title: str
    note: str
    spec: Spec


def looks(study: StudyRecord) -> dict[str, Look]:
    """The look of every arm, in the order of the study; beyond six arms the colours return with other shapes."""
    arms = dict.fromkeys([*study.info["arms"], *(row.arm for row in study.trained())])
    return {
        arm: Look(COLOURS[i % len(COLOURS)], SHAPES[(i + i // len(COLOURS)) % len(SHAPES)])
        for i, arm in enumerate(arms)
    }


def frontier_image(folder: Path, out: Path) -> Path:
    """Draw the frontier chart of a study folder (of its first rate of label noise) to `out`, an .svg or .png file.

    Raises UserError for a folder that is no study, or another ending.
    """
    if out.suffix not in (".svg", ".png"):
        raise UserError(f"{out}: the picture is an .svg or a .png file, by its ending")
    study = read_study(folder)
    noise = study.noises()[0]
    spec = _frontier(study.at_noise(noise), verdict(study).at_noise(noise), legend=True) | {"width": 680}
    if out.suffix == ".svg":
        out.write_text(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE), encoding="utf-8")
    else:
        out.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2))
    return out


def frontier_panels(study: StudyRecord, answer: Verdict) -> list[Panel]:
    """Gain against KL: a point per checkpoint, a path per run, a fitted curve per arm. A chart per rate of noise."""
    return _at_each_noise(study, answer, "frontier", "", "")


def proxy_panels(study: StudyRecord, answer: Verdict) -> list[Panel]:
    """The same runs by the learned reward, where a study has one."""
    view = proxy_view(study, answer)
    return _at_each_noise(study, view, "proxy", "The learned reward of the same samples", "nats") if view else []


def _at_each_noise(study: StudyRecord, view: Verdict, name: str, title: str, note: str) -> list[Panel]:
    noises, panels = study.noises(), []
    for i, noise in enumerate(noises):
        part = view.at_noise(noise)
        told = [title, noise_in_words(noise)] if len(noises) > 1 else [title]
        if part.points:
            spec = _frontier(study.at_noise(noise), part, legend=False)
            panels.append(Panel(f"{name}-{i}" if i else name, ". ".join(filter(None, told)), note, spec))
    return panels


# --- the frontier -----------------------------------------------------------------------------------------------------


def _frontier(study: StudyRecord, answer: Verdict, *, legend: bool) -> Spec:
    base = CHANCE if answer.axis == ACCURACY else 0.0
    names, styles = run_names(study), looks(study)
    points = [_point_row(point, names, base) for point in answer.points]
    last = {point.run: max(p.step for p in answer.points if p.run == point.run) for point in answer.points}
    finals = [row for row in points if row["step"] == last[row["run"]]]
    made = [pair for pair in answer.comparisons if pair.difference]
    data = {
        "points": points,
        "finals": finals,
        "paths": [*(_start_row(point, base) for point in answer.points), *points],
        "curves": [row for fit in answer.frontiers for row in _curve_rows(fit, base)],
        "start": [{"gain": base}],
        "compared": [{"kl": made[0].kl, "label": "compared here"}] if len(made) == 1 else [],
    }
    colour = _colour(styles, legend)
    x = alt.X("kl:Q", title=KL_TITLE, axis=alt.Axis(tickCount=6, labelOverlap="greedy"), scale=alt.Scale(type="sqrt"))
    y = alt.Y("gain:Q", title=answer.axis_label, axis=alt.Axis(tickCount=7), scale=alt.Scale(zero=False))
    told = [alt.Tooltip(f"{name}:N", title=title) for name, title in _TOLD.items()]
    bars = _chart("points").mark_rule(opacity=0.5).encode(color=colour)
    shape = alt.Shape("arm:N", scale=_scale(styles, "shape"), legend=_legend(legend))
    dots = {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": told}
    label = _chart("compared").mark_text(align="left", dx=5, baseline="top", color=GREY, fontSize=11)
    layers = [
        _chart("compared").mark_rule(color=GREY, strokeDash=[4, 4]).encode(x=x),
        label.encode(x=x, y=alt.value(4), text="label:N"),
        _chart("start").mark_rule(color=GREY, strokeDash=[2, 3]).encode(y=y),
        _chart("curves").mark_line(strokeWidth=6, opacity=0.22).encode(x=x, y=y, color=colour),
        _chart("paths")
        .mark_line(strokeWidth=1.2, opacity=0.75 if len(finals) <= 8 else 0.3)
        .encode(x=x, y=y, color=colour, detail="run:N", order="step:Q"),
        bars.encode(x=alt.X("kl_low:Q"), x2="kl_high:Q", y=y),
        bars.encode(x=x, y=alt.Y("gain_low:Q"), y2="gain_high:Q"),
        _chart("points").mark_point(filled=True, size=45, opacity=1).encode(**dots),
        _chart("finals").mark_point(filled=True, size=150, opacity=1, stroke="white").encode(**dots),
    ]
    if len(finals) <= 8:
        names_of_finals = _chart("finals").mark_text(align="left", dx=9, dy=11, fontSize=12)
        layers.append(names_of_finals.encode(x=x, y=y, color=colour, text="label:N"))
    return _spec(layers, data, height=400)


_TOLD = {"name": "run", "step": "step", "kl_text": "KL, nats", "gain_text": "vertical axis"}


def _point_row(point: Point, names: Mapping[str, str], base: float) -> Row:
    kl_se, gain_se, gain = point.kl_se or 0.0, point.gain_se or 0.0, point.gain + base
    return {
        "run": point.run,
        "name": f"{names[point.run]}, seed {point.seed}" if "seed" not in names[point.run] else names[point.run],
        "arm": point.arm,
        "label": "" if point.beta is None else f"β {point.beta:g}",
        "step": point.step,
        "kl": point.kl,
        "kl_low": max(point.kl - kl_se, 0.0),
        "kl_high": point.kl + kl_se,
        "gain": gain,
        "gain_low": gain - gain_se,
        "gain_high": gain + gain_se,
        "kl_text": str(Estimate(point.kl, point.kl_se)),
        "gain_text": str(Estimate(gain, point.gain_se)),
    }


def _start_row(point: Point, base: float) -> Row:
    return {"run": point.run, "arm": point.arm, "step": 0, "kl": 0.0, "gain": base}


def _curve_rows(fit: Frontier, base: float) -> Iterable[Row]:
    """The fit where the arm has points: between the reference and the nearest of them nothing holds it."""
    for d in np.linspace(math.sqrt(fit.low), math.sqrt(fit.high), 40).tolist():
        yield {"arm": fit.arm, "kl": d**2, "gain": fit.at(d**2) + base}


# --- training and length ----------------------------------------------------------------------------------------------


CURVES = {  # column of metrics.jsonl: title, note
    "log_ratio_preferred": ("Log-ratio of preferred responses", "nats; 0 is the reference; often falls too"),
    "log_ratio_other": ("Log-ratio of the other responses", "nats; 0 is the reference; falls further"),
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


def training_panels(study: StudyRecord) -> list[Panel]:
    """One chart for each quantity that any run logged; both log-ratios share their scale."""
    ratios = [
        row[name]
        for steps in study.metrics.values()
        for row in steps
        for name in ("log_ratio_preferred", "log_ratio_other")
        if math.isfinite(row.get(name, math.nan))
    ]
    panels = []
    for name, (title, note) in CURVES.items():
        rows = [row for run, steps in study.metrics.items() for row in _curve_of(study, run, steps, name)]
        domain = [min(ratios), max(ratios)] if name.startswith("log_ratio") and ratios else None
        if rows:
            panels.append(Panel(f"training-{name}", title, note, _training(study, rows, domain)))
    return panels


def _training(study: StudyRecord, rows: list[Row], domain: Sequence[float] | None) -> Spec:
    scale = alt.Scale(domain=domain, nice=True) if domain else alt.Scale(zero=False, nice=True)
    chart = _chart("steps").encode(x=_step_axis(), color=_colour(looks(study), legend=False), strokeDash=_dash(study))
    told = ["arm:N", "beta:N", "step:Q", alt.Tooltip("mean(smooth):Q", title="running mean", format=".3")]
    raw = alt.Y("value:Q", title=None, scale=scale)
    layers = [
        chart.mark_line(strokeWidth=1, opacity=0.22).encode(y=raw, detail="run:N"),
        chart.mark_line(strokeWidth=2).encode(y=alt.Y("mean(smooth):Q", title=None, scale=scale), tooltip=told),
    ]
    return _spec(layers, {"steps": rows})


def _curve_of(study: StudyRecord, run: str, steps: Sequence[Mapping[str, float]], name: str) -> Iterable[Row]:
    """Rows of one curve: means of equal bins of steps where there are many, and a running mean of about a tenth."""
    row = next((row for row in study.trained() if row.run == run), None)
    pairs = [(step["step"], step[name]) for step in steps if math.isfinite(step.get(name, math.nan))]
    if row is None or not pairs:
        return
    bins = np.array_split(np.array(pairs), min(len(pairs), BINS))
    means = np.stack([part.mean(axis=0) for part in bins])
    reach = max(len(means) // 20, 1)
    for i, (step, value) in enumerate(means.tolist()):
        smooth = float(means[max(i - reach, 0) : i + reach + 1, 1].mean())
        yield {
            "run": run,
            "arm": row.arm,
            "beta": _beta(row),
            "step": step,
            "value": value,
            "smooth": smooth,
        }


def length_panel(study: StudyRecord) -> Panel | None:
    """Length of the samples against the training step, beside the reference's."""
    names = run_names(study)
    rows = [_length_row(row, names) for row in study.trained() if row.length is not None]
    if not rows:
        return None
    reference = study.reference()
    start = [{"length": reference.length}] if reference and reference.length is not None else []
    y = alt.Y("length:Q", title="tokens per response", scale=alt.Scale(zero=False, nice=True))
    told = ["name:N", "step:Q", alt.Tooltip("text:N", title="tokens")]
    chart = _chart("lengths").encode(x=_step_axis(), color=_colour(looks(study), legend=False))
    mean = alt.Y("mean(length):Q", title="tokens per response", scale=alt.Scale(zero=False, nice=True))
    layers = [
        _chart("start").mark_rule(color=GREY, strokeDash=[2, 3]).encode(y=y),
        chart.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q"), y2="high:Q"),
        chart.mark_line(strokeWidth=2).encode(y=mean, strokeDash=_dash(study)),
        chart.mark_point(filled=True, size=36, opacity=1).encode(y=y, tooltip=told),
    ]
    spec = _spec(layers, {"lengths": rows, "start": start})
    return Panel("length", "Length of samples", "the dotted line is the reference", spec)


def _length_row(row: Result, names: Mapping[str, str]) -> Row:
    length, error = row.length or 0.0, row.length_se or 0.0
    return {
        "run": row.run,
        "name": names[row.run],
        "arm": row.arm,
        "beta": _beta(row),
        "step": row.step,
        "length": length,
        "low": length - error,
        "high": length + error,
        "text": str(Estimate(length, row.length_se)),
    }


# --- shared parts -----------------------------------------------------------------------------------------------------


def dashes(study: StudyRecord) -> dict[str, Sequence[int]]:
    """The line pattern of every β in the charts over steps; beyond five they return."""
    betas = dict.fromkeys(_beta(row) for row in sorted(study.trained(), key=lambda row: row.beta or 0.0))
    return {beta: DASHES[i % len(DASHES)] for i, beta in enumerate(betas)}


def _beta(row: Result) -> str:
    return "none" if row.beta is None else f"{row.beta:g}"


def _dash(study: StudyRecord) -> alt.StrokeDash:
    patterns = dashes(study)
    scale = alt.Scale(domain=list(patterns), range=[list(pattern) for pattern in patterns.values()])
    return alt.StrokeDash("beta:N", scale=scale, legend=None)


def _colour(styles: Mapping[str, Look], legend: bool) -> alt.Color:
    return alt.Color("arm:N", scale=_scale(styles, "colour"), legend=_legend(legend))


def _scale(styles: Mapping[str, Look], what: str) -> alt.Scale:
    return alt.Scale(domain=list(styles), range=[getattr(look, what) for look in styles.values()])


def _legend(shown: bool) -> alt.Legend | None:
    return alt.Legend(title=None, orient="top", symbolSize=120, symbolOpacity=1) if shown else None


def _step_axis() -> alt.X:
    axis = alt.Axis(tickMinStep=1, tickCount=8, grid=False)
    return alt.X("step:Q", title="optimiser step", axis=axis, scale=alt.Scale(nice=False))


def _chart(data: str) -> alt.Chart:
    return alt.Chart(alt.NamedData(data))


def _spec(layers: Sequence[alt.Chart], data: Mapping[str, list[Row]], *, height: int = 190) -> Spec:
    """The Vega-Lite specification of layered charts in the report's style, its names harmless and its numbers finite.

    The data join it afterwards, since altair checks every row of data that it is given against the whole grammar.
    """
    font = 'system-ui, -apple-system, "Segoe UI", Inter, Roboto, Helvetica, Arial, sans-serif'
    axis = {
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titleFontSize": 12.5,
        "labelFontSize": 11.5,
        "titlePadding": 8,
        "titleLimit": 340,
        "gridColor": "#eceef1",
        "domainColor": "#c9cdd3",
        "tickColor": "#c9cdd3",
    }
    styled = (
        alt.layer(*layers, width="container", height=height)
        .configure(font=font, background="white", padding=4)
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_legend(labelFontSize=13, labelColor=INK)
    )
    return cast(Spec, _harmless(styled.to_dict() | {"datasets": data}))


def _harmless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return harmless(value) if isinstance(value, str) else value
