"""`preftune label`: a page on which people compare two responses; their votes become ballots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from .command import Command
from .flags import Parsed
from .reading import READING, reading_of
from .serving import SERVING, address_of, who_of

if TYPE_CHECKING:
    from ..people import Labelling

DRAWING = ("samples", "max-new-tokens", "seed")
LOADING = ("max-length", "precision", "device")
NEXT = ("random", "unsure")


def run(given: Parsed) -> None:
    from ..console import say
    from ..people import LABELLED_FILE, check_installed, open_labelling

    check_installed("label")
    unsure = _is_unsure(given)
    address, who, folder = address_of(given), who_of(given), Path(given["out"])
    labelling = _labelling(given, folder)
    for reason, count in labelling.skipped.items():
        say(f"skipped: {count} × {reason}")
    if unsure:
        from ..study import open_chooser

        who["choose"] = open_chooser(labelling.ballots, given["model"], **_options(given, LOADING))
    votes, ballots = open_labelling(labelling, folder, address, **who)
    print(f"{folder / LABELLED_FILE}: {votes:,} votes on {ballots:,} ballots")


def _is_unsure(given: Parsed) -> bool:
    """Whether pairs are chosen. Raises UserError for another word, and where there is no model to tell responses by."""
    word = given.get("next", NEXT[0])
    if word not in NEXT:
        raise UserError(f"--next {word}: is unknown{nearest(word, NEXT)}")
    if word == NEXT[1] and "model" not in given:
        raise UserError("--next unsure: needs --model, whose features tell responses apart")
    return bool(word == NEXT[1])


def _options(given: Parsed, names: tuple[str, ...]) -> dict[str, Any]:
    return {name.replace("-", "_"): given[name.replace("-", "_")] for name in names if name.replace("-", "_") in given}


def _check_used(given: Parsed) -> None:
    """Raises UserError for a flag that does nothing where the file has the responses."""
    used = ("model", *LOADING) if _is_unsure(given) else ()
    idle = [name for name in ("model", *LOADING, *DRAWING) if name not in used and name.replace("-", "_") in given]
    if idle:
        why = "has responses, which are what is labelled, and no others are drawn; leave it out"
        also = ", or add --next unsure" if idle[0] == "model" else ""
        raise UserError(f"--{idle[0]} {given[idle[0].replace('-', '_')]}: {given['file']} {why}{also}")


def _labelling(given: Parsed, folder: Path) -> Labelling:
    """The ballots of the file; with a model, of its prompts, whose responses are drawn once."""
    from ..console import say
    from ..people import BALLOTS_FILE, has_responses, labelling_of, read_labelling

    if "model" not in given or has_responses(given["file"], **reading_of(given)):
        _check_used(given)
        return read_labelling(given["file"], **reading_of(given))
    if (folder / BALLOTS_FILE).is_file():
        say(f"{folder / BALLOTS_FILE}: responses were drawn before, and are these")
        return read_labelling(folder / BALLOTS_FILE)
    from ..stopping import check_writable
    from ..study import draw_ballots

    check_writable(folder)
    options = _options(given, (*DRAWING, *LOADING))
    return labelling_of(draw_ballots(given["file"], given["model"], **options), given["file"])


COMMAND = Command(
    run,
    "a page on which people compare two responses to a prompt; their votes become ballots",
    "preftune label BALLOTS --out labels --by ann\n  preftune label PROMPTS --model MODEL --out labels",
    ["out"],
    ["next", *SERVING, *READING, "model", *DRAWING, *LOADING],
    {"file": "prompts with two responses or more each (votes on them are left aside); or prompts alone, with --model"},
)
