"""`preftune data`: preference files converted."""

from __future__ import annotations

from ..errors import UserError
from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    if given["action"] != "convert":
        raise UserError(f"data {given['action']}: unknown; did you mean data convert?")
    from ..console import say
    from ..data import merge_prompts, read_ballots, write_ballots

    ballots = read_ballots(given["file"])
    kept = merge_prompts(ballots) if given.get("merge_prompts") else tuple(ballots)
    write_ballots(kept, given["out_file"])
    for reason, count in ballots.skipped.items():
        say(f"skipped: {count} × {reason}")
    print(f"{given['out_file']}: {len(kept)} ballots from {ballots.rows} rows")


COMMAND = Command(
    run,
    "any accepted preference file to canonical JSONL",
    "preftune data convert FILE OUT",
    flags=["merge-prompts"],
    positional={"action": "convert", "file": "the file to read", "out_file": "the file to write"},
)
