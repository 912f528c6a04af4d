"""How an arm looks wherever it is drawn: its colour, its shape, and the line pattern of each β."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from ..evidence import Result, StudyRecord
from .svg import SHAPES

COLOURS = 6  # of `theme.css`
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4))


class Look(NamedTuple):
    """The number of an arm among the study's, and the class of its colour and its shape."""

    number: int
    colour: str
    shape: str

    def swatch(self) -> Markup:
        """The arm's mark, to stand before its name."""
        mark = '<svg class="swatch {}" viewBox="-7 -7 14 14" aria-hidden="true"><path class="dot" d="{}"/></svg>'
        return Markup(mark).format(self.colour, SHAPES[self.shape])


def looks(study: StudyRecord) -> dict[str, Look]:
    """The look of every arm, in the order of the study; beyond six arms the colours return with other shapes."""
    arms = dict.fromkeys([*study.info["arms"], *(row.arm for row in study.trained())])
    shapes = list(SHAPES)
    return {arm: Look(i, f"a{i % COLOURS}", shapes[(i + i // COLOURS) % len(shapes)]) for i, arm in enumerate(arms)}


def dashes(study: StudyRecord) -> dict[str, Sequence[int]]:
    """The line pattern of every β in the charts over steps; beyond five they return."""
    betas = dict.fromkeys(beta_text(row) for row in sorted(study.trained(), key=lambda row: row.beta or 0.0))
    return {beta: DASHES[i % len(DASHES)] for i, beta in enumerate(betas)}


def beta_text(row: Result) -> str:
    """A row's β in print, or that it has none."""
    return "no β" if row.beta is None else f"β {row.beta:g}"
