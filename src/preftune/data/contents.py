"""Prompt, responses and votes of a row under our names, before anything is left out.

The responses stand under `chosen` and `rejected`, under `a` and `b` with a statement about them, or under `responses`
with votes, ranks or scores.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

from .ballots import Annotation, FullMessage, Prompt, Vote, pool
from .chats import Side, is_turn, replies_to, side_of, split_sides, stated_prompt, with_system
from .fields import Exact, Plain, Row, Unusable, alike, names_of, number_of, numbers_of
from .verdicts import NO_VOTES, Statement, agreed, is_stated, statements_of

FEW = "fewer than two responses"
UNSCORED = "a response without a rank or score"
RANKS, SCORES = ("rank",), ("score", "overall_score", "fine-grained_score", "pm_score", "rating", "reward")
MOST_RESPONSES = 10**9  # no row has as many
OF_TWO = ("label", "winner", "first_wins", "p")
FORMS = (
    "a row needs `chosen` and `rejected`; or `a` and `b` with `label`, `winner`, `votes` or `p`; or `responses` with "
    "`votes`, `ranks` or `scores`; --columns can say which column that is, as in --columns winner=COLUMN"
)


class Contents(NamedTuple):
    """Prompt, responses and votes of a row, before they are looked at."""

    prompt: Prompt | None
    responses: tuple[str | FullMessage, ...]
    votes: tuple[Vote, ...]
    annotations: tuple[Annotation, ...] = ()
    left_out: int = 0  # responses without a rank or score
    tied: bool = False  # though one is called chosen


def contents_of(row: Plain) -> Contents:
    fields = row.fields
    if "responses" in fields:
        return _group(row)
    if "chosen" in fields:
        chosen, rejected = (answers_in(fields[key]) for key in ("chosen", "rejected"))
        if len(chosen) != 1 or len(rejected) != 1:
            return _several(row, chosen, rejected)
        sides = [chosen[0], rejected[0]]
        said, tied = _chosen(row)
    else:
        sides, said, tied = [fields["a"], fields["b"]], _statement(row), False
    prompt, responses = _split(fields, sides)
    return Contents(prompt, responses, (Vote(0, 1, said.p, said.weight),), said.annotations, tied=tied)


def _split(fields: Row, entries: Sequence[Any]) -> tuple[Prompt | None, tuple[str | FullMessage, ...]]:
    """Prompt and responses, where the sides may be whole chats, or lists of the replies to a list of turns."""
    chats = replies_to(fields.get("prompt"), entries)
    if chats:
        prompt, responses = split_sides(None, chats)
    else:
        sides = [side_of(entry) for entry in entries]
        prompt, responses = split_sides(_asked(fields, sides), sides)
    return with_system(prompt, fields), responses


def _asked(fields: Row, sides: Sequence[Side]) -> Prompt | None:
    """The stated prompt. A whole conversation beside sides that are whole conversations states nothing more."""
    stated = stated_prompt(fields)
    if isinstance(stated, tuple) and stated[-1:] and stated[-1].role == "assistant" and fields.get("prompt") is None:
        whole = [not isinstance(side, str) and side[0].role != "assistant" for side in sides if side]
        return None if whole and all(whole) else stated
    return stated


def answers_in(value: Any) -> list[Any]:
    """The responses of one side: itself, or each of a list that is no chat."""
    if not isinstance(value, list) or not value or is_turn(value[0]):
        return [value]
    return value


def _several(row: Plain, chosen: Sequence[Any], rejected: Sequence[Any]) -> Contents:
    """Every chosen response over every rejected one."""
    prompt, responses = _split(row.fields, [*chosen, *rejected])
    said, _ = _chosen(row)
    places = product(range(len(chosen)), range(len(chosen), len(responses)))
    return Contents(prompt, responses, tuple(Vote(a, b, said.p, said.weight) for a, b in places))


def _chosen(row: Plain) -> tuple[Statement, bool]:
    """What is said of `chosen` over `rejected`, and whether its own scores call it a tie.

    A statement beside them may say how sure, not that `chosen` lost.
    """
    said = statements_of(row)
    if any(one.p < 0.5 for one in said):
        raise ValueError(
            "`chosen` loses by the `votes`, `p`, `label` or scores beside it, where `a` and 1 are `chosen`: "
            "keep the right one"
        )
    tied = row.fields.get("score_a") is not None and bool(said) and said[0].p == 0.5
    return (said[0] if said else Statement(1.0)), tied


def _statement(row: Plain) -> Statement:
    said = statements_of(row)
    if said:
        return agreed(said)
    if not is_stated(row):
        has = names_of(row.given)
        raise ValueError(f"a pair without `label`, `winner`, `votes` or `p`: the row has {has}; {FORMS}")
    raise Unusable(NO_VOTES)


# --- groups -----------------------------------------------------------------------------------------------------------


def _group(row: Plain) -> Contents:
    """Responses in a list: the votes are written out, or every pair has one by rank (lower wins) or score (higher)."""
    fields = row.fields
    entries = fields["responses"]
    if not isinstance(entries, list):
        raise ValueError(f"`{row.name('responses')}` is {reprlib.repr(entries)}, not a list of responses")
    written = fields.get("votes")
    if isinstance(written, list):
        votes = tuple(map(_vote, written))
        if all(isinstance(entry, str) for entry in entries):  # our own form is taken word for word
            return Contents(with_system(stated_prompt(fields), fields), tuple(entries), votes)
        return Contents(*_split(fields, entries), votes)
    if written is None and annotations_of(fields):
        return Contents(*_split(fields, entries), pool(one.vote for one in annotations_of(fields)))
    return _ordered(row, entries)


def _ordered(row: Plain, entries: Sequence[Any]) -> Contents:
    if len(entries) < 2:
        raise Unusable(FEW)
    orders = _orders(row, entries)
    kept = [k for k in range(len(entries)) if all(values[k] is not None for values, _ in orders)]
    if orders and not kept:
        raise Unusable(NO_VOTES)
    left_out = len(entries) - len(kept)
    stated = [_all_pairs([values[k] for k in kept], lower, row.gap) for values, lower in orders]
    said = _said_of_group(row, entries) if not left_out else None
    if said:
        stated.insert(0, said[0])
    if not stated:
        raise _nothing_said(row, entries)
    _check_sides(stated)
    if len(kept) < 2:
        raise Unusable(UNSCORED)
    entries = [entries[k] for k in kept]
    return Contents(*_split(row.fields, entries), stated[0], said[1] if said else (), left_out)


def _check_sides(stated: Sequence[tuple[Vote, ...]]) -> None:
    """Raises ValueError where two ways to say it name different winners of a pair."""
    won: dict[tuple[int, int], bool] = {}
    for vote in (vote for votes in stated for vote in votes if vote.p != 0.5):
        first, won_by_first = (vote.a, vote.b), vote.p > 0.5
        if vote.a > vote.b:
            first, won_by_first = (vote.b, vote.a), not won_by_first
        if won.setdefault(first, won_by_first) != won_by_first:
            raise ValueError("`ranks`, `scores` and what stands beside them name different winners: keep the right one")


def _said_of_group(row: Plain, entries: Sequence[Any]) -> tuple[tuple[Vote, ...], tuple[Annotation, ...]] | None:
    """What a statement says of two responses, or which one of several is the best: over each of the others."""
    if len(entries) == 2:
        said = statements_of(row)
        if not said:
            return None
        one = agreed(said)
        return (Vote(0, 1, one.p, one.weight),), one.annotations
    if row.fields.get("votes") is not None:
        raise ValueError(f"`votes` is {reprlib.repr(row.fields['votes'])}, not a list of votes")
    best = row.fields.get("better_index")
    if best is None:
        one_of = next((role for role in OF_TWO if row.fields.get(role) is not None), None)
        if one_of:
            raise ValueError(
                f"`{row.name(one_of)}` names one of two responses, and there are {len(entries)}: --columns "
                "better_index=COLUMN names the column with the place of the best one, from 0"
            )
        return None
    place = number_of(best, row.name("better_index"))
    if place not in range(len(entries)):
        raise ValueError(f"`{row.name('better_index')}` is {place:g}; it must be the place of a response, from 0")
    return tuple(Vote(int(place), k, 1.0) for k in range(len(entries)) if k != place), ()


def _nothing_said(row: Plain, entries: Sequence[Any]) -> Exception:
    inside = set().union(*(entry for entry in entries if isinstance(entry, dict)))
    if row.fields.keys() & {"votes", "ranks", "scores"} or inside & {*RANKS, *SCORES} or is_stated(row):
        return Unusable(NO_VOTES)
    return ValueError(
        f"a group of responses without `votes`, `ranks` or `scores`: the row has {names_of(row.given)}; {FORMS}"
    )


def _orders(row: Plain, entries: Sequence[Any]) -> list[tuple[list[Exact | None], bool]]:
    """The ranks of a group and its scores, as far as it has them, and whether lower wins."""
    orders = []
    for role, names in (("ranks", RANKS), ("scores", SCORES)):
        values = row.fields.get(role)
        found = next((name for name in names if any(_field(entry, name) is not None for entry in entries)), None)
        if values is None and found:
            values = [_field(entry, found) for entry in entries]
        if values is not None:
            orders.append((numbers_of(values, role.removesuffix("s"), len(entries)), role == "ranks"))
    return orders


def _field(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _all_pairs(values: Sequence[Exact | None], lower_wins: bool, gap: float) -> tuple[Vote, ...]:
    known = [value for value in values if value is not None]
    pairs = combinations(range(len(known)), 2)
    tie = gap if not lower_wins else 0.0
    return tuple(
        Vote(a, b, 0.5 if alike(known[a], known[b], tie) else float((known[a] < known[b]) == lower_wins))
        for a, b in pairs
    )


def _vote(vote: object) -> Vote:
    if not isinstance(vote, dict) or not {"a", "b", "p"} <= vote.keys() <= {"a", "b", "p", "weight"}:
        raise ValueError(f"a vote must have `a`, `b`, `p` and perhaps `weight`, not {reprlib.repr(vote)}")
    a, b = _places(vote, "a vote")
    weight = 1.0 if vote.get("weight") is None else number_of(vote["weight"], "weight")
    return Vote(a, b, number_of(vote["p"], "p"), weight)


def annotations_of(row: Row) -> tuple[Annotation, ...]:
    """What a row keeps of the single judgements that its votes are made of."""
    stated = row.get("annotations")
    if stated is None or not _is_ours(stated):
        return ()
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        raise ValueError(f"`annotations` is {reprlib.repr(stated)}, not a list of {{a, b, winner, by}}")
    return tuple(map(_annotation, stated))


def _is_ours(annotations: Any) -> bool:
    """Whether it names winners: other data sets have other things under that name."""
    return not isinstance(annotations, list) or any(isinstance(one, dict) and "winner" in one for one in annotations)


def _annotation(said: Row) -> Annotation:
    if not {"a", "b", "winner"} <= said.keys() <= {"a", "b", "winner", "by", "asked"}:
        raise ValueError(f"an annotation must have `a`, `b`, `winner` and perhaps `by`, not {reprlib.repr(said)}")
    a, b = _places(said, "an annotation")
    by, asked = ("" if said.get(name) is None else str(said[name]) for name in ("by", "asked"))
    return Annotation(a, b, str(said["winner"]), by, asked)


def _places(said: Row, what: str) -> tuple[int, int]:
    a, b = (number_of(said[key], key) for key in "ab")
    if not (a.is_integer() and b.is_integer() and max(abs(a), abs(b)) < MOST_RESPONSES):
        raise ValueError(f"{what} names responses by their place from 0, not {a:g} and {b:g}")
    return int(a), int(b)
