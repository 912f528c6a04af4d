"""`preftune data`: preference files converted, and looked at before training."""

from __future__ import annotations

from ..errors import UserError
from .check import check
from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    action, actions = given["action"], {"convert": convert, "check": check}
    if action not in actions:
        raise UserError(f"data {action}: unknown; data check FILE and data convert FILE OUT are known")
    actions[action](given)


def convert(given: Parsed) -> None:
    from ..console import say
    from ..data import merge_prompts, read_ballots, write_ballots

    if "out_file" not in given:
        raise UserError("data convert: name the file to write, too: preftune data convert FILE OUT")
    ballots = read_ballots(given["file"])
    kept = merge_prompts(ballots) if given.get("merge_prompts") else tuple(ballots)
    write_ballots(kept, given["out_file"])
    for reason, count in ballots.skipped.items():
        say(f"skipped: {count} × {reason}")
    print(f"{given['out_file']}: {len(kept)} ballots from {ballots.rows} rows")


COMMAND = Command(
    run,
    "what to know about a preference file before training (check), or any accepted one as canonical JSONL (convert)",
    "preftune data check FILE --html check.html\n  preftune data convert FILE OUT",
    flags=["model", "max-length", "eval-data", "seed", "strict", "json", "html", "merge-prompts"],
    positional={"action": "check or convert", "file": "the file to read", "out_file": "convert: the file to write"},
)
