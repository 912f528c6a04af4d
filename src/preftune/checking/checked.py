"""A file looked at: one pass over its rows, then what costs more of a sample. Ends in one record, `Checked`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import TextFormat
from ..errors import UserError
from .contests import Contests, Leak, leak, weigh
from .digests import Kept
from .rows import Seen, stream_rows
from .rules import Rules, ask_rules
from .tally import Tally, count_rows
from .tokens import Tokens, count_tokens

Track = Callable[[Iterable[Seen]], Iterator[Seen]]


@dataclass(frozen=True)
class Checked:
    """What was found out about a file: all findings, the page and the JSON follow from it."""

    file: str
    tally: Tally
    contests: Contests
    rules: Rules
    tokens: Tokens | None
    leak: Leak | None
    eval_file: str
    seed: int
    seconds: float

    @property
    def winner_first(self) -> bool:
        return lists_winner_first(self.tally)

    def where(self, row: int) -> str:
        return f"{Path(self.file).name}{self.tally.reading.unit}{row}"


def check_file(
    source: str,
    *,
    form: TextFormat | None = None,
    model: str = "",
    max_length: int = 1024,
    eval_source: str = "",
    seed: int = 0,
    track: Track = iter,
    **how: Any,
) -> Checked:
    """Look at a preference file of any size.

    With the text format of a `model`, at its lengths in tokens too; with an `eval_source`, at the prompts that both
    share. `how` it is read is as for `read_ballots`. Raises UserError for a file that holds no rows.
    """
    start = time.perf_counter()
    evaluation = prompts_of(eval_source, track) if eval_source else None
    tally = count_rows(track(stream_rows(source, **how)), seed=seed)
    if not tally.reading.rows:
        raise UserError(f"{source}: holds no rows")
    winner_first = lists_winner_first(tally)
    contests = weigh(tally.kept, named=bool(tally.votes.annotators), winner_first=winner_first)
    ballots = [ballot for _, ballot in tally.sample.ballots]
    return Checked(
        file=source,
        tally=tally,
        contests=contests,
        rules=ask_rules(ballots, seed=seed, winner_first=winner_first),
        tokens=count_tokens(ballots, form, model=model, max_length=max_length) if form and ballots else None,
        leak=leak(tally.kept, evaluation) if evaluation else None,
        eval_file=eval_source,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def prompts_of(source: str, track: Track = iter) -> Kept:
    """The digests of a file."""
    kept = Kept()
    for seen in track(stream_rows(source)):
        kept.add(seen)
    return kept


def lists_winner_first(tally: Tally) -> bool:
    """Whether the place of a response says who won: `chosen` beside `rejected`, or responses sorted by rank."""
    votes = tally.votes
    return 2 * votes.by_layout > tally.reading.ballots or (votes.first_won >= 20 and not votes.second_won)
