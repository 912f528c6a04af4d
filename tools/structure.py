"""The shape of the code in numbers: files, lines, function bodies, parameters, floors and arrows between wings.

    python tools/structure.py [FOLDER]

FOLDER is a checkout (by default this one). A wing is a folder of the package or a file beside them. A floor is the
longest way down from a wing, or a file, to one that imports nothing of ours; an arrow is a pair of which one imports
the other. A body is the lines of a function below its docstring, comments and blank lines left out.
"""

from __future__ import annotations

import ast
import math
import statistics
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import grimp

Arrows = dict[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function, code: set[int]) -> int:
    """Lines with code on them, from the first statement after the docstring to the last."""
    first, *rest = function.body
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    statements = rest if documented else function.body
    if not statements:
        return 0
    return sum(line in code for line in range(statements[0].lineno, (statements[-1].end_lineno or 0) + 1))


def parameters(function: Function) -> int:
    """How many there are, `self` and `cls` left out."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def code_lines(text: str) -> set[int]:
    """The numbers of the lines that hold more than a comment."""
    return {number for number, line in enumerate(text.split("\n"), 1) if line.strip() and line.strip()[0] != "#"}


def functions(files: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """(body lines, parameters) of every function, methods and inner functions too."""
    for path in files:
        text = path.read_text(encoding="utf-8")
        code = code_lines(text)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                yield body_lines(node, code), parameters(node)


def arrows_between(graph: grimp.ImportGraph, package: str) -> tuple[Arrows, Arrows]:
    """Which wing imports which, and which file which."""
    wings: Arrows = {}
    files: Arrows = {}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            files.setdefault(module, set()).add(imported)
            ours, other = (wing_of(name, package) for name in (module, imported))
            if ours != other and "" not in (ours, other):
                wings.setdefault(ours, set()).add(other)
    return wings, files


def wing_of(module: str, package: str) -> str:
    """The folder, or the file beside them, that a module belongs to; empty for the package itself."""
    return module.removeprefix(package).removeprefix(".").split(".")[0]


def floors(arrows: Arrows) -> int:
    """The longest way down, counted in places. An arrow that closes a circle is not followed."""
    open_places: set[str] = set()

    @cache
    def height(place: str) -> int:
        open_places.add(place)
        below = [height(other) for other in arrows.get(place, ()) if other not in open_places]
        open_places.discard(place)
        return 1 + max(below, default=0)

    return max(map(height, list(arrows)), default=0)


def spread(values: list[int]) -> str:
    """Median, the value that nine tenths do not exceed, largest."""
    ordered = sorted(values)
    return f"{statistics.median(values):g}, {ordered[math.ceil(0.9 * len(values)) - 1]}, {ordered[-1]}"


def table(root: Path) -> list[tuple[str, str]]:
    """(what, number) of a checkout."""
    package = root / "src" / "preftune"
    files = sorted(package.rglob("*.py"))
    lengths = {path: len(path.read_text(encoding="utf-8").split("\n")) - 1 for path in files}
    longest = max(lengths, key=lambda path: lengths[path])
    bodies, given = (list(column) for column in zip(*functions(files), strict=True))
    sys.path.insert(0, str(root / "src"))
    graph = grimp.build_graph("preftune", exclude_type_checking_imports=True, cache_dir=None)
    wings, modules = arrows_between(graph, "preftune")
    places = {wing_of(module, "preftune") for module in graph.modules} - {""}
    return [
        ("files", str(len(files))),
        ("lines", f"{sum(lengths.values()):,}"),
        ("longest file", f"{lengths[longest]} ({longest.relative_to(package)})"),
        (
            "function bodies: median, 90%, longest",
            spread(bodies),
        ),
        ("parameters: median, 90%, most", spread(given)),
        ("functions with more than 6 parameters", str(sum(count > 6 for count in given))),
        ("places in the package's folder", str(len(places))),
        ("floors of places", str(floors(wings))),
        ("arrows between places", str(sum(map(len, wings.values())))),
        ("arrows between files", str(sum(map(len, modules.values())))),
    ]


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]).resolve()
    for what, number in table(root):
        print(f"{what:40}{number}")


if __name__ == "__main__":
    main()
