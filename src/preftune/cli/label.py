"""`preftune label`: a page on which people compare two responses; their votes become ballots."""

from __future__ import annotations

from pathlib import Path

from .command import Command
from .flags import Parsed
from .reading import READING, reading_of
from .serving import SERVING, address_of, who_of


def run(given: Parsed) -> None:
    from ..console import say
    from ..people import LABELLED_FILE, open_labelling, read_labelling

    address, who = address_of(given), who_of(given)
    labelling = read_labelling(given["file"], **reading_of(given))
    for reason, count in labelling.skipped.items():
        say(f"skipped: {count} × {reason}")
    folder = Path(given["out"])
    votes, ballots = open_labelling(labelling, folder, address, **who)
    print(f"{folder / LABELLED_FILE}: {votes:,} votes on {ballots:,} ballots")


COMMAND = Command(
    run,
    "a page on which people compare two responses to a prompt; their votes become ballots",
    "preftune label BALLOTS --out labels --by ann",
    ["out"],
    [*SERVING, *READING],
    {"file": "prompts with two responses or more each; votes on them, if there are any, are left aside"},
)
