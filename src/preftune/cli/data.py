"""`preftune data`: preference files converted, and looked at before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import check_other
from .check import CHECKING, check
from .command import Command
from .flags import Parsed
from .reading import READING, read_ballots, reading_of

if TYPE_CHECKING:
    from ..data import Ballot, Outcome

SHOWN = 300  # characters of a text in a preview


def convert(given: Parsed) -> None:
    """Any accepted preference file as canonical JSONL, or a look at how its rows are read."""
    from ..data import merge_prompts, write_ballots

    if "preview" in given:
        return preview(given)
    if "out_file" not in given:
        raise UserError("missing: out_file, or --preview N to look at how rows are read; see --help")
    check_other(given["out_file"], [given["file"]])
    ballots = read_ballots(given["file"], given)
    kept = merge_prompts(ballots) if given.get("merge_prompts") else tuple(ballots)
    write_ballots(kept, given["out_file"])
    print(f"{given['out_file']}: {len(kept)} ballots from {ballots.rows} rows")


def preview(given: Parsed) -> None:
    """How the first rows are read; nothing is written."""
    from ..data import stream_ballots
    from ..text import harmless

    if given["preview"] < 1:
        raise UserError(f"--preview {given['preview']}: must be 1 or more")
    how = {name: value for name, value in reading_of(given).items() if name != "skip_bad"}
    for outcome in islice(stream_ballots(given["file"], **how), given["preview"]):
        print(harmless(described(outcome)), end="\n\n")


def described(outcome: Outcome) -> str:
    """What became of a row, in words."""
    if outcome.ballot is None:
        return f"{outcome.place}: {'cannot be read' if outcome.bad else 'skipped'}: {outcome.reason}"
    noted = [f"  noted: {reason}" for reason in outcome.noted or {}]
    left_out = [f"  left out: {count} × {reason}" for reason, count in (outcome.left_out or {}).items()]
    return "\n".join([f"{outcome.place}:", *_ballot(outcome.ballot), *noted, *left_out])


def _ballot(ballot: Ballot) -> list[str]:
    turns = [("prompt", ballot.prompt)] if isinstance(ballot.prompt, str) else ballot.prompt
    lines = [f"  {role}: {_short(' '.join(texts))}" for role, *texts in turns]
    beside = ballot.beside or ("",) * len(ballot.responses)
    replies = zip(ballot.responses, beside, strict=True)
    lines += [f"  [{k}] {_short(f'{text} {more}'.strip())}" for k, (text, more) in enumerate(replies)]
    for vote in ballot.votes:
        a, b, p = (vote.a, vote.b, vote.p) if vote.p >= 0.5 else (vote.b, vote.a, 1 - vote.p)
        said = f"[{a}] and [{b}]: a tie" if p == 0.5 else f"[{a}] over [{b}]" + (f", p = {p:g}" if p < 1 else "")
        lines.append(f"  {said}" + (f", weight {vote.weight:g}" if vote.weight != 1 else ""))
    return lines


def _short(text: str) -> str:
    cut = text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} … {text[-SHOWN // 2 :]}"
    return cut.replace("\n", "\n      ")


ACTIONS: Mapping[str, Callable[[Parsed], None]] = {"convert": convert, "check": check}


def run(given: Parsed) -> None:
    action = given["action"]
    if action not in ACTIONS:
        close = get_close_matches(action, ACTIONS, n=1, cutoff=0.5)
        raise UserError(f"data {action}: unknown; " + (f"did you mean data {close[0]}?" if close else "see --help"))
    ACTIONS[action](given)


COMMAND = Command(
    run,
    "what to know about a preference file before training (check), or any accepted one as canonical JSONL (convert)",
    "preftune data check FILE --html check.html\n  preftune data convert FILE OUT",
    flags=[*CHECKING, "merge-prompts", "preview", *READING],
    positional={"action": "check or convert", "file": "the file to read", "out_file": "convert: the file to write"},
)
