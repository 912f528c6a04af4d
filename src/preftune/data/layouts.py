"""A row becomes a ballot, in the form that its fields tell; or its prompt alone. docs/FORMATS.md shows every form.

A row that cannot be read raises ValueError; one that can be read and not used raises `Unusable` with the reason.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from .ballots import Annotation, Ballot, Message, Prompt, Vote, renumbered
from .chats import messages_of, side_of, split_sides, stated_prompt, with_system
from .fields import Exact, Row, Unusable, check_unicode, names_of, number_of, numbers_of

EMPTY = "an empty response"
IDENTICAL = "identical responses"
NO_PROMPT = "no prompt"
NO_VOTES = "no votes"
FEW = "fewer than two responses"
TOOLS = "tools beside the prompt, which cannot be rendered yet"

PAIRS = (
    ("a", "b"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("output_1", "output_2"),
)
GROUPS = (("responses",), ("replies",), ("completions",), ("answers",))
SIDES = (("chosen", "rejected"), *PAIRS, *GROUPS)
STATEMENTS = ("votes", "p", "label")
FORMS = (
    "a row needs `chosen` and `rejected`; or `a` and `b` with `label`, `votes` or `p`; or `responses` with `votes`, "
    "`ranks` or `scores` (docs/FORMATS.md shows them all)"
)


def ballot_of(row: Row, number: str) -> tuple[Ballot, Counter[str]]:
    """The ballot of a row, and how many of its responses were left out, by reason."""
    prompt, responses, votes = _contents(row)
    _check_tools(row)
    if len(responses) < 2:
        raise Unusable(FEW)
    weight = number_of(row["weight"], "weight") if row.get("weight") is not None else 1.0
    if weight < 0:
        raise ValueError(f"`weight` is {weight:g}; it must not be negative")
    if weight != 1:
        votes = tuple(replace(vote, weight=vote.weight * weight) for vote in votes) if weight else ()
    name = number if row.get("id") is None else str(row["id"])
    source = "" if row.get("source") is None else str(row["source"])
    ended, said = _ended(row, len(responses)), _annotations(row)
    return _usable(Ballot(prompt or "", responses, votes, name, source, ended, said))


def _annotations(row: Row) -> tuple[Annotation, ...]:
    """What a row keeps of the single judgements that its votes are made of."""
    stated = row.get("annotations")
    if stated is None:
        return ()
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        raise ValueError(f"`annotations` is {reprlib.repr(stated)}, not a list of {{a, b, winner, by}}")
    return tuple(map(_annotation, stated))


def _annotation(said: Row) -> Annotation:
    if not {"a", "b", "winner"} <= said.keys() <= {"a", "b", "winner", "by"}:
        raise ValueError(f"an annotation must have `a`, `b`, `winner` and perhaps `by`, not {reprlib.repr(said)}")
    a, b = (number_of(said[key], key) for key in "ab")
    if not (a.is_integer() and b.is_integer()):
        raise ValueError(f"an annotation names responses by their place from 0, not {a:g} and {b:g}")
    return Annotation(int(a), int(b), str(said["winner"]), "" if said.get("by") is None else str(said["by"]))


def _ended(row: Row, count: int) -> tuple[bool, ...]:
    ended = row.get("ended")
    if ended is None:
        return (True,) * count
    if not isinstance(ended, list) or not all(isinstance(end, bool) for end in ended):
        raise ValueError(f"`ended` is no list of true and false, one a response, but {reprlib.repr(ended)}")
    if len(ended) != count:
        raise ValueError(f"`ended` has {len(ended)} entries for {count} responses")
    return tuple(ended)


def _check_tools(row: Row) -> None:
    """_Unusable for a row with tools: the prompt is not what the model would see without them."""
    for key in ("tools", "functions"):
        tools = row.get(key)
        if tools and not (isinstance(tools, str) and tools.strip() in ("", "[]", "{}", "null")):
            raise Unusable(TOOLS)


def _usable(ballot: Ballot) -> tuple[Ballot, Counter[str]]:
    """The ballot without empty responses and copies, and their counts; Unusable if no contest is left."""
    index: dict[tuple[str, bool], int] = {}
    places = [
        index.setdefault((text, end), len(index)) if text.strip() else None
        for text, end in zip(ballot.responses, ballot.ended, strict=True)
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
    return ballot.pooled() if copies else ballot, +Counter({EMPTY: empty, IDENTICAL: copies})


def _check_text(ballot: Ballot) -> None:
    turns = _texts(ballot.prompt)
    if not any(text.strip() for text in turns):
        raise Unusable(NO_PROMPT)
    check_unicode((*turns, *ballot.responses, ballot.id, ballot.source))


def _texts(prompt: Prompt) -> tuple[str, ...]:
    return (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)


def _contents(row: Row) -> tuple[Prompt | None, tuple[str, ...], tuple[Vote, ...]]:
    """Prompt, responses and votes of a row in any known form."""
    keys = _side_keys(row)
    if not keys:
        raise ValueError(f"no preference in a form this reader knows: the row has {names_of(row)}; {FORMS}")
    if len(keys) == 1:
        entries = _entries(row, keys[0])
        votes = _group_votes(row, entries)
        if _is_canonical(row, entries):
            return with_system(stated_prompt(row), row), tuple(entries), votes
    else:
        entries = [row[key] for key in keys]
        votes = (Vote(0, 1, *(_chosen(row) if keys == SIDES[0] else _statement(row))),)
    prompt, responses = split_sides(stated_prompt(row), [side_of(entry) for entry in entries])
    return with_system(prompt, row), responses, votes


def _side_keys(row: Row) -> tuple[str, ...]:
    """The fields that hold the responses: the first known set of which one has a value; () if there is none."""
    there = [keys for keys in SIDES if all(key in row for key in keys)]
    return next((keys for keys in there if any(row[key] is not None for key in keys)), there[0] if there else ())


def _chosen(row: Row) -> tuple[float, float]:
    """(p, weight) of `chosen` over `rejected`; a statement beside them may say how sure, not that `chosen` lost."""
    stated, weight = _stated(row)
    if any(p < 0.5 for p in stated):
        raise ValueError(
            "`chosen` loses by the `votes`, `p` or `label` beside it, where `a` and 1 are `chosen`: keep the right one"
        )
    return (stated or [1.0])[0], weight


def _statement(row: Row) -> tuple[float, float]:
    """(p, weight) of a pair from its `votes`, `p` or `label`, in this order; they must not contradict each other."""
    stated, weight = _stated(row)
    if not stated:
        if not row.keys() & {*STATEMENTS}:
            raise ValueError(f"a pair without `label`, `votes` or `p`: the row has {names_of(row)}; {FORMS}")
        raise Unusable(NO_VOTES)
    if min(stated) < 0.5 < max(stated):
        raise ValueError("`votes`, `p` and `label` name different winners: keep the right one")
    return stated[0], weight


def _stated(row: Row) -> tuple[list[float], float]:
    """What `votes`, `p` and `label` each say of the first response, and the weight of the votes."""
    stated: list[float] = []
    weight = 1.0
    if row.get("votes") is not None:
        share, weight = _share(row["votes"])
        stated.append(share)
    if row.get("p") is not None:
        p = number_of(row["p"], "p")
        if not 0 <= p <= 1:
            raise ValueError(f"p = {p} is outside [0, 1]")
        stated.append(p)
    if row.get("label") is not None:
        label = number_of(row["label"], "label")
        if label not in (1, 2):
            raise ValueError(f"`label` is {label:g}; it must be 1 (the first is preferred) or 2 (the second)")
        stated.append(2 - label)
    return stated, weight


def _share(votes: object) -> tuple[float, float]:
    """(p, weight) of counted votes {a, b, tie}: a tie is half a vote for each side."""
    if not isinstance(votes, dict) or not votes or not votes.keys() <= {"a", "b", "tie"}:
        raise ValueError(f"`votes` of a pair must be counts under `a`, `b` and `tie`, not {reprlib.repr(votes)}")
    counts = {key: number_of(count, f"votes.{key}") for key, count in votes.items() if count is not None}
    if any(count < 0 for count in counts.values()):
        raise ValueError(f"negative `votes`: {reprlib.repr(votes)}")
    total = sum(counts.values())
    if not total:
        raise Unusable(NO_VOTES)
    return (counts.get("a", 0) + counts.get("tie", 0) / 2) / total, total


def _entries(row: Row, key: str) -> list[Any]:
    entries = row[key]
    if not isinstance(entries, list):
        raise ValueError(f"`{key}` is {reprlib.repr(entries)}, not a list of responses")
    return entries


def _group_votes(row: Row, entries: Sequence[Any]) -> tuple[Vote, ...]:
    """The votes of a group: written out, or every pair by rank (lower is better) or score (higher is better)."""
    votes = row.get("votes")
    if isinstance(votes, list):
        return tuple(map(_vote, votes))
    stated = _orders(row, entries)
    if len(entries) == 2 and any(row.get(key) is not None for key in STATEMENTS):
        stated.insert(0, (Vote(0, 1, *_statement(row)),))
    elif votes is not None:
        raise ValueError(f"`votes` is {reprlib.repr(votes)}, not a list of votes")
    sides = [{vote.p > 0.5 for vote in pair if vote.p != 0.5} for pair in zip(*stated, strict=True)]
    if any(len(said) > 1 for said in sides):
        raise ValueError("`ranks`, `scores` and what stands beside them name different winners: keep the right one")
    if stated:
        return stated[0]
    inside = set().union(*(entry for entry in entries if isinstance(entry, dict)))
    if row.keys() & {"votes", "ranks", "scores"} or inside & {"rank", "score"}:
        raise Unusable(NO_VOTES)
    raise ValueError(f"a group of responses without `votes`, `ranks` or `scores`: the row has {names_of(row)}; {FORMS}")


def _orders(row: Row, entries: Sequence[Any]) -> list[tuple[Vote, ...]]:
    """The votes that the ranks of a group say, and those that its scores say, as far as it has them."""
    fields = [entry if isinstance(entry, dict) else {} for entry in entries]
    orders = []
    for name in ("rank", "score"):
        values = row.get(f"{name}s")
        if values is None and any(entry.get(name) is not None for entry in fields):
            values = [entry.get(name) for entry in fields]
        if values is not None:
            orders.append(_all_pairs(numbers_of(values, name, len(entries)), lower_wins=name == "rank"))
    return orders


def _all_pairs(values: Sequence[Exact], lower_wins: bool) -> tuple[Vote, ...]:
    pairs = combinations(range(len(values)), 2)
    return tuple(
        Vote(a, b, 0.5 if values[a] == values[b] else float((values[a] < values[b]) == lower_wins)) for a, b in pairs
    )


def _vote(vote: object) -> Vote:
    if not isinstance(vote, dict) or not {"a", "b", "p"} <= vote.keys() <= {"a", "b", "p", "weight"}:
        raise ValueError(f"a vote must have `a`, `b`, `p` and perhaps `weight`, not {reprlib.repr(vote)}")
    a, b = (number_of(vote[key], key) for key in "ab")
    if not (a.is_integer() and b.is_integer()):
        raise ValueError(f"a vote names responses by their place from 0, not {a:g} and {b:g}")
    weight = 1.0 if vote.get("weight") is None else number_of(vote["weight"], "weight")
    return Vote(int(a), int(b), number_of(vote["p"], "p"), weight)


def _is_canonical(row: Row, entries: Sequence[Any]) -> bool:
    """Our own form is taken word for word: no transcript is looked for in its texts."""
    return isinstance(row.get("votes"), list) and all(isinstance(entry, str) for entry in entries)


def prompt_alone(row: Row) -> Prompt:
    """The prompt of a row, whether or not it holds responses."""
    _check_tools(row)
    keys = _side_keys(row)
    entries = [row[key] for key in keys] if len(keys) != 1 else _entries(row, keys[0])
    if keys and _is_canonical(row, entries):
        prompt = with_system(stated_prompt(row), row)
    elif keys:
        spoken = [side for side in map(side_of, entries) if side]
        prompt = with_system(split_sides(stated_prompt(row), spoken[:1])[0], row)
    else:
        prompt = with_system(_question(row), row)
    if not prompt or not any(text.strip() for text in _texts(prompt)):
        raise ValueError(f"no prompt: the row has {names_of(row)}; it needs `prompt`, `turns`, or any preference form")
    check_unicode(_texts(prompt))
    return prompt


def _question(row: Row) -> Prompt | None:
    """The prompt of a row without responses; a chat that is not called `prompt` loses the assistant's last turn."""
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str):
        return (Message("user", turns[0]),)
    stated = row.get("prompt") is not None
    chat = messages_of(row["messages"]) if not stated and row.get("messages") is not None else stated_prompt(row)
    if not stated and isinstance(chat, tuple) and chat and chat[-1].role == "assistant":
        return chat[:-1]
    return split_sides(chat, [])[0]
