"""The frontier drawn: gain over the reference against KL, with the paths of the runs and where arms can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from ..evidence import (
    ACCURACY,
    CHANCE,
    REWARD,
    Estimate,
    Frontier,
    Point,
    StudyRecord,
    Verdict,
    bracket,
    noise_in_words,
    proxy_view,
    run_names,
)
from .looks import Look, looks
from .svg import Axis, Frame, Place, axis_over, chart, dot, frame_of, label, line, of_arm, root_axis

MOST_PLACES = 4  # of comparison that are drawn
FEW = 60  # points up to which every checkpoint has its error bars
KL_TITLE = "KL from the reference, nats (√ scale)"


class Panel(NamedTuple):
    """One chart with the words around it; `wide` and `narrow` are the same for a desk and for a phone."""

    title: str
    note: str
    wide: Markup
    narrow: Markup | None = None


class Scene(NamedTuple):
    """What a frontier is drawn from: points and fits of one rate of label noise, and the names of everything."""

    answer: Verdict
    looks: Mapping[str, Look]
    names: Mapping[str, str]
    base: float  # where the reference lies on the vertical axis

    @property
    def ends(self) -> list[Point]:
        """The last point of every run, and every n of a selection."""
        last: dict[str, int] = {}
        for point in self.answer.points:
            last[point.run] = max(last.get(point.run, 0), point.step)
        return [point for point in self.answer.points if point.end or point.step == last[point.run]]


def frontier_panels(study: StudyRecord, view: Verdict) -> list[Panel]:
    """Gain against KL: a point per checkpoint, a path per run, a fitted curve per arm. A chart per rate of noise."""
    several = len(study.noises()) > 1
    panels = []
    for noise in study.noises():
        part = view.at_noise(noise)
        if part.points:
            scene = scene_of(study, part)
            title = noise_in_words(noise) if several else ""
            wide, narrow = draw(scene, 760, 440), draw(scene, 380, 340)
            panels.append(Panel(title, "", wide, narrow))
    return panels


def proxy_panels(study: StudyRecord, answer: Verdict) -> list[Panel]:
    """The same runs by the learned reward, where a study has one."""
    view = proxy_view(study, answer) if answer.points else None
    return frontier_panels(study, view) if view else []


def scene_of(study: StudyRecord, part: Verdict) -> Scene:
    """What one chart is drawn from."""
    return Scene(part, looks(study), run_names(study), 0.0 if part.axis == REWARD else CHANCE)


def draw(scene: Scene, width: int, height: int, *, legend: bool = False) -> Markup:
    """The chart of one rate of label noise."""
    frame = _frame(scene, width, height, legend)
    marks = [
        *_compared(scene, frame),
        line([frame.at(0, scene.base), frame.at(frame.x.high, scene.base)], "base"),
        *(_legend(scene, frame) if legend else []),
        *_curves(scene, frame),
        *_paths(scene, frame),
        *_bars(scene, frame),
        *_dots(scene, frame),
        *_brackets(scene, frame),
        *_labels(scene, frame),
    ]
    return chart(frame, marks, f"{scene.answer.axis_label} against KL from the reference")


def _frame(scene: Scene, width: int, height: int, legend: bool) -> Frame:
    points = scene.answer.points
    few = width < 500
    gains = [scene.base, *(end for point in points for end in _interval(point, scene.base))]
    gains += [fit.at(kl) + scene.base for fit in scene.answer.frontiers for kl in (fit.low, fit.high)]
    x = root_axis(KL_TITLE, (point.kl + (point.kl_se or 0.0) for point in points), 4 if few else 7)
    y = axis_over(scene.answer.axis_label, gains, 5 if few else 7)
    room = 0.03 + 0.022 * min(len(scene.looks), 6)  # under the points, for the brackets
    y = Axis(y.title, y.low - room * (y.high - y.low), y.high, y.ticks)
    return frame_of(width, height, x, y)._replace(top=58 if legend else 27)


def _interval(point: Point, base: float) -> tuple[float, float]:
    error = point.gain_se if point.gain_se is not None and math.isfinite(point.gain_se) else 0.0
    return point.gain + base - error, point.gain + base + error


def _place(point: Point, scene: Scene, frame: Frame) -> Place:
    return frame.at(point.kl, point.gain + scene.base)


# --- the layers -------------------------------------------------------------------------------------------------------


def _compared(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """Where pairs of arms are compared, if these are few places; said where there is one."""
    places = sorted({pair.kl for pair in scene.answer.comparisons if pair.difference and pair.kl})
    for kl in places if len(places) <= MOST_PLACES else ():
        x, top = frame.at(kl, frame.y.high)
        yield line([(x, top), (x, frame.height - frame.bottom)], "rule")
        if len(places) == 1:
            beside, side = (x + 5, "note") if x + 140 < frame.width else (x - 5, "note end")
            yield label((beside, top + 10), f"compared at {kl:.2g} nats", side)


def _curves(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """The fit where the arm has points: between the reference and the nearest of them nothing holds it."""
    for fit in scene.answer.frontiers:
        look = scene.looks[fit.arm]
        places = [frame.at(kl, fit.at(kl) + scene.base) for kl in _between(fit)]
        yield line(places, f"line broad {look.colour}", look.number)


def _between(fit: Frontier) -> list[float]:
    return [d**2 for d in np.linspace(math.sqrt(fit.low), math.sqrt(fit.high), 30).tolist()]


def _paths(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """Every run's checkpoints in the order of training, from the reference on."""
    runs: dict[str, list[Point]] = {}
    for point in scene.answer.points:
        runs.setdefault(point.run, []).append(point)
    weight = "thin" if len(runs) <= 24 else "faint"
    for points in runs.values():
        look = scene.looks[points[0].arm]
        places = [_place(point, scene, frame) for point in sorted(points, key=lambda point: point.step)]
        yield line([frame.at(0, scene.base), *places], f"line {weight} {look.colour}", look.number)


def _bars(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """One standard error both ways, of every checkpoint where there are few, of ends else."""
    for point in scene.answer.points if len(scene.answer.points) <= FEW else scene.ends:
        look, (x, y) = scene.looks[point.arm], _place(point, scene, frame)
        low, high = (frame.at(point.kl, gain)[1] for gain in _interval(point, scene.base))
        error = point.kl_se if point.kl_se is not None and math.isfinite(point.kl_se) else 0.0
        left, right = (frame.at(max(point.kl + side * error, 0.0), point.gain)[0] for side in (-1, 1))
        d = f"M{x:.1f} {low:.1f}V{high:.1f}M{left:.1f} {y:.1f}H{right:.1f}"
        yield Markup('<path class="bars {}"{} d="{}"/>').format(look.colour, of_arm(look.number), d)


def _dots(scene: Scene, frame: Frame) -> Iterator[Markup]:
    ends = scene.ends
    small = 0.55 if len(scene.answer.points) <= FEW else 0.4
    large = 1.2 if len(ends) <= 24 else 0.8
    others = [point for point in scene.answer.points if point not in set(ends)]
    for point, size in [*((p, small) for p in others), *((p, large) for p in ends)]:
        look = scene.looks[point.arm]
        classes = f"dot {look.colour}" + (" end-dot" if size == large else "")
        yield dot(_place(point, scene, frame), look.shape, classes, look.number, _tip(point, scene), size)


def _tip(point: Point, scene: Scene) -> str:
    seed = "" if "seed" in scene.names[point.run] else f", seed {point.seed}"
    gain = Estimate(point.gain + scene.base, point.gain_se)
    what = "gain" if scene.answer.axis == REWARD else scene.answer.axis
    return (
        f"{scene.names[point.run]}{seed}, step {point.step}\n{what} {gain}\nKL {Estimate(point.kl, point.kl_se)} nats"
    )


def _brackets(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """Under the points, from which KL to which each arm can be compared."""
    if scene.answer.axis == ACCURACY or len(scene.looks) > 6:
        return
    for row, (arm, look) in enumerate(scene.looks.items()):
        found = bracket([point for point in scene.answer.points if point.arm == arm])
        if found:
            left, right = (frame.at(kl, frame.y.low)[0] for kl in found)
            y = frame.height - frame.bottom - 6 - 7 * row
            d = f"M{left:.1f} {y - 3}v6M{left:.1f} {y}H{max(right, left + 1):.1f}M{right:.1f} {y - 3}v6"
            yield Markup('<path class="bracket {}"{} d="{}"/>').format(look.colour, of_arm(look.number), d)


def _legend(scene: Scene, frame: Frame) -> Iterator[Markup]:
    x = float(frame.left)
    for arm, look in scene.looks.items():
        yield dot((x + 7, 16), look.shape, f"dot {look.colour}", look.number, size=1.2)
        yield label((x + 19, 20.5), arm, "name")
        x += 36 + 7.2 * len(arm)


# --- names of ends ----------------------------------------------------------------------------------------------------


def _labels(scene: Scene, frame: Frame) -> Iterator[Markup]:
    """The β of the ends, once for each arm and β, where there is room; of many, none."""
    groups: dict[tuple[str, float], list[Place]] = {}
    for point in scene.ends:
        if point.beta is not None:
            groups.setdefault((point.arm, point.beta), []).append(_place(point, scene, frame))
    if len(groups) > 12:
        return
    taken = [_box(place, 6) for places in groups.values() for place in places]
    for (arm, beta), places in groups.items():
        words, look = f"β {beta:g}", scene.looks[arm]
        found = next((spot for spot in _spots(places, words) if _free(spot, words, taken, frame)), None)
        if found:
            taken.append(_text_box(found, words))
            text = Markup('<text class="of-arm {}"{} x="{:.1f}" y="{:.1f}">{}</text>')
            yield text.format(look.colour, of_arm(look.number), *found, words)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _spots(places: Iterable[Place], words: str) -> Iterator[Place]:
    """Where a label may begin: beside each place, right, below, above or left of it."""
    long = 6.6 * len(words)
    for x, y in sorted(places, reverse=True):
        yield from ((x + 9, y + 15), (x + 10, y - 8), (x - long - 8, y + 15), (x - long - 8, y - 8))


def _box(place: Place, size: float) -> Box:
    return place[0] - size, place[1] - size, place[0] + size, place[1] + size


def _text_box(spot: Place, words: str) -> Box:
    return spot[0] - 1, spot[1] - 10, spot[0] + 6.6 * len(words), spot[1] + 3


def _free(spot: Place, words: str, taken: Sequence[Box], frame: Frame) -> bool:
    left, top, right, bottom = _text_box(spot, words)
    inside = left >= frame.left and right <= frame.width and top >= 0 and bottom <= frame.height - frame.bottom
    return inside and not any(left < r and x < right and top < b and y < bottom for x, y, r, b in taken)
