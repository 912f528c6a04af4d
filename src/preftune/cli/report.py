"""`preftune report`: a study's page, drawn again; two studies beside each other; the answer in other forms."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .command import Command
from .flags import Parsed

COMPARISON = "comparison.html"


def run(given: Parsed) -> None:
    folders = _checked(given)
    if "json" in given or "md" in given:
        from ..report import markdown, verdict_json

        print(verdict_json(folders) if "json" in given else markdown(folders))
        return
    from ..report import write_comparison, write_report

    if len(folders) > 1:
        print(f"report: {write_comparison(folders[0], folders[1], Path(given.get('out', COMPARISON)))}")
    else:
        print(f"report: {write_report(folders[0])}")


def _checked(given: Parsed) -> list[Path]:
    """The folders that were named: two with --compare, one without."""
    folders = [Path(folder) for folder in given["folders"]]
    compare = "compare" in given
    if compare and len(folders) != 2:
        raise UserError(f"--compare puts two studies beside each other; {len(folders)} named")
    if not compare and len(folders) != 1:
        raise UserError(f"one study has one report; {len(folders)} named: give --compare for two beside each other")
    if "json" in given and "md" in given:
        raise UserError("--json and --md each print the answer; give one of them")
    if "out" in given and (not compare or "json" in given or "md" in given):
        raise UserError("--out is the page of --compare; a study's own report stands in its folder")
    if "out" in given and (Path(given["out"]).is_dir() or not Path(given["out"]).parent.is_dir()):
        raise UserError(f"--out {given['out']}: name a file in a folder that is there")
    return folders


COMMAND = Command(
    run,
    "draw the report of a study again, with its frontier as .svg and .png; or of two beside each other",
    "preftune report my-study",
    flags=["compare", "json", "md", "out"],
    positional={"folders": "a study's folder; two with --compare"},
)
