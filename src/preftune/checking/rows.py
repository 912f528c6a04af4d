"""Rows as the check meets them: what the reader made of each, where it stands, and its prompt in any case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..data import Ballot, Outcome, Prompt, prompt_in, stream_ballots

Row = Mapping[str, Any]
NUMBER = re.compile(r"\d+$")


class Seen(NamedTuple):
    """A row, or the first of several that make a ballot together, and what became of it.

    Either a `ballot`, from which `dropped` responses were left out, or a `reason`: for which it is skipped, or, if it
    is `broken`, for which it cannot be read. A row without a ballot may still hold a `prompt`.
    """

    number: int
    row: Row
    ballot: Ballot | None = None
    dropped: int = 0
    reason: str = ""
    broken: bool = False
    prompt: Prompt | None = None
    noted: Mapping[str, int] = {}
    place: str = ""


def stream_rows(source: str, **how: Any) -> Iterator[Seen]:
    """What became of every row. Raises UserError for what cannot be read at all."""
    columns = how.get("columns", "")
    for outcome in stream_ballots(source, **how):
        yield _seen(outcome, columns)


def _seen(one: Outcome, columns: str) -> Seen:
    row, ballot = one.row or {}, one.ballot
    prompt = ballot.prompt if ballot else prompt_in(row, columns=columns)
    dropped = sum(one.left_out.values()) if one.left_out else 0
    return Seen(number_of(one.place), row, ballot, dropped, one.reason, one.bad, prompt, one.noted or {}, one.place)


def number_of(place: str) -> int:
    """The number of a row or line, from its place."""
    found = NUMBER.search(place)
    return int(found[0]) if found else 0
