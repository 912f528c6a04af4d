"""`preftune label`: a page on which people compare two responses; their votes become ballots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command
from .flags import Parsed
from .reading import READING, reading_of
from .serving import SERVING, address_of, who_of

if TYPE_CHECKING:
    from ..people import Labelling

SAMPLING = ("model", "samples", "max-new-tokens", "max-length", "seed", "precision", "device")


def run(given: Parsed) -> None:
    from ..console import say
    from ..people import LABELLED_FILE, check_installed, open_labelling

    check_installed("label")
    address, who, folder = address_of(given), who_of(given), Path(given["out"])
    labelling = _labelling(given, folder)
    for reason, count in labelling.skipped.items():
        say(f"skipped: {count} × {reason}")
    votes, ballots = open_labelling(labelling, folder, address, **who)
    print(f"{folder / LABELLED_FILE}: {votes:,} votes on {ballots:,} ballots")


def _labelling(given: Parsed, folder: Path) -> Labelling:
    """The ballots of the file; with a model, of its prompts, whose responses are drawn once."""
    from ..console import say
    from ..people import BALLOTS_FILE, labelling_of, read_labelling

    if "model" not in given:
        return read_labelling(given["file"], **reading_of(given))
    if (folder / BALLOTS_FILE).is_file():
        say(f"{folder / BALLOTS_FILE}: responses were drawn before, and are these")
        return read_labelling(folder / BALLOTS_FILE)
    from ..stopping import check_writable
    from ..study import draw_ballots

    check_writable(folder)
    names = (flag.replace("-", "_") for flag in SAMPLING[1:])
    options = {name: given[name] for name in names if name in given}
    return labelling_of(draw_ballots(given["file"], given["model"], **options), given["file"])


COMMAND = Command(
    run,
    "a page on which people compare two responses to a prompt; their votes become ballots",
    "preftune label BALLOTS --out labels --by ann\n  preftune label PROMPTS --model MODEL --out labels",
    ["out"],
    [*SERVING, *READING, *SAMPLING],
    {"file": "prompts with two responses or more each (votes on them are left aside); or prompts alone, with --model"},
)
