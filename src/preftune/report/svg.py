"""A chart as SVG text: axes, marks and labels in the pixels of a frame. Every text is escaped, every number finite.

Colours and sizes are classes (`chart.css`), so that one drawing serves a light page, a dark one, paper and a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from ..text import harmless

Place = tuple[float, float]

FAR = 1e300  # what is farther from 0 is on no axis
OUTSIDE = 10.0  # times the plot
SHAPES = {  # about 10 pixels wide, around the origin
    "circle": "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z",
    "square": "M-4.4-4.4H4.4V4.4H-4.4Z",
    "triangle-up": "M0-5.6 5.4 4H-5.4Z",
    "diamond": "M0-6 5.4 0 0 6-5.4 0Z",
    "cross": "M-1.8-5.4H1.8V-1.8H5.4V1.8H1.8V5.4H-1.8V1.8H-5.4V-1.8H-1.8Z",
    "triangle-down": "M0 5.6-5.4-4H5.4Z",
}


class Axis(NamedTuple):
    """What an axis shows, from `low` to `high`, on a linear or a square-root scale."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    root: bool = False

    def at(self, value: float) -> float:
        """The share of the axis that lies below a value, from 0 to 1."""
        low, high, here = (math.sqrt(max(v, 0.0)) if self.root else v for v in (self.low, self.high, value))
        return (here - low) / (high - low)


class Frame(NamedTuple):
    """The pixels of a chart: what lies around its plot, and where a pair of values lies in it."""

    width: int
    height: int
    x: Axis
    y: Axis
    left: int = 50
    right: int = 14
    top: int = 12
    bottom: int = 42

    def at(self, x: float, y: float) -> Place:
        """The pixels of a pair of values; what is far outside of the plot stays so, and finite."""
        across, up = (min(max(share, -OUTSIDE), OUTSIDE) for share in (self.x.at(x), self.y.at(y)))
        wide, high = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + across * wide, self.top + (1 - up) * high


# --- axes -------------------------------------------------------------------------------------------------------------


def axis_over(title: str, values: Iterable[float], count: int = 6, *, zero: bool = False, least: float = 0.0) -> Axis:
    """A linear axis over all values (and 0, if asked), at least so long, with about `count` round ticks."""
    found = [value for value in values if abs(value) < FAR] + [0.0] * zero
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    size = max(abs(low), abs(high))
    one_value = 0.1 * size or 1.0 if high - low <= 1e-6 * size else 0.0
    missing = max(least, one_value) - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    space = 0.04 * (high - low)
    low, high = low if zero and low == 0 else low - space, high + space
    return Axis(title, low, high, round_ticks(low, high, count))


def root_axis(title: str, values: Iterable[float], count: int = 6) -> Axis:
    """A square-root axis from 0 over all finite values; its ticks are about evenly spaced and have one digit."""
    top = max((value for value in values if abs(value) < FAR), default=0.0) * 1.06 or 1.0
    wanted = (top * (i / count) ** 2 for i in range(1, count + 1))
    ticks = dict.fromkeys([0.0, *(float(f"{value:.1g}") for value in wanted)])
    return Axis(title, 0.0, top, tuple(tick for tick in ticks if tick <= top), root=True)


def frame_of(width: int, height: int, x: Axis, y: Axis) -> Frame:
    """A frame with as much room at its left as the numbers of the vertical axis need, and at its top for its title."""
    longest = max(map(len, tick_texts(y)), default=0)
    return Frame(width, height, x, y, left=round(14 + 6.8 * longest), top=25 if y.title else 12)


def round_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten between two ends, about `count` of them."""
    rough = (high - low) / max(count, 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(step * i for i in range(first, last + 1))


def tick_texts(axis: Axis) -> list[str]:
    """The ticks in print, all with the decimals that the finest of them needs."""
    if axis.root:
        return [f"{tick:g}" for tick in axis.ticks]
    alone = abs(axis.ticks[0]) if axis.ticks else 0.0
    step = min((b - a for a, b in itertools.pairwise(axis.ticks)), default=alone or 1.0)
    decimals = next((d for d in range(9) if abs(step * 10**d - round(step * 10**d)) < 1e-3 * step * 10**d), 9)
    if step >= 10_000_000:
        return [f"{tick:.3g}".replace("-", "−") for tick in axis.ticks]
    if step >= 10_000:
        return [f"{tick / 1000:,.0f}k" for tick in axis.ticks]
    return [f"{tick:,.{decimals}f}".replace("-", "−") for tick in axis.ticks]


def axes(frame: Frame) -> Markup:
    """The grid, the numbers at both axes, and their titles."""
    right, floor = frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for tick, words in zip(frame.y.ticks, tick_texts(frame.y), strict=True):
        y = frame.at(frame.x.low, tick)[1]
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(frame.left, y, right))
        parts.append(label((frame.left - 7, y + 4), words, "tick end"))
    for tick, words in zip(frame.x.ticks, tick_texts(frame.x), strict=True):
        x = frame.at(tick, frame.y.low)[0]
        parts.append(Markup('<path class="axis" d="M{:.1f} {}v4"/>').format(x, floor))
        parts.append(label((x, floor + 17), words, "tick mid"))
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(frame.left, floor, right))
    parts.append(label(((frame.left + right) / 2, frame.height - 6), frame.x.title, "name mid"))
    if frame.y.title:
        parts.append(label((2, frame.top - 11), frame.y.title, "name"))
    return Markup("").join(parts)


# --- marks ------------------------------------------------------------------------------------------------------------


def label(place: Place, words: str, classes: str) -> Markup:
    """A text at a place."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(classes, *place, harmless(words))


def line(places: Sequence[Place], classes: str, arm: int | None = None, dash: Sequence[int] = ()) -> Markup:
    """A line through places; places that are no numbers break it."""
    d, pen = [], "M"
    for x, y in places:
        if math.isfinite(x) and math.isfinite(y):
            d.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    dashed = Markup(' stroke-dasharray="{}"').format(" ".join(map(str, dash))) if len(dash) > 1 and dash[1] else ""
    return Markup('<path class="{}"{}{} d="{}"/>').format(classes, of_arm(arm), dashed, "".join(d))


def dot(place: Place, shape: str, classes: str, arm: int, tip: str = "", size: float = 1.0) -> Markup:
    """A mark of an arm's shape; `tip` is what a reader is told who points at it."""
    scale = "" if size == 1 else f" scale({size:g})"
    told = Markup(' data-tip="{}"').format(harmless(tip)) if tip else ""
    mark = Markup('<path class="{}"{}{} transform="translate({:.1f} {:.1f}){}" d="{}"/>')
    return mark.format(classes, of_arm(arm), told, *place, scale, SHAPES[shape])


def of_arm(arm: int | None) -> Markup:
    """The attribute by which the page hides and shows what belongs to an arm."""
    return Markup("") if arm is None else Markup(' data-arm="{}"').format(arm)


def chart(frame: Frame, marks: Iterable[Markup], words: str, classes: str = "") -> Markup:
    """The whole chart, which fills the width that it is given; `words` say what it shows to whoever cannot see it."""
    head = Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    opening = head.format(classes, frame.width, frame.height, harmless(words))
    return opening + axes(frame) + Markup("").join(marks) + Markup("</svg>")
