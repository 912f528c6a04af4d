"""How a command reads its files: the flags for that, and what became of rows that were not taken as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .flags import Parsed

if TYPE_CHECKING:
    from ..data import BallotSet

READING = ("columns", "score-gap", "skip-bad")  # flags of every command that reads preferences
ASKED = (  # what `settle_folders` looks at before anything is loaded
    *("folders", "reference", "template_options", "precision", "base"),
    *("samples", "max_new_tokens", "eval_prompts"),
)
BAD_SHOWN = 10


def reading_of(given: Parsed) -> dict[str, Any]:
    """The arguments of `read_ballots` among what a person gave."""
    names = (flag.replace("-", "_") for flag in READING)
    return {name: given[name] for name in names if name in given}


def asked_of(given: Parsed) -> dict[str, Any]:
    """What of that says which policies are met, and how."""
    return {name: given[name] for name in ASKED if name in given}


def read_ballots(source: str, given: Parsed) -> BallotSet:
    """The ballots of a file as a person wants it to be read; what was left out or read as a tie is said."""
    from ..console import say
    from ..data import read_ballots as read

    ballots = read(source, **reading_of(given))
    for what, counts in (("skipped", ballots.skipped), ("left out", ballots.dropped), ("noted", ballots.noted)):
        for reason, count in counts.items():
            say(f"{what}: {count} × {reason}")
    for place in ballots.bad[:BAD_SHOWN]:
        say(f"  {place}")
    if len(ballots.bad) > BAD_SHOWN:
        say(f"  … and {len(ballots.bad) - BAD_SHOWN} more")
    return ballots
