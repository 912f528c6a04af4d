"""Preference files in any common form to ballots, ballots to canonical JSONL, and prompts from any of these.

First the *container* (JSONL, JSON, CSV, Parquet, gzip, a hub data set) becomes numbered rows, then the *form* of each
row, told by its fields, becomes one ballot. docs/FORMATS.md shows every form by an example. A row that cannot be read
stops the reading with a UserError that names its place; one that can be read but not used is counted by reason.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import reprlib
import textwrap
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Any

from .ballots import Ballot, BallotSet, Message, Prompt, Vote
from .errors import UserError

EMPTY = "an empty response"
IDENTICAL = "identical responses"
PROMPT_DIFFERS = "a prompt that differs between the sides"
NO_PROMPT = "no prompt"
NO_VOTES = "no votes"
FEW = "fewer than two responses"
NOT_ASSISTANT = "a chat that does not end with the assistant's turn"
OTHER_ROLE = "a turn of a role other than system, user or assistant"
BROKEN_TEXT = "text that is not valid Unicode (half of a surrogate pair)"
ONE_TRANSCRIPT = "a transcript beside a response that is none"
TOOL_CALL = "a tool call, which cannot be rendered yet"
TOOLS = "tools beside the prompt, which cannot be rendered yet"
REASONING = "reasoning beside a turn's text, which cannot be rendered yet"

Row = Mapping[str, Any]
_Exact = int | float | Decimal
Side = str | tuple[Message, ...]  # a response alone, or the messages that end with it

PAIRS = (
    ("a", "b"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("output_1", "output_2"),
)
GROUPS = (("responses",), ("replies",), ("completions",), ("answers",))
SIDES = (("chosen", "rejected"), *PAIRS, *GROUPS)
PROMPTS = ("conversations", "conversation", "question", "instruction", "context")  # `prompt` comes before them all
STATEMENTS = ("votes", "p", "label")
TEXTS = ("text", "content", "response", "answer")
SYSTEMS = ("system", "system_prompt")
TURN = (("role", "content"), ("from", "value"))
CALLS = ("tool_calls", "function_call")
CALL_ROLES = ("function_call", "tool_call")
THOUGHTS = ("reasoning_content", "thinking")
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
OPENING = re.compile(r"\s*Human:")
ANSWER = "\n\nAssistant:"
STRUCTURED = {"conversations", "conversation", "messages", "turns", "votes", "ranks", "scores", "ended"}.union(*GROUPS)
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
FILE_NAME = re.compile(r"\.(jsonl|json|csv|tsv|parquet|txt)(\.gz)?$|\.gz$", re.IGNORECASE)
ARCHIVES = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
KNOWN = {"prompt", "turns", "messages", *PROMPTS, *(key for keys in SIDES for key in keys)}
FORMS = (
    "a row needs `chosen` and `rejected`; or `a` and `b` with `label`, `votes` or `p`; or `responses` with `votes`, "
    "`ranks` or `scores` (docs/FORMATS.md shows them all)"
)


class _Unusable(Exception):
    """A row that can be read and not used; its text is the reason to count."""


# ---------------------------------------------------------------------------------------------------- public


def read_ballots(source: str | Path) -> BallotSet:
    """The ballots of a preference file, or of a hub data set (`owner/name` or `owner/name:split`).

    Container and form are told by content. One row becomes one ballot, in file order; `skipped` counts the rows that
    cannot be used, `dropped` the responses left out of groups that stayed. A row without an `id` gets its line
    (JSONL) or row number. `sha256` is that of the content that trains (prompts, responses, votes), whatever the
    container, compression or name. Raises UserError, with file and line, for what cannot be read, and when nothing
    is left.
    """
    table = _table(source)
    ballots: list[Ballot] = []
    skipped: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for number, fields in table.rows:
        try:
            ballot, left_out = _ballot(_fields(fields), str(number))
        except _Unusable as reason:
            skipped[str(reason)] += 1
        except (ValueError, RecursionError) as error:
            raise UserError(f"{table.where(number)}: {error}") from None
        else:
            ballots.append(ballot)
            dropped += left_out
    if not ballots:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in skipped.items())
        raise UserError(f"{table.name}: none of its {len(table.rows)} rows can be used ({reasons})")
    return BallotSet(tuple(ballots), len(table.rows), dict(skipped), table.name, _fingerprint(ballots), dict(dropped))


def read_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """The distinct prompts of a file, in file order: for evaluation.

    Takes every preference form (its prompt), `{prompt}` as text or messages, a chat under `messages` or
    `conversations` (up to the assistant's last turn), MT-bench `turns` (the first), and a `.txt` file with one prompt
    a line. Raises UserError, with file and line, for a row without a prompt.
    """
    name = str(source)
    if re.search(r"\.txt(\.gz)?$", name, re.IGNORECASE):
        lines = _text(name, _bytes(Path(source), name)).split("\n")
        return tuple(dict.fromkeys(line.removesuffix("\r") for line in lines if line.strip()))
    table = _table(source)
    prompts: dict[Prompt, None] = {}
    for number, fields in table.rows:
        try:
            prompts[_prompt_alone(_fields(fields))] = None
        except (ValueError, RecursionError, _Unusable) as error:
            raise UserError(f"{table.where(number)}: {error}; mend or delete the row") from None
    return tuple(prompts)


def write_ballots(ballots: Iterable[Ballot], path: str | Path) -> None:
    """Write canonical JSONL, one ballot a line, gzipped if the name ends in `.gz`: all of the file or nothing of it.

    The same ballots give the same bytes. Raises UserError if the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    data = "".join(json.dumps(_row(ballot), ensure_ascii=False) + "\n" for ballot in ballots).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def merge_prompts(ballots: Iterable[Ballot]) -> tuple[Ballot, ...]:
    """One ballot per prompt, in order of first appearance: identical responses become one, their votes are pooled.

    It keeps the first id and names every source. Responses are identical if text and `ended` are.
    """
    together: dict[Prompt, list[Ballot]] = {}
    for ballot in ballots:
        together.setdefault(ballot.prompt, []).append(ballot)
    return tuple(_merge(group) for group in together.values())


# ---------------------------------------------------------------------------------------------------- canonical form


def _row(ballot: Ballot) -> dict[str, object]:
    prompt = ballot.prompt if isinstance(ballot.prompt, str) else [turn._asdict() for turn in ballot.prompt]
    votes = [{"a": v.a, "b": v.b, "p": float(v.p), "weight": float(v.weight)} for v in ballot.votes]
    return {
        "id": ballot.id,
        "source": ballot.source,
        "prompt": prompt,
        "responses": list(ballot.responses),
        "votes": votes,
        "ended": list(ballot.ended),
    }


def _fingerprint(ballots: Iterable[Ballot]) -> str:
    digest = hashlib.sha256()
    for ballot in ballots:
        digest.update(json.dumps(_row(replace(ballot, id="", source=""))).encode() + b"\n")
    return digest.hexdigest()


def _merge(group: Sequence[Ballot]) -> Ballot:
    responses: list[str] = []
    ended: list[bool] = []
    votes: list[Vote] = []
    for ballot in group:
        votes += [replace(vote, a=vote.a + len(responses), b=vote.b + len(responses)) for vote in ballot.votes]
        responses += ballot.responses
        ended += ballot.ended
    source = ", ".join(dict.fromkeys(ballot.source for ballot in group if ballot.source))
    whole = Ballot(group[0].prompt, tuple(responses), tuple(votes), group[0].id, source, tuple(ended))
    index: dict[tuple[str, bool], int] = {}
    places = [index.setdefault(key, len(index)) for key in zip(responses, ended, strict=True)]
    return _renumbered(whole, places).pooled()


def _renumbered(ballot: Ballot, places: Sequence[int | None]) -> Ballot:
    """Response k moves to places[k] (numbered as they first appear) or, at None, goes; of several the first stays.

    The votes follow; a vote on a response that goes, or on two that share a place, goes.
    """
    first: dict[int, int] = {}
    for k, place in enumerate(places):
        if place is not None:
            first.setdefault(place, k)
    votes = []
    for vote in ballot.votes:
        a, b = places[vote.a], places[vote.b]
        if a is not None and b is not None and a != b:
            votes.append(replace(vote, a=a, b=b))
    responses = tuple(ballot.responses[k] for k in first.values())
    ended = tuple(ballot.ended[k] for k in first.values())
    return replace(ballot, responses=responses, ended=ended, votes=tuple(votes))


# ---------------------------------------------------------------------------------------------------- forms


def _ballot(row: Row, number: str) -> tuple[Ballot, Counter[str]]:
    """The ballot of a row, and how many of its responses were left out, by reason."""
    prompt, responses, votes = _contents(row)
    _check_tools(row)
    if len(responses) < 2:
        raise _Unusable(FEW)
    weight = _number(row["weight"], "weight") if row.get("weight") is not None else 1.0
    if weight < 0:
        raise ValueError(f"`weight` is {weight:g}; it must not be negative")
    if weight != 1:
        votes = tuple(replace(vote, weight=vote.weight * weight) for vote in votes) if weight else ()
    name = number if row.get("id") is None else str(row["id"])
    source = "" if row.get("source") is None else str(row["source"])
    return _usable(Ballot(prompt or "", responses, votes, name, source, _ended(row, len(responses))))


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
            raise _Unusable(TOOLS)


def _usable(ballot: Ballot) -> tuple[Ballot, Counter[str]]:
    """The ballot without empty responses and copies, and their counts; _Unusable if no contest is left."""
    index: dict[tuple[str, bool], int] = {}
    places = [
        index.setdefault((text, end), len(index)) if text.strip() else None
        for text, end in zip(ballot.responses, ballot.ended, strict=True)
    ]
    empty = places.count(None)
    copies = len(places) - empty - len(index)
    if len(places) - empty < 2:
        raise _Unusable(EMPTY)
    if len(index) < 2:
        raise _Unusable(IDENTICAL)
    _check_text(ballot)
    if empty or copies:
        ballot = _renumbered(ballot, places)
    if not ballot.votes:
        raise _Unusable(NO_VOTES)
    return ballot.pooled() if copies else ballot, +Counter({EMPTY: empty, IDENTICAL: copies})


def _check_text(ballot: Ballot) -> None:
    turns = _texts(ballot.prompt)
    if not any(text.strip() for text in turns):
        raise _Unusable(NO_PROMPT)
    _check_unicode((*turns, *ballot.responses, ballot.id, ballot.source))


def _check_unicode(texts: Iterable[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise _Unusable(BROKEN_TEXT) from None


def _texts(prompt: Prompt) -> tuple[str, ...]:
    return (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)


def _contents(row: Row) -> tuple[Prompt | None, tuple[str, ...], tuple[Vote, ...]]:
    """Prompt, responses and votes of a row in any known form."""
    keys = _side_keys(row)
    if not keys:
        raise ValueError(f"no preference in a form this reader knows: the row has {_names(row)}; {FORMS}")
    if len(keys) == 1:
        entries = _entries(row, keys[0])
        votes = _group_votes(row, entries)
        if _is_canonical(row, entries):
            return _with_system(_prompt(row), row), tuple(entries), votes
    else:
        entries = [row[key] for key in keys]
        votes = (Vote(0, 1, *(_chosen(row) if keys == SIDES[0] else _statement(row))),)
    prompt, responses = _split(_prompt(row), [_side(entry) for entry in entries])
    return _with_system(prompt, row), responses, votes


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
            raise ValueError(f"a pair without `label`, `votes` or `p`: the row has {_names(row)}; {FORMS}")
        raise _Unusable(NO_VOTES)
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
        p = _number(row["p"], "p")
        if not 0 <= p <= 1:
            raise ValueError(f"p = {p} is outside [0, 1]")
        stated.append(p)
    if row.get("label") is not None:
        label = _number(row["label"], "label")
        if label not in (1, 2):
            raise ValueError(f"`label` is {label:g}; it must be 1 (the first is preferred) or 2 (the second)")
        stated.append(2 - label)
    return stated, weight


def _share(votes: object) -> tuple[float, float]:
    """(p, weight) of counted votes {a, b, tie}: a tie is half a vote for each side."""
    if not isinstance(votes, dict) or not votes or not votes.keys() <= {"a", "b", "tie"}:
        raise ValueError(f"`votes` of a pair must be counts under `a`, `b` and `tie`, not {reprlib.repr(votes)}")
    counts = {key: _number(count, f"votes.{key}") for key, count in votes.items() if count is not None}
    if any(count < 0 for count in counts.values()):
        raise ValueError(f"negative `votes`: {reprlib.repr(votes)}")
    total = sum(counts.values())
    if not total:
        raise _Unusable(NO_VOTES)
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
        raise _Unusable(NO_VOTES)
    raise ValueError(f"a group of responses without `votes`, `ranks` or `scores`: the row has {_names(row)}; {FORMS}")


def _orders(row: Row, entries: Sequence[Any]) -> list[tuple[Vote, ...]]:
    """The votes that the ranks of a group say, and those that its scores say, as far as it has them."""
    fields = [entry if isinstance(entry, dict) else {} for entry in entries]
    orders = []
    for name in ("rank", "score"):
        values = row.get(f"{name}s")
        if values is None and any(entry.get(name) is not None for entry in fields):
            values = [entry.get(name) for entry in fields]
        if values is not None:
            orders.append(_all_pairs(_numbers(values, name, len(entries)), lower_wins=name == "rank"))
    return orders


def _all_pairs(values: Sequence[_Exact], lower_wins: bool) -> tuple[Vote, ...]:
    pairs = combinations(range(len(values)), 2)
    return tuple(
        Vote(a, b, 0.5 if values[a] == values[b] else float((values[a] < values[b]) == lower_wins)) for a, b in pairs
    )


def _vote(vote: object) -> Vote:
    if not isinstance(vote, dict) or not {"a", "b", "p"} <= vote.keys() <= {"a", "b", "p", "weight"}:
        raise ValueError(f"a vote must have `a`, `b`, `p` and perhaps `weight`, not {reprlib.repr(vote)}")
    a, b = (_number(vote[key], key) for key in "ab")
    if not (a.is_integer() and b.is_integer()):
        raise ValueError(f"a vote names responses by their place from 0, not {a:g} and {b:g}")
    weight = 1.0 if vote.get("weight") is None else _number(vote["weight"], "weight")
    return Vote(int(a), int(b), _number(vote["p"], "p"), weight)


def _is_canonical(row: Row, entries: Sequence[Any]) -> bool:
    """Our own form is taken word for word: no transcript is looked for in its texts."""
    return isinstance(row.get("votes"), list) and all(isinstance(entry, str) for entry in entries)


# ---------------------------------------------------------------------------------------------------- prompts and chats


def _prompt(row: Row) -> Prompt | None:
    """The prompt that a row states; None where it states none."""
    keys = ["prompt"] if row.get("prompt") is not None else [key for key in PROMPTS if row.get(key) is not None]
    if len(keys) > 1:
        raise ValueError(f"which is the prompt: {', '.join(keys)}? Put what the model sees under `prompt`")
    if not keys:
        return None
    value = row[keys[0]]
    if isinstance(value, str):
        extra = _input(row) if keys[0] == "instruction" else ""
        return f"{value}\n{extra}" if extra else value
    if isinstance(value, list) or _is_turn(value):
        if keys[0] == "instruction" and _input(row):
            raise ValueError("`input` stands beside an `instruction` that is a chat: put it into one of its turns")
        return _messages(value)
    raise ValueError(f"`{keys[0]}` is {reprlib.repr(value)}, neither text nor a list of messages")


def _input(row: Row) -> str:
    extra = row.get("input")
    if not isinstance(extra, str | None):
        raise ValueError(f"`input` is {reprlib.repr(extra)}, not text")
    return extra if extra and extra.strip() else ""


def _with_system(prompt: Prompt | None, row: Row) -> Prompt | None:
    """A field `system` makes the prompt a chat, with its text (if any) as the first turn."""
    if not prompt or not row.keys() & {*SYSTEMS}:
        return prompt
    system = _system(row)
    chat = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not system.strip():
        return chat
    own = next((turn.content for turn in chat if turn.role == "system"), None)
    if own is None:
        return (Message("system", system), *chat)
    if own.strip() != system.strip():
        raise ValueError("the `system` field and the system turn of the chat have different texts: keep the right one")
    return chat


def _system(row: Row) -> str:
    texts = {key: row[key] for key in SYSTEMS if row.get(key) is not None}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"`{key}` is {reprlib.repr(text)}, not text")
    spoken = [text for text in texts.values() if text.strip()]
    if len({text.strip() for text in spoken}) > 1:
        raise ValueError("`system` and `system_prompt` have different texts: keep the right one")
    return spoken[0] if spoken else ""


def _is_turn(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    return any(value.keys() >= {*pair} for pair in TURN) or ("role" in value and any(map(value.get, CALLS)))


def _messages(value: object) -> tuple[Message, ...]:
    """Chat turns under role and content, or ShareGPT's from and value."""
    turns = value if isinstance(value, list) else [value]
    if not all(map(_is_turn, turns)):
        raise ValueError(f"a chat is a list of {{role, content}} or {{from, value}}, not {reprlib.repr(value)}")
    return tuple(map(_message, turns))


def _message(turn: Row) -> Message:
    _check_silent(turn, (*THOUGHTS, "reasoning"))
    role, content = _spoken(turn)
    if not isinstance(content, str | None):
        raise ValueError(f"the content of a turn is {reprlib.repr(content)}, not text")
    name = role.lower() if isinstance(role, str) else ""
    if name in CALL_ROLES:
        raise _Unusable(TOOL_CALL)
    if name not in ROLES:
        raise _Unusable(OTHER_ROLE)
    return Message(ROLES[name], content or "")


def _spoken(turn: Row) -> tuple[Any, Any]:
    """Role and text of a turn. Arrow gives every turn all keys, so of two pairs the one that has values is meant."""
    pairs = [(turn[role], turn[text]) for role, text in TURN if role in turn and text in turn]
    names = [turn[role].lower() for role, _ in TURN if isinstance(turn.get(role), str)]
    texts = [text for _, text in pairs if text is not None]
    if len({ROLES[name] for name in names if name in ROLES}) > 1 or any(text != texts[0] for text in texts):
        raise ValueError(f"`role`, `content` and `from`, `value` of a turn differ: {reprlib.repr(turn)}")
    return max(pairs, key=lambda pair: sum(part is not None for part in pair))


def _check_silent(said: Row, thoughts: Iterable[str]) -> None:
    """_Unusable for what stands beside a text and would be lost: calls, and fields of thoughts."""
    if any(map(said.get, CALLS)):
        raise _Unusable(TOOL_CALL)
    texts = [said.get(key) for key in thoughts]
    if any(text.strip() if isinstance(text, str) else text for text in texts):
        raise _Unusable(REASONING)


def _side(value: object) -> Side:
    """A response as text, or as the messages that end with it; a missing or blank one is the empty text."""
    if isinstance(value, dict) and not (_is_turn(value) and any(value.get(role) is not None for role, _ in TURN)):
        value = _text_of(value)
    if isinstance(value, list) or _is_turn(value):
        return _messages(value) or ""
    if isinstance(value, str | None):
        return value if value and value.strip() else ""
    raise ValueError(f"a response is {reprlib.repr(value)}, neither text nor messages")


def _text_of(entry: Row) -> object:
    """What a response that is an object says: the object itself if it has no field for that."""
    _check_silent(entry, THOUGHTS)  # `reasoning` beside a score is the judge's
    texts = {key: entry[key] for key in TEXTS if entry.get(key) is not None}
    first = next(iter(texts.values()), None)
    if any(text != first for text in texts.values()):
        raise ValueError(f"which is the response: {', '.join(texts)}? Keep one of them")
    return first if entry.keys() & {*TEXTS} else entry


def _split(prompt: Prompt | None, sides: Sequence[Side]) -> tuple[Prompt | None, tuple[str, ...]]:
    """The prompt and each side's response, where sides may hold the whole chat: what they share is the prompt.

    Raises _Unusable if they share less than all but the last turn, or contradict the stated prompt.
    """
    spoken = [side for side in sides if side]
    if _are_transcripts(prompt, spoken):
        prompt, sides = None, [_turns(side) if isinstance(side, str) and side else side for side in sides]
    elif len({_is_transcript(side) for side in spoken}) > 1:
        raise _Unusable(ONE_TRANSCRIPT)
    elif isinstance(prompt, str) and OPENING.match(prompt) and prompt.rstrip().endswith(ANSWER):
        prompt, sides = _turns(prompt)[:-1], [side.strip() if isinstance(side, str) else side for side in sides]
    texts = tuple(side for side in sides if isinstance(side, str))
    if len(texts) == len(sides):
        return prompt, texts
    chats = [_whole(prompt, side) for side in sides if side]
    if len({chat[:-1] for chat in chats}) > 1:
        raise _Unusable(PROMPT_DIFFERS)
    if any(chat[-1].role != "assistant" for chat in chats):
        raise _Unusable(NOT_ASSISTANT)
    return chats[0][:-1], tuple(_whole(prompt, side)[-1].content if side else "" for side in sides)


def _whole(prompt: Prompt | None, side: Side) -> tuple[Message, ...]:
    """Prompt and response as one chat; the side may already begin with the prompt."""
    turns = (Message("assistant", side),) if isinstance(side, str) else side
    if prompt is None:
        return turns
    if turns[0].role == "assistant":
        return ((Message("user", prompt),) if isinstance(prompt, str) else prompt) + turns
    if not _repeats(prompt, turns):
        raise _Unusable(PROMPT_DIFFERS)
    return turns


def _is_transcript(side: Side) -> bool:
    return isinstance(side, str) and bool(OPENING.match(side)) and ANSWER in side


def _are_transcripts(prompt: Prompt | None, sides: Sequence[Side]) -> bool:
    """Whether all sides are whole `Human: ... Assistant: ...` transcripts; beside a prompt, ones that repeat it."""
    texts = [side for side in sides if isinstance(side, str) and _is_transcript(side)]
    if not sides or len(texts) < len(sides):
        return False
    if isinstance(prompt, str) and OPENING.match(prompt):
        return all(text.strip().startswith(prompt.strip()) for text in texts)
    return not prompt or all(_repeats(prompt, _turns(text)) for text in texts)


def _repeats(prompt: Prompt, turns: tuple[Message, ...]) -> bool:
    """Whether a chat already holds the stated prompt."""
    if isinstance(prompt, str):
        return any(turn.content.strip() == prompt.strip() for turn in turns[:-1])
    return turns[: len(prompt)] == prompt


def _turns(transcript: str) -> tuple[Message, ...]:
    """The turns of a transcript. Before the last one, successive turns of one role are one turn with a break in it."""
    parts = re.split(r"\n\n(Human|Assistant):", "\n\n" + transcript.lstrip())
    tags = {"Human": "user", "Assistant": "assistant"}
    turns = [Message(tags[tag], text.strip()) for tag, text in zip(parts[1::2], parts[2::2], strict=True)]
    merged: list[Message] = []
    for turn in turns[:-1]:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Message(turn.role, f"{merged[-1].content}\n\n{turn.content}")
        else:
            merged.append(turn)
    return (*merged, turns[-1])


def _prompt_alone(row: Row) -> Prompt:
    """The prompt of a row, whether or not it holds responses."""
    _check_tools(row)
    keys = _side_keys(row)
    entries = [row[key] for key in keys] if len(keys) != 1 else _entries(row, keys[0])
    if keys and _is_canonical(row, entries):
        prompt = _with_system(_prompt(row), row)
    elif keys:
        spoken = [side for side in map(_side, entries) if side]
        prompt = _with_system(_split(_prompt(row), spoken[:1])[0], row)
    else:
        prompt = _with_system(_question(row), row)
    if not prompt or not any(text.strip() for text in _texts(prompt)):
        raise ValueError(f"no prompt: the row has {_names(row)}; it needs `prompt`, `turns`, or any preference form")
    _check_unicode(_texts(prompt))
    return prompt


def _question(row: Row) -> Prompt | None:
    """The prompt of a row without responses; a chat that is not called `prompt` loses the assistant's last turn."""
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], str):
        return (Message("user", turns[0]),)
    stated = row.get("prompt") is not None
    chat = _messages(row["messages"]) if not stated and row.get("messages") is not None else _prompt(row)
    if not stated and isinstance(chat, tuple) and chat and chat[-1].role == "assistant":
        return chat[:-1]
    return _split(chat, [])[0]


# ---------------------------------------------------------------------------------------------------- small change


def _fields(row: object) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object with named fields, not {reprlib.repr(row)}")
    return row


def _names(row: Row) -> str:
    return textwrap.shorten(", ".join(map(repr, row)), 200) or "no fields"


def _number(value: object, name: str) -> float:
    """A finite number, or the text of one (CSV)."""
    return float(_exact(value, name))


def _exact(value: object, name: str) -> _Exact:
    """A finite number that compares as it was written: floats cannot tell large integers apart.

    Text must be a plain decimal number: Python would take 1_0, full-width digits and nan as well.
    """
    try:
        number = value
        if isinstance(value, str) and NUMBER.fullmatch(value):
            number = int(value) if value.lstrip("+-").isdigit() else float(value)
        if isinstance(number, int | float | Decimal) and not isinstance(number, bool) and math.isfinite(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"`{name}` is {reprlib.repr(value)}, not a finite number")


def _numbers(values: object, name: str, count: int) -> list[_Exact]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"`{name}s` must be a list of {count} numbers, one a response, not {reprlib.repr(values)}")
    return [_exact(value, name) for value in values]


# ---------------------------------------------------------------------------------------------------- containers


@dataclass(frozen=True)
class _Table:
    """Numbered rows; `unit` stands between name and number: `:` where numbers are lines, else `, row `."""

    name: str
    unit: str
    rows: list[tuple[int, object]]

    def where(self, number: int) -> str:
        return f"{self.name}{self.unit}{number}"


def _table(source: str | Path) -> _Table:
    path, name = Path(source), str(source)
    if isinstance(source, str) and _names_a_data_set(source):
        table = _from_hub(source)
    else:
        data = _bytes(path, name)
        table = _from_parquet(name, data) if data.startswith(b"PAR1") else _from_text(name, _text(name, data))
    if not table.rows:
        raise UserError(f"{name}: holds no rows")
    return table


def _bytes(path: Path, name: str) -> bytes:
    """The content of a file, decompressed."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; name a file in it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{name}: damaged or truncated gzip; fetch it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({error})") from None
    for magic, kind in ARCHIVES.items():
        if data.startswith(magic):
            raise UserError(f"{name}: is compressed with {kind}; unpack it, or use gzip")
    return data


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise UserError(f"{name}: is empty")
    return text


def _from_text(name: str, text: str) -> _Table:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    start = text.lstrip()[:1]
    if start == "{" and len(lines) > 1 and (_is_object(lines[0][1]) or lines[1][1].startswith("{")):
        return _Table(name, ":", [(number, _json(name, line, number)) for number, line in lines])
    if start not in ("{", "["):
        return _from_csv(name, text)
    document = _json(name, text)
    rows = _rows_in(name, document)
    if len(lines) == 1 and rows and rows[0] is document:
        return _Table(name, ":", [(lines[0][0], document)])
    return _Table(name, ", row ", list(enumerate(rows, 1)))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _json(name: str, text: str, line: int = 1) -> object:
    """A JSON text that starts on this line of the file."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place, why = line + error.lineno - 1, f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        place, why = line, str(error)
    raise UserError(f"{name}:{place}: broken JSON ({why}); mend or delete the line")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; of a key that stands twice Python would keep the last value and say nothing."""
    if twice := _twice(key for key, _ in pairs):
        raise ValueError(f"the key {twice[0]!r} stands twice in one object")
    return dict(pairs)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _rows_in(name: str, document: object) -> list[object]:
    """The rows of a JSON document: a list, an object that holds one, or an object that is a row itself."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or KNOWN & document.keys():
        return [document]
    lists = [key for key, value in document.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise UserError(f"{name}: holds several lists ({', '.join(map(repr, lists))}); keep one in a file")
    return document[lists[0]] if lists else [document]


def _from_csv(name: str, text: str) -> _Table:
    first = text.lstrip().split("\n", 1)[0]
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=first.count), strict=True)
    try:
        header, *records = [record for record in reader if record]
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: neither JSON nor readable as CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    header = [title.strip() for title in header]
    if not KNOWN & {*header}:
        raise UserError(
            f"{name}:1: neither JSON nor a CSV header with a column that this reader knows (docs/FORMATS.md)"
        )
    if twice := _twice(header):
        raise UserError(f"{name}:1: two columns have the same title, {twice[0]!r}; rename one")
    return _Table(name, ", row ", [(n, _cells(name, n, header, record)) for n, record in enumerate(records, 1)])


def _cells(name: str, number: int, header: Sequence[str], record: Sequence[str]) -> dict[str, object]:
    if len(record) != len(header):
        raise UserError(f"{name}, row {number}: has {len(record)} cells under {len(header)} titles; check its quotes")
    try:
        return {title: _cell(title, text) for title, text in zip(header, record, strict=True)}
    except ValueError as error:
        raise UserError(f"{name}, row {number}: {error}") from None


def _cell(title: str, text: str) -> object:
    """Text, None for an empty cell, or the lists and objects that a cell holds as JSON or as Python prints them."""
    if text[:1] not in ("[", "{"):
        return text or None
    value, twice = _structure(text)
    is_chat = _is_turn(value) or (isinstance(value, list) and bool(value) and all(map(_is_turn, value)))
    if not is_chat and title not in STRUCTURED:
        return text
    if twice:
        raise ValueError(f"in `{title}`, the key {twice[0]!r} stands twice in one object; keep one of them")
    return value


def _structure(text: str) -> tuple[object, list[str]]:
    """What a cell holds as JSON or as Python prints it (else its text), and the keys that stand twice in an object."""
    twice: list[str] = []

    def fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice.extend(_twice(key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=fields), twice
    except (ValueError, RecursionError):
        twice.clear()
    try:
        with warnings.catch_warnings(action="ignore"):  # text that is no Python may hold escapes that Python warns of
            tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                twice.extend(_twice(str(key.value) for key in node.keys if isinstance(key, ast.Constant)))
        return ast.literal_eval(tree), twice
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text, []


def _from_parquet(name: str, data: bytes) -> _Table:
    import pyarrow
    import pyarrow.parquet

    # With Arrow's own threads a process that ends at once is sometimes aborted by them (SIGABRT, one in eighty here).
    source = pyarrow.BufferReader(data)
    try:
        table = pyarrow.parquet.ParquetFile(source, pre_buffer=False).read(use_threads=False)
        twice = _twice(table.column_names)
        rows = [] if twice else table.to_pylist()
    except Exception as error:  # Arrow's own, OSError, ValueError, and what makes Python's times and decimals raises
        raise UserError(f"{name}: damaged Parquet file ({_line(error)}); fetch it again") from None
    if twice:
        raise UserError(f"{name}: two columns have the same title, {twice[0]!r}; rename one")
    return _Table(name, ", row ", list(enumerate(rows, 1)))


def _names_a_data_set(source: str) -> bool:
    """Whether it reads `owner/name` or `owner/name:split`, and nothing here goes by that name."""
    if not HUB_NAME.fullmatch(source) or FILE_NAME.search(source):
        return False
    return not os.path.exists(source) and not os.path.isdir(source.split("/")[0])


def _from_hub(source: str) -> _Table:
    """The rows of a hub data set. Cached ones are read without a network when HF_HUB_OFFLINE=1."""
    import datasets
    import huggingface_hub

    name, _, split = source.partition(":")
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            huggingface_hub.dataset_info(name, timeout=10)  # fails at once where load_dataset retries for long
        data = datasets.load_dataset(name, split=split or None)
        splits = data if isinstance(data, dict) else {split: data}
        rows = [row for rows in splits.values() for row in rows] if len(splits) == 1 else []
    except Exception as error:  # the libraries below raise of their own, OSError, ValueError and more
        raise UserError(
            f"{source}: neither a file here nor a data set that the hub gives ({_line(error)}); without a network, "
            "HF_HUB_OFFLINE=1 reads a cached copy"
        ) from None
    if len(splits) != 1:
        raise UserError(f"{name}: choose a split: {', '.join(f'{name}:{split}' for split in splits)}")
    return _Table(source, ", row ", list(enumerate(rows, 1)))


def _line(error: Exception) -> str:
    return textwrap.shorten(" ".join(str(error).split()), 160) or type(error).__name__
