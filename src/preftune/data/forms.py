"""A row under our names becomes a ballot; or its prompt alone. `layouts` gives rows these names.

A row that cannot be read raises ValueError; one that can be read and not used raises `Unusable` with the reason.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from .ballots import TOOLS, UNSURE, Ballot, Message, Prompt, Vote, renumbered
from .beside import with_tools
from .chats import Side, check_media, side_of, split_sides, stated_prompt, with_system
from .contents import FEW, UNSCORED, annotations_of, answers_in, contents_of
from .fields import Plain, Row, Unusable, check_unicode, names_of, number_of, structure_of
from .verdicts import NO_VOTES

EMPTY = "an empty response"
IDENTICAL = "identical responses"
NO_PROMPT = "no prompt"
ALIKE = "`chosen` is no better by the scores beside it: read as a tie"
LISTS = "responses that are lists or objects in a text: taken word for word"
BAD = "both bad: read as a tie"
CHOSEN = "a vote on a pair that was chosen where a fit was least sure: agreement on those is not that on random pairs"


class Read(NamedTuple):
    """A ballot, how many of its responses were left out, by reason, and what a person should know of its reading."""

    ballot: Ballot
    left_out: Counter[str]
    noted: Counter[str]


def ballot_of(row: Plain, number: str) -> Read:
    """The ballot of a row; `number` is its id where it has none."""
    fields = row.fields
    check_media(fields)
    found = contents_of(row)
    if len(found.responses) < 2:
        raise Unusable(UNSCORED if found.left_out else FEW)
    votes = _weighted(found.votes, fields)
    name = number if fields.get("id") is None else str(fields["id"])
    source = "" if fields.get("source") is None else str(fields["source"])
    ended = _ended(fields, len(found.responses) + found.left_out)
    judged = annotations_of(fields) or found.annotations
    if found.left_out and not all(ended):
        raise ValueError("`ended` beside responses without a rank or score: leave those out of the row")
    ended = ended[: len(found.responses)]
    prompt = with_tools(found.prompt, fields) or ""
    texts = tuple(said if isinstance(said, str) else said.content for said in found.responses)
    beside = tuple("" if isinstance(said, str) else said.beside for said in found.responses)
    ballot = Ballot(prompt, texts, votes, name, source, ended, judged, beside if any(beside) else ())
    ballot, left_out = _usable(ballot)
    if found.left_out:
        left_out[UNSCORED] = found.left_out
    bad = sum(one.winner == "both_bad" for one in ballot.annotations)
    chosen = sum(one.asked == UNSURE for one in ballot.annotations)
    lists = int(_are_lists(ballot, fields))
    return Read(ballot, left_out, _counted({BAD: bad, ALIKE: int(found.tied), LISTS: lists, CHOSEN: chosen}))


def _counted(counts: Mapping[str, int]) -> Counter[str]:
    """What is not 0. Nearly every row has nothing to count, and a Counter takes as long to fill as a row to parse."""
    return Counter({reason: count for reason, count in counts.items() if count}) if any(counts.values()) else Counter()


def _are_lists(ballot: Ballot, fields: Row) -> bool:
    """Whether all responses look like lists or objects, as whoever wrote a table may have put several into a cell."""
    if isinstance(fields.get("votes"), list) or not all(text[:1] in ("[", "{") for text in ballot.responses):
        return False
    return all(not isinstance(structure_of(text)[0], str) for text in ballot.responses)


def _weighted(votes: tuple[Vote, ...], fields: Row) -> tuple[Vote, ...]:
    weight = number_of(fields["weight"], "weight") if fields.get("weight") is not None else 1.0
    if weight < 0:
        raise ValueError(f"`weight` is {weight:g}; it must not be negative")
    if weight == 1:
        return votes
    return tuple(replace(vote, weight=vote.weight * weight) for vote in votes) if weight else ()


def _ended(row: Row, count: int) -> tuple[bool, ...]:
    ended = row.get("ended")
    if ended is None:
        return (True,) * count
    if not isinstance(ended, list) or not all(isinstance(end, bool) for end in ended):
        raise ValueError(f"`ended` is no list of true and false, one a response, but {reprlib.repr(ended)}")
    if len(ended) != count:
        raise ValueError(f"`ended` has {len(ended)} entries for {count} responses")
    return tuple(ended)


def _usable(ballot: Ballot) -> tuple[Ballot, Counter[str]]:
    """The ballot without empty responses and copies, and their counts; Unusable if no contest is left."""
    index: dict[tuple[str, bool, str], int] = {}
    beside = ballot.beside or ("",) * len(ballot.responses)
    places = [
        index.setdefault((text, end, more), len(index)) if text.strip() or more else None
        for text, end, more in zip(ballot.responses, ballot.ended, beside, strict=True)
    ]
    empty = places.count(None)
    copies = len(places) - empty - len(index)
    if len(places) - empty < 2:
        raise Unusable(EMPTY)
    if len(index) < 2:
        raise Unusable(IDENTICAL)
    _check_text(ballot)
    if empty or copies:
        ballot = renumbered(ballot, places)
    if not ballot.votes:
        raise Unusable(NO_VOTES)
    return ballot.pooled() if copies else ballot, _counted({EMPTY: empty, IDENTICAL: copies})


def _check_text(ballot: Ballot) -> None:
    turns = texts_of(ballot.prompt)
    if not any(text.strip() for text in turns):
        raise Unusable(NO_PROMPT)
    names = [one.by for one in ballot.annotations]
    check_unicode((*turns, *ballot.responses, ballot.id, ballot.source, *names))


def texts_of(prompt: Prompt) -> tuple[str, ...]:
    """The texts that a prompt is made of; tools are none of them."""
    return (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt if turn.role != TOOLS)


# --- the prompt alone -------------------------------------------------------------------------------------------------


def prompt_alone(row: Row) -> Prompt:
    """The prompt of a row, whether or not it holds responses."""
    check_media(row)
    prompt = with_tools(with_system(_question(row), row), row)
    if not prompt or not any(text.strip() for text in texts_of(prompt)):
        raise ValueError(f"no prompt: the row has {names_of(row)}; it needs `prompt`, `turns`, or any preference form")
    check_unicode(texts_of(prompt))
    return prompt


def _question(row: Row) -> Prompt | None:
    """The prompt of a row; a chat that is not called `prompt` loses the assistant's last turn."""
    sides = _sides(row)
    if sides:
        if isinstance(row.get("votes"), list) and all(isinstance(side, str) for side in sides):
            return stated_prompt(row)
        return split_sides(stated_prompt(row), sides[:1])[0]
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str):
        return (Message("user", turns[0]),)
    chat = stated_prompt(row)
    if row.get("prompt") is None and isinstance(chat, tuple) and chat and chat[-1].role == "assistant":
        return chat[:-1]
    return split_sides(chat, [])[0]


def _sides(row: Row) -> list[Side]:
    if "responses" in row:
        entries = row["responses"] if isinstance(row["responses"], list) else []
    else:
        entries = [one for key in ("chosen", "rejected", "a", "b") if key in row for one in answers_in(row[key])]
    return [side for side in map(side_of, entries) if side]
