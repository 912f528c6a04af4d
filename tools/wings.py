"""Draw docs/wings.svg: the wings of the package, from the import contract in pyproject.toml.

    python tools/wings.py

A row is a layer of the contract "Wings import one way": what stands in it may import what stands below it. A box has
the wing's name, the first sentence of its docstring and its files, those on top first. A shaded box loads no torch.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "preftune"
WIDTH, MARGIN, GAP = 920, 12, 8
NAME, SENTENCE, FILES = 19, 16, 14  # heights of a line
SENTENCE_CHARACTER, FILES_CHARACTER = 6.5, 6.8  # widths in pixels, on the safe side
PLAIN, SHADED, LINE = "#ffffff", "#eaf2ec", "#9aa3ad"
STYLE = """
text { font-family: system-ui, "Helvetica Neue", Arial, sans-serif; fill: #23292f; }
.name { font-size: 14px; font-weight: 650; } .says { font-size: 12.5px; }
.files { font-size: 11px; fill: #5b6570; font-family: ui-monospace, Menlo, Consolas, monospace; }
"""


def contracts() -> list[dict[str, Any]]:
    """The import contracts."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return found


def layers(container: str) -> list[list[str]]:
    """The layers of a package from the top, the modules of each; none if there is no contract about it."""
    for contract in contracts():
        if contract["type"] == "layers" and contract["containers"] == [container]:
            return [layer.split(" | ") for layer in contract["layers"]]
    return []


def torch_free() -> set[str]:
    """The wings that the contracts keep from torch, whole ones, and the files beside the wings."""
    sources = next(contract["source_modules"] for contract in contracts() if contract["type"] == "forbidden")
    whole = {name.split(".")[1] for name in sources if name.count(".") == 1}
    return whole | {path.stem for path in PACKAGE.glob("*.py")}


def sentence(wing: str) -> str:
    """The first sentence of the docstring of a wing, or of a file beside the wings."""
    folder, file = PACKAGE / wing / "__init__.py", PACKAGE / f"{wing}.py"
    text = ast.get_docstring(ast.parse((folder if folder.exists() else file).read_text(encoding="utf-8"))) or ""
    first = text.split("\n\n")[0].replace("\n", " ")
    return first.split(". ")[0].rstrip(".").replace("`", "")


def box(wing: str, width: float) -> list[tuple[str, int, str]]:
    """The lines of a box: (class, height, text)."""
    inside = width - 2 * MARGIN
    ordered = [name for layer in layers(f"preftune.{wing}") for name in layer]
    files = [name.lstrip("_") for name in ordered or sorted(path.stem for path in (PACKAGE / wing).glob("[!_]*.py"))]
    lines = [("name", NAME, wing)]
    lines += [("says", SENTENCE, line) for line in textwrap.wrap(sentence(wing), int(inside / SENTENCE_CHARACTER))]
    return lines + [("files", FILES, line) for line in textwrap.wrap(" ".join(files), int(inside / FILES_CHARACTER))]


def row(wings: Sequence[str], top: float) -> tuple[list[str], float]:
    """The boxes of a layer side by side, and the height of the row."""
    width = (WIDTH - GAP * (len(wings) + 1)) / len(wings)
    boxes = [box(wing, width) for wing in wings]
    height = max(sum(height for _, height, _ in lines) for lines in boxes) + MARGIN
    drawn = []
    for number, (wing, lines) in enumerate(zip(wings, boxes, strict=True)):
        left = GAP + number * (width + GAP)
        fill = SHADED if wing in torch_free() else PLAIN
        size = f'x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="5"'
        drawn.append(f'<rect {size} fill="{fill}" stroke="{LINE}"/>')
        drawn += list(written(lines, left + MARGIN, top))
    return drawn, height


def written(lines: Sequence[tuple[str, int, str]], left: float, top: float) -> Iterator[str]:
    """The lines of a box as text."""
    for kind, height, text in lines:
        top += height
        yield f'<text class="{kind}" x="{left:g}" y="{top:g}">{escape(text)}</text>'


def draw() -> str:
    """The picture."""
    top, parts = float(GAP), []
    for wings in layers("preftune")[1:]:  # below __main__
        drawn, height = row(wings, top)
        parts += drawn
        top += height + GAP
    note = "What stands higher may import what stands lower. Shaded: loads no torch."
    parts.append(f'<text class="says" x="{GAP + MARGIN}" y="{top + 10:g}">{note}</text>')
    size = f'width="{WIDTH}" height="{top + 22:g}" viewBox="0 0 {WIDTH} {top + 22:g}"'
    ground = '<rect width="100%" height="100%" fill="#fafbfc"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="The wings of preftune">'
    return "\n".join([head, f"<style>{STYLE}</style>", ground, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "wings.svg").write_text(draw(), encoding="utf-8")
