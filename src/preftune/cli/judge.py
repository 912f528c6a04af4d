"""`preftune judge`: policies that exist already, compared by judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .command import Command
from .compare import JUDGING
from .flags import Parsed
from .reading import READING, asked_of, reading_of

if TYPE_CHECKING:
    from ..evidence import StudyRecord

CAPTION = "against the reference, mean ± standard error over prompts"


def run(given: Parsed) -> None:
    from ..study import settle_folders

    settle_folders("judge", **asked_of(given))
    from ..study import judge_folders

    reading = reading_of(given)
    options = {name: value for name, value in given.items() if name not in reading}
    study = judge_folders(**options, reading=reading)
    _print(study)


def _print(study: StudyRecord) -> None:
    """The table of win rates, and what gives reason to doubt them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..evidence import verdict
    from ..report import contest_rows
    from ..text import harmless

    answer = verdict(study)
    console = Console(highlight=False)
    table = Table("policy", "judge", "win rate, %", "KL (nats)", box=box.SIMPLE, caption=CAPTION)
    for one in (answer, *answer.secondary):
        for point in one.points if one.axis.endswith("win rate") else ():
            error = f" ± {100 * point.gain_se:.1f}" if point.gain_se is not None else ""
            judge = one.judge + ", at equal length" * (one.axis != "win rate")
            table.add_row(Text(harmless(point.arm)), judge, f"{100 * point.gain + 50:.1f}{error}", f"{point.kl:.2f}")
    console.print(table)
    for row in contest_rows(study):
        console.print(f"{row.a} beside {row.b}, by judge {row.judge}: wins {row.wins}%", markup=False)
    for line in (*answer.alarms, *answer.caveats):
        console.print(f"- {harmless(line)}", markup=False, soft_wrap=True)


COMMAND = Command(
    run,
    "have judges compare policies that exist already, with their reference and with one another",
    "preftune judge RUN1 RUN2 --prompts PROMPTS --judge model:MODEL --out DIR",
    ["judge", "out"],
    [
        *(flag for flag in JUDGING if flag not in ("judge", "judge-fraction")),
        "data",
        *READING,
        "prompts",
        "allow-overlap",
        "reference",
        "eval-prompts",
        "samples",
        "max-new-tokens",
        "max-length",
        "micro-tokens",
        "precision",
        "device",
        "template-options",
        "base",
    ],
    {"folders": "folders that train or compare left, or plain models"},
)
