"""Lengths as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tally import WIDTHS, Lengths, width_class

WIDTH, HEIGHT, FLOOR, TOP = 720, 230, 200, 10
LABELS = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


def lengths_chart(lengths: Lengths) -> Mapping[str, Any]:
    """Paths of the three distributions over the classes that any of them reaches, and labels of the axis."""
    kinds = {"prompts": lengths.prompts, "preferred": lengths.preferred, "other": lengths.other}
    reached = [place for place in range(WIDTHS) if any(counts[place] for counts in kinds.values())] or [0]
    first, last = max(reached[0] - 1, 0), min(reached[-1] + 1, WIDTHS - 1)
    shares = {name: _shares(counts[first : last + 1]) for name, counts in kinds.items()}
    step = WIDTH / max(last - first, 1)
    highest = max(max(part) for part in shares.values()) or 1.0
    paths = {name: _path(part, step, highest, closed=name == "prompts") for name, part in shares.items()}
    ticks = [(round((width_class(size) - first) * step), f"{size:,}") for size in LABELS]
    ticks = [(x, label) for x, label in ticks if 20 <= x <= WIDTH - 30]
    return {**paths, "ticks": ticks, "width": WIDTH, "height": HEIGHT, "floor": FLOOR}


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _path(shares: Sequence[float], step: float, highest: float, *, closed: bool) -> str:
    points = [(i * step, FLOOR - (FLOOR - TOP) * share / highest) for i, share in enumerate(shares)]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"{line}L{points[-1][0]:.1f} {FLOOR}L0 {FLOOR}Z" if closed else line
