"""The frontier as a file: an .svg that stands alone, or a .png of it."""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from pathlib import Path

import vl_convert
from markupsafe import Markup

from ..errors import UserError
from ..evidence import StudyRecord, Verdict, read_study, verdict
from .frontier import draw, scene_of

SIZE = (760, 480)


def frontier_image(folder: Path, out: Path) -> Path:
    """Draw the frontier of a study folder (of its first rate of label noise) to `out`, an .svg or .png file.

    Raises UserError for a folder that is no study, for one without a point, or another ending.
    """
    if out.suffix not in (".svg", ".png"):
        raise UserError(f"{out}: the picture is an .svg or a .png file, by its ending")
    study = read_study(folder)
    svg = frontier_svg(study, verdict(study))
    if not svg:
        raise UserError(f"{folder} has no frontier to draw yet: no run has reached a checkpoint with a KL")
    if out.suffix == ".svg":
        out.write_text(svg, encoding="utf-8")
    else:
        out.write_bytes(png_of(svg))
    return out


def frontier_svg(study: StudyRecord, answer: Verdict) -> str:
    """The frontier at the first rate of label noise as the text of an .svg file; "" without points."""
    noise = study.noises()[0]
    part = answer.at_noise(noise)
    if not part.points:
        return ""
    return alone(draw(scene_of(study.at_noise(noise), part), *SIZE, legend=True))


def png_of(svg: str) -> bytes:
    """The picture of an .svg, two pixels for one."""
    return bytes(vl_convert.svg_to_png(svg, scale=2))


def alone(svg: Markup) -> str:
    """A chart of the page as a file of its own: its style in the light colours, on white."""
    head, rest = str(svg).split(">", 1)
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', head)
    assert size is not None
    sized = head.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[1]}" height="{size[2]}" ', 1)
    ground = f'<rect width="{size[1]}" height="{size[2]}" fill="#fff"/>'
    return f"{sized}><style>{_style()}</style>{ground}{rest}"


@functools.cache
def _style() -> str:
    here = files("preftune.report")
    light = here.joinpath("theme.css").read_text(encoding="utf-8").split("@media")[0]
    values = dict(re.findall(r"--([\w-]+): ([^;]+);", light))
    style = here.joinpath("chart.css").read_text(encoding="utf-8")
    return re.sub(r"var\(--([\w-]+)\)", lambda name: values[name[1]], style)
