"""`preftune report`: a study's page, drawn again."""

from __future__ import annotations

from pathlib import Path

from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    from ..report import write_report

    print(f"report: {write_report(Path(given['folder']))}")


COMMAND = Command(
    run, "draw the report of a study again", "preftune report DIR", positional={"folder": "a study's folder"}
)
