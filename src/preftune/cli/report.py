"""`preftune report`: a study's page, drawn again; two studies beside each other; the answer in other forms."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..files import check_other
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

    if "pairs" in given:
        _write_pairs(folders[0], Path(given["pairs"]))
        return
    if "human_votes" in given:
        _keep_votes(folders[0], Path(given["human_votes"]))
    if len(folders) > 1:
        print(f"report: {write_comparison(folders[0], folders[1], Path(given.get('out', COMPARISON)))}")
    else:
        print(f"report: {write_report(folders[0])}")


def _write_pairs(folder: Path, path: Path) -> None:
    from ..evidence import read_study, write_pairs

    count = write_pairs(read_study(folder), path)
    print(
        f"{path}: {count:,} pairs. Fill in `winner` (a, b, tie or both_bad) from the top, as many as you like, then "
        f"preftune report {folder} --human-votes {path}"
    )


def _keep_votes(folder: Path, path: Path) -> None:
    from ..evidence import keep_votes, read_study

    votes, empty = keep_votes(read_study(folder), path)
    print(f"{votes:,} votes of people, {empty:,} pairs without one")


def _checked(given: Parsed) -> list[Path]:
    """The folders that were named: two with --compare, one without."""
    folders = [Path(folder) for folder in given["folders"]]
    compare = "compare" in given
    if compare and len(folders) != 2:
        raise UserError(f"--compare puts two studies beside each other; {len(folders)} named")
    if not compare and len(folders) != 1:
        raise UserError(f"one study has one report; {len(folders)} named: give --compare for two beside each other")
    if len(folders) > 1 and ("pairs" in given or "human_votes" in given):
        raise UserError("--pairs and --human-votes are of one study; name it alone")
    if "pairs" in given and "human_votes" in given:
        raise UserError("--pairs asks for votes and --human-votes brings them; give one of them")
    if "json" in given and "md" in given:
        raise UserError("--json and --md each print the answer; give one of them")
    if "out" in given and (not compare or "json" in given or "md" in given):
        raise UserError("--out is the page of --compare; a study's own report stands in its folder")
    if "out" in given and (Path(given["out"]).is_dir() or not Path(given["out"]).parent.is_dir()):
        raise UserError(f"--out {given['out']}: name a file in a folder that is there")
    if "out" in given and Path(given["out"]).name != COMPARISON:
        check_other(given["out"], folders, flag="--out")
    return folders


COMMAND = Command(
    run,
    "draw the report of a study again, with its frontier as .svg and .png; or of two beside each other",
    "preftune report my-study",
    flags=["compare", "json", "md", "out", "pairs", "human-votes"],
    positional={"folders": "a study's folder; two with --compare"},
)
