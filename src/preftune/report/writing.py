"""A study folder's report as files: the page, the verdict as JSON, the frontier as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..evidence import StudyRecord, Verdict, read_study, verdict, write_json
from ..files import write_named, write_whole
from .beside import Beside, across, put_beside
from .page import page_of
from .pictures import frontier_svg, png_of
from .summary import summary

REPORT_FILE = "report.html"
VERDICT_FILE = "verdict.json"
PICTURE_FILE = "frontier"  # .svg and .png


def write_report(folder: Path) -> Path:
    """Draw the report of a study folder, interrupted or not, to `report.html` in it, what it says as numbers to
    `verdict.json`, and its frontier to `frontier.svg` and `frontier.png`; returns the path of the page.

    The page is one file that fetches nothing. Raises UserError if the folder is no study or a line of it is broken.
    """
    study, answer, _ = read([folder])
    page, svg = page_of(study, answer), frontier_svg(study, answer)
    if svg:
        _write(folder / f"{PICTURE_FILE}.svg", svg.encode())
        _write(folder / f"{PICTURE_FILE}.png", png_of(svg))
    write_json(folder / VERDICT_FILE, answer.record())
    return _write(folder / REPORT_FILE, page.encode())


def write_comparison(first: Path, second: Path, out: Path) -> Path:
    """Draw two studies beside each other to the file `out`, one page like that of a study.

    Raises UserError if they differ in their data or in how they were evaluated, and writes nothing then.
    """
    study, answer, beside = read([first, second])
    write_named(out, page_of(study, answer, beside).encode(), flag="--out")
    return out


def verdict_json(folders: Sequence[Path]) -> str:
    """What `verdict.json` of a study says, or would say of two as one."""
    return _printable(json.dumps(read(folders)[1].record(), indent=2, ensure_ascii=False, allow_nan=False))


def markdown(folders: Sequence[Path]) -> str:
    """The answer of a study, or of two as one, as Markdown."""
    study, answer, beside = read(folders)
    return _printable(summary(study, across(answer) if beside else answer).rstrip("\n"))


def read(folders: Sequence[Path]) -> tuple[StudyRecord, Verdict, Beside | None]:
    """One study, or two as one, with its verdict. Raises UserError as `write_comparison` does."""
    studies = [read_study(folder) for folder in folders]
    study, beside = put_beside(*studies) if len(studies) > 1 else (studies[0], None)
    return study, verdict(study), beside


def _printable(text: str) -> str:
    """The text with halves of surrogate pairs, which no terminal takes, as their escapes."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _write(path: Path, content: bytes) -> Path:
    write_whole(path, content)
    return path
