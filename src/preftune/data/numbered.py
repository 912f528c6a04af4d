"""Responses in columns that are numbered, `response_1` to `response_3`, and what people said of them in an export.

An export of an annotation tool has the answers of each person to a question: which response is best, or a ranking of
all. Every answer becomes annotations by that person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from .fields import Row, Unusable, is_missing
from .verdicts import NO_VOTES, plain_winner

STEMS = (
    *("response", "output", "answer", "completion", "generation", "candidate", "reply", "summary", "text", "option"),
    *("conversation", "messages", "continuation", "assistant", "prediction", "model_response", "chat"),
)
NUMBERED = re.compile(rf"({'|'.join(STEMS)})([-_ ]?)(\d+|[a-zA-Z])")
MEASURES = (("ranks", ("rank", "ranking")), ("scores", ("score", "rating", "reward")))
SAID = re.compile(
    r"\.responses(\.users|\.status)?$|[.-]suggestion(\.agent)?$|(^|[-_])(rank|score|rating|reward)($|[-_]|\d)"
)
BEST = ("winner", "preferred", "preference", "best", "chosen")
DISCARDED = ("discarded", "draft", "missing")


def is_said(title: str) -> bool:
    """Whether a column may hold a numbered response, or what was said of one."""
    return bool(NUMBERED.fullmatch(title) or SAID.search(title))


@lru_cache(maxsize=1024)
def responses_in(titles: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that hold numbered responses, in order; the largest family of them."""
    families: dict[tuple[str, str, bool], list[tuple[int, str]]] = {}
    for title in titles:
        if found := NUMBERED.fullmatch(title):
            stem, gap, end = found.groups()
            place = int(end) if end.isdigit() else ord(end.lower())
            families.setdefault((stem, gap, end.isdigit()), []).append((place, title))
    whole = [sorted(family) for family in families.values() if len(family) > 1]
    whole = [family for family in whole if family[-1][0] - family[0][0] == len(family) - 1]
    return tuple(title for _, title in max(whole, key=len, default=[]))


def as_group(fields: dict[str, Any], row: Row, names: Sequence[str], *, stated: bool = False) -> bool:
    """Make a group of numbered responses, if there are three or more, or ranks, scores or people's answers of them.

    Where the winner of two is `stated` otherwise, their ranks and scores are not looked at.
    """
    said = list(answers_in(row)) if len(names) > 1 else []
    counted = not stated or len(names) > 2
    measured = {role: values for role, words in MEASURES if counted and (values := _measures(row, words, names))}
    if len(names) < 2 or (len(names) == 2 and not said and not measured):
        return False
    fields.pop("a", None), fields.pop("b", None)
    fields["responses"] = [row.get(name) for name in names]
    if said:
        fields["annotations"] = [note for value, by in said for note in annotations_of(value, by, names)]
        fields["annotations"] += _by_ratings(row, names)
        if not fields["annotations"]:
            raise Unusable(NO_VOTES)
    elif measured:
        fields |= measured
    elif (place := _place(next((row[key] for key in BEST if key in row), None), names)) is not None:
        fields["votes"] = [{"a": place, "b": k, "p": 1} for k in range(len(names)) if k != place]
    return True


def _measures(row: Row, words: Sequence[str], names: Sequence[str]) -> list[Any] | None:
    """The ranks or scores of all responses: in one list, or in a column for each."""
    ends = [NUMBERED.fullmatch(name) for name in names]
    for word in words:
        whole = next((row[title] for title in (word, f"{word}s") if isinstance(row.get(title), list)), None)
        if whole and not isinstance(whole[0], dict):
            return list(whole)
        for pattern in ("{word}_{end}", "{word}{end}", "{word}-{end}", "{name}_{word}", "{name}-{word}"):
            pairs = zip(names, ends, strict=True)
            titles = [pattern.format(word=word, name=name, end=end[3] if end else "") for name, end in pairs]
            if titles and all(isinstance(row.get(title), int | float | str) for title in titles):
                return [row[title] for title in titles]
    return None


def answers_in(row: Row) -> Iterator[tuple[Any, str]]:
    """(answer, by whom) of every person who was asked, or else of the suggestions that they were shown."""
    found = [*_listed(row), *_columns(row)]
    yield from found or _suggested(row)


def _listed(row: Row) -> Iterator[tuple[Any, str]]:
    for value in row.values():
        if isinstance(value, list) and value and all(isinstance(one, dict) and "user_id" in one for one in value):
            for one in value:
                if one.get("status") not in DISCARDED and not is_missing(one.get("value")):
                    yield one["value"], str(one["user_id"])


def _columns(row: Row) -> Iterator[tuple[Any, str]]:
    for title in [title for title in row if title.endswith(".responses") and isinstance(row[title], list)]:
        users, status = _list(row.get(f"{title}.users")), _list(row.get(f"{title}.status"))
        for k, value in enumerate(row[title]):
            if not (k < len(status) and status[k] in DISCARDED) and not is_missing(value):
                yield value, str(users[k]) if k < len(users) else ""


def _suggested(row: Row) -> Iterator[tuple[Any, str]]:
    for title, value in row.items():
        if title.endswith((".suggestion", "-suggestion")) and not is_missing(value):
            yield value, str(row.get(f"{title}.agent") or "suggestion")


def _by_ratings(row: Row, names: Sequence[str]) -> list[dict[str, Any]]:
    """What each person says of all pairs by rating every response in a question of its own."""
    rated: dict[str, dict[int, float]] = {}
    for k, name in enumerate(names):
        for title in (f"{name}{gap}{word}" for gap in "-_" for word in ("rating", "score")):
            own = {key: row[key] for key in (title, f"{title} ", f"{title}.responses") if key in row}
            own |= {f"{key}{end}": row.get(f"{key}{end}") for key in own for end in (".users", ".status")}
            for value, by in (*_listed(own), *_columns(own)):
                if isinstance(value, int | float):
                    rated.setdefault(by, {})[k] = -value
    return [note for by, ranks in rated.items() for note in _by_ranks(ranks, by)]


def annotations_of(value: Any, by: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """What one answer says of all pairs: the best one over each other, or by rank; nothing if it is about neither."""
    ranks = _ranks(value, names)
    place = _place(value, names)
    if place is not None:
        return [{"a": place, "b": k, "winner": "a", "by": by} for k in range(len(names)) if k != place]
    if ranks:
        return _by_ranks(ranks, by)
    if isinstance(value, str) and len(names) == 2 and (winner := plain_winner(value.strip().lower())):
        return [{"a": 0, "b": 1, "winner": winner, "by": by}]
    return []


def _by_ranks(ranks: Mapping[int, float], by: str) -> list[dict[str, Any]]:
    pairs = combinations(sorted(ranks), 2)
    return [{"a": a, "b": b, "winner": _lower(ranks[a], ranks[b]), "by": by} for a, b in pairs]


def _lower(one: float, other: float) -> str:
    return "tie" if one == other else "a" if one < other else "b"


def _place(value: Any, names: Sequence[str]) -> int | None:
    if not isinstance(value, str):
        return None
    ends = [NUMBERED.fullmatch(name) for name in names]
    letters = [end[3].lower() for end in ends if end and end[3].isalpha()]
    if value in names:
        return names.index(value)
    return letters.index(value.lower()) if len(letters) == len(names) and value.lower() in letters else None


def _ranks(value: Any, names: Sequence[str]) -> dict[int, float]:
    """Ranks by place, from [{rank, value}], {rank: [...], value: [...]} or the names in order."""
    if isinstance(value, Mapping) and isinstance(value.get("rank"), list) and isinstance(value.get("value"), list):
        value = [{"rank": rank, "value": name} for rank, name in zip(value["rank"], value["value"], strict=False)]
    if not isinstance(value, list):
        return {}
    if all(isinstance(one, str) for one in value):
        value = [{"rank": rank, "value": name} for rank, name in enumerate(value)]
    whole = [one for one in value if isinstance(one, Mapping) and one.get("value") in names]
    return {names.index(one["value"]): one["rank"] for one in whole if isinstance(one.get("rank"), int | float)}


def flattened(fields: Row, answers: Any, suggestions: Any) -> dict[str, Any]:
    """An exported record as one row: its fields, and the answers of each person under the name of the question."""
    row: dict[str, Any] = dict(fields)
    for question, given in _items(answers):
        row[f"{question} "] = [_who(one) for one in _list(given)]
    for one in (one for one in _list(answers) if isinstance(one, Mapping)):
        for question, given in _items(one.get("values")):
            row.setdefault(f"{question} ", []).append({**_who(given), "user_id": one.get("user_id"), **_status(one)})
    for question, one in _items(suggestions):
        row[f"{question}.suggestion"] = one.get("value") if isinstance(one, Mapping) else None
    for one in (one for one in _list(suggestions) if isinstance(one, Mapping)):
        row[f"{one.get('question_name')}.suggestion"] = one.get("value")
    return row


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _status(said: Row) -> dict[str, Any]:
    return {"status": said["status"]} if "status" in said else {}


def _who(one: Any) -> dict[str, Any]:
    return {"user_id": "", **one} if isinstance(one, Mapping) else {"user_id": "", "value": one}
