"""How well predictions of held-out votes agree with the votes: of implicit rewards, and of learned ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from ..evidence import StudyRecord
from .frontier import Panel
from .looks import Look, beta_text, dashes, looks
from .svg import Axis, Frame, chart, dot, line

WIDTH = 0.05  # of a bin
NOBODY = Look(-1, "a0", "circle")  # of what belongs to no arm


class Bin(NamedTuple):
    """Votes that were predicted about alike: the mean prediction, the share that agrees, and how many they are."""

    predicted: float
    observed: float
    votes: float


def calibration_panels(study: StudyRecord) -> list[Panel]:
    """What each arm's last policies predict of held-out votes against what the votes say, the runs at one β together.

    Of runs without label noise, where a study has several rates.
    """
    part = study.at_noise(study.noises()[0])
    found: dict[str, dict[str, list[Bin]]] = defaultdict(lambda: defaultdict(list))
    for row in part.finals():
        found[row.arm][beta_text(row)] += bins_of(study.info["calibration"].get(row.run))
    panels = []
    for arm, look in looks(study).items():
        betas = {beta: pooled(bins) for beta, bins in found[arm].items() if bins}
        if betas:
            title, dashed = f"Calibration of {arm}", dashes(study)
            drawn = reliability_chart(betas, look, title, {beta: dashed[beta] for beta in betas})
            panels.append(Panel(arm, ", ".join(betas), drawn))
    return panels


def reward_reliability(reward: Mapping[str, Any]) -> Panel | None:
    """The same of the learned rewards, by their seed."""
    found = {seed: bins_of(info.get("reliability")) for seed, info in reward.items() if isinstance(info, Mapping)}
    found = {seed: bins for seed, bins in found.items() if bins}
    if not found:
        return None
    title = "Calibration of the learned reward"
    return Panel(title, "on held-out votes", reliability_chart(found, NOBODY, title, {}))


def bins_of(value: Any) -> list[Bin]:
    """Every bin that is whole; what a file holds of another kind is no bin."""
    rows = [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []
    return [Bin(*(float(row[name]) for name in Bin._fields)) for row in rows if _is_whole(row)]


def _is_whole(row: Mapping[str, Any]) -> bool:
    values = [row.get(name) for name in Bin._fields]
    numbers = [value for value in values if isinstance(value, int | float) and abs(value) < math.inf]
    return len(numbers) == 3 and 0.5 <= numbers[0] <= 1 and 0 <= numbers[1] <= 1 and numbers[2] > 0


def pooled(bins: Iterable[Bin]) -> list[Bin]:
    """Bins of several runs as one: those that cover the same predictions together, every vote counting once."""
    groups: dict[int, list[Bin]] = defaultdict(list)
    for found in bins:
        groups[min(int((found.predicted - 0.5) / WIDTH), 9)].append(found)
    return [_together(groups[place]) for place in sorted(groups)]


def _together(bins: Sequence[Bin]) -> Bin:
    votes = sum(found.votes for found in bins)
    predicted, observed = (sum(found.votes * found[i] for found in bins) / votes for i in (0, 1))
    return Bin(predicted, observed, votes)


def reliability_chart(
    curves: Mapping[str, Sequence[Bin]], look: Look, words: str, patterns: Mapping[str, Sequence[int]]
) -> Markup:
    """Predicted against observed from ½ to 1; the larger a mark, the more votes; on the diagonal all is well."""
    low = 0.0 if any(found.observed < 0.4 for bins in curves.values() for found in bins) else 0.4
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if low == 0 else (0.4, 0.6, 0.8, 1.0)
    x, y = Axis("predicted", 0.48, 1.02, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)), Axis("observed", low - 0.02, 1.03, ticks)
    frame = Frame(300, 260, x, y, left=40, top=25)
    most = max(found.votes for bins in curves.values() for found in bins)
    marks = [line([frame.at(0.5, 0.5), frame.at(1, 1)], "base")]
    for name, bins in curves.items():
        places = [frame.at(found.predicted, found.observed) for found in bins]
        marks.append(line(places, f"line thin {look.colour}", look.number, patterns.get(name, ())))
        for place, found in zip(places, bins, strict=True):
            tip = f"{name}\npredicted {found.predicted:.2f}, observed {found.observed:.2f}\n{found.votes:g} votes"
            size = 0.5 + 0.8 * math.sqrt(found.votes / most)
            marks.append(dot(place, look.shape, f"dot end-dot {look.colour}", look.number, tip, size))
    return chart(frame, marks, f"{words}: predicted against observed share")
