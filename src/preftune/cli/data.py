"""`preftune data`: preference files converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from ..errors import UserError
from .command import Command
from .flags import Parsed


def convert(given: Parsed) -> None:
    """Any accepted preference file as canonical JSONL."""
    from ..console import say
    from ..data import merge_prompts, read_ballots, write_ballots

    if "out_file" not in given:
        raise UserError("missing: out_file; see --help")
    ballots = read_ballots(given["file"])
    kept = merge_prompts(ballots) if given.get("merge_prompts") else tuple(ballots)
    write_ballots(kept, given["out_file"])
    for reason, count in ballots.skipped.items():
        say(f"skipped: {count} × {reason}")
    print(f"{given['out_file']}: {len(kept)} ballots from {ballots.rows} rows")


ACTIONS: Mapping[str, Callable[[Parsed], None]] = {"convert": convert}


def run(given: Parsed) -> None:
    action = given["action"]
    if action not in ACTIONS:
        close = get_close_matches(action, ACTIONS, n=1, cutoff=0.5)
        raise UserError(f"data {action}: unknown; " + (f"did you mean data {close[0]}?" if close else "see --help"))
    ACTIONS[action](given)


COMMAND = Command(
    run,
    "any accepted preference file to canonical JSONL",
    "preftune data convert FILE OUT",
    flags=["merge-prompts"],
    positional={"action": "convert", "file": "the file to read", "out_file": "the file to write"},
)
