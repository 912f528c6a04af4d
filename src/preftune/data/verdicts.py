"""What a row says of two responses: who won, how often, by whose word. Every way to say it becomes one statement.

A statement is (p, weight, annotations): p = Pr(first ≻ second). Where a row says it in several ways they must not name
different winners; the first in the order of `READINGS` counts.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .ballots import Annotation
from .fields import Ambiguous, Plain, Unusable, alike, exact_of, is_missing, number_of

NO_VOTES = "no votes"
BOTH_BAD = "both bad"
MOST_COUNTED = 1000  # votes of one pair that are kept one by one

FIRST = {"a", "1", "first", "left", "one"}
SECOND = {"b", "2", "second", "right", "two"}
TIES = {"tie", "tied", "draw", "c", "same", "equal", "both", "a=b", "neutral", "bothgood", "tie(bothgood)"}
BAD_TIES = {"bothbad", "tie(bothbad)", "tiebothbad", "neither", "a=b(bothbad)"}  # without spaces and underscores
STEMS = ("model", "response", "output", "answer", "completion", "assistant", "conversation", "option", "summary")


class Statement(NamedTuple):
    """What is said of a pair: p = Pr(first ≻ second), how much it counts, and the single judgements behind it."""

    p: float
    weight: float = 1.0
    annotations: tuple[Annotation, ...] = ()


def statements_of(row: Plain) -> list[Statement]:
    """All that a row says of its two responses, the one that counts first. Raises Unusable for a count of no votes."""
    fields = row.fields
    said = [read(fields[role], row) for role, read in READINGS.items() if fields.get(role) is not None]
    if fields.get("score_a") is not None or fields.get("score_b") is not None:
        said.append(_by_scores(row))
    return [one for one in said if one is not None]


def is_stated(row: Plain) -> bool:
    """Whether a row has a field that says something of two responses, though it may be empty."""
    return not row.fields.keys().isdisjoint({*READINGS, "score_a", "score_b"})


def agreed(said: Sequence[Statement]) -> Statement:
    """The one that counts. Raises ValueError where two of them name different winners."""
    if min(one.p for one in said) < 0.5 < max(one.p for one in said):
        raise ValueError(
            "what the row says of its two responses (`votes`, `p`, `label`, …) names different winners: keep the "
            "right one"
        )
    return said[0]


def winner_of(word: str, row: Plain) -> str | None:
    """Whom a word names: a, b, tie, both_bad; None for a word that is not known.

    It may be the name of the column of a response, or of the model that a row has for each of them.
    """
    text = word.strip().strip("[]").strip().lower().removesuffix(" is better").removesuffix(" wins")
    models = [row.fields.get(key) for key in ("model_a", "model_b")]
    for pair in ((row.name("a"), row.name("b")), models):
        lowered = [str(name).strip().lower() for name in pair]
        if text in lowered and lowered[0] != lowered[1]:
            return "ab"[lowered.index(text)]
    return plain_winner(text)


def plain_winner(text: str) -> str | None:
    """Whom a word names by itself, in small letters."""
    close = re.sub(r"[\s_-]", "", text)
    if close in BAD_TIES or close in TIES:
        return "both_bad" if close in BAD_TIES else "tie"
    for stem in STEMS:
        text = text.removeprefix(stem).lstrip("_- ") or text
    over = text.replace(" ", "").replace(">>", ">").split(">")
    text = over[0] if len(over) == 2 and over[0] != over[1] else text
    return "a" if text in FIRST else "b" if text in SECOND else None


def judged(winner: str, row: Plain) -> Statement:
    """One judgement: it is kept as an annotation where it says more than its vote does."""
    by = "" if row.fields.get("by") is None else str(row.fields["by"])
    single = Annotation(0, 1, winner, by)
    return Statement(single.vote.p, 1.0, (single,) if by or winner == "both_bad" else ())


def _by_winner(word: Any, row: Plain) -> Statement | None:
    if is_missing(word):
        return None
    if not isinstance(word, str) or word.strip().lstrip("+-").replace(".", "", 1).isdigit():
        raise Ambiguous(f"`{row.name('winner')}` is {word!r}: {_two_readings(row.name('winner'))}")
    sides = [row.fields.get("a"), row.fields.get("b")]
    winner = "ab"[sides.index(word)] if word in sides and sides[0] != sides[1] else winner_of(word, row)
    if winner is None:
        known = "a, b, tie, both_bad, the names of the two columns or of `model_a` and `model_b`"
        raise ValueError(f"`{row.name('winner')}` is {reprlib.repr(word)}, which names no winner ({known})")
    return judged(winner, row)


def _by_label(label: Any, row: Plain) -> Statement | None:
    name = row.name("label")
    if isinstance(label, str) and (winner := winner_of(label, row)) and not label.strip().isdigit():
        return judged(winner, row)
    if isinstance(label, bool):
        raise Ambiguous(f"`{name}` is {label}: {_two_readings(name)}")
    number = number_of(label, name)
    if number == 0:
        raise Ambiguous(f"`{name}` is 0: {_two_readings(name).rpartition(', or')[0]}")
    if number not in (1, 2):
        raise ValueError(f"`{name}` is {number:g}; it must be 1 (the first is preferred) or 2 (the second)")
    return judged("a" if number == 1 else "b", row)


def _two_readings(name: str) -> str:
    return (
        f"either 1 is the first and 0 the second (--columns first_wins={name}), or 0 is the first and 1 the second "
        f"(--columns better_index={name}), or 1 is the first and 2 the second (--columns label={name})"
    )


def _by_first_wins(value: Any, row: Plain) -> Statement | None:
    return _by_two(value, row, "first_wins", first=1)


def _by_index(value: Any, row: Plain) -> Statement | None:
    return _by_two(value, row, "better_index", first=0)


def _by_two(value: Any, row: Plain, role: str, first: int) -> Statement | None:
    if is_missing(value):
        return None
    name = row.name(role)
    number = float(value) if isinstance(value, bool) else number_of(value, name)
    if number not in (0, 1):
        meaning = ("0 (the second is preferred) or 1 (the first)", "0 (the first is preferred) or 1 (the second)")
        raise ValueError(f"`{name}` is {number:g}; it must be {meaning[first == 0]}")
    return judged("a" if number == first else "b", row)


def _toward(value: Any, row: Plain, role: str, sign: int) -> Statement | None:
    if is_missing(value):
        return None
    number = sign * number_of(value, row.name(role))
    return judged("tie" if abs(number) <= row.gap else "b" if number > 0 else "a", row)


def _by_p(value: Any, row: Plain) -> Statement | None:
    p = number_of(value, row.name("p"))
    if not 0 <= p <= 1:
        raise ValueError(f"p = {p} is outside [0, 1]")
    return Statement(p)


def _by_one_to_two(value: Any, row: Plain) -> Statement | None:
    """AlpacaEval's scale, where 1 is the first, 2 the second, and what lies between is how sure the judge was."""
    if is_missing(value):
        return None
    number = number_of(value, row.name("one_to_two"))
    if number != 0 and not 1 <= number <= 2:
        raise ValueError(f"`{row.name('one_to_two')}` is {number:g}; it must be from 1 (the first) to 2 (the second)")
    if number in (0, 1, 1.5, 2):
        return judged("a" if number == 1 else "b" if number == 2 else "tie", row)
    return Statement(2 - number)


def _by_votes(votes: Any, row: Plain) -> Statement | None:
    """Counted votes {a, b, tie, both_bad}: a tie is half a vote for each side."""
    if not isinstance(votes, dict) or not votes or not votes.keys() <= {"a", "b", "tie", "both_bad"}:
        raise ValueError(f"`votes` of a pair must be counts under `a`, `b` and `tie`, not {reprlib.repr(votes)}")
    counts = {key: number_of(count, f"votes.{key}") for key, count in votes.items() if count is not None}
    if any(count < 0 for count in counts.values()):
        raise ValueError(f"negative `votes`: {reprlib.repr(votes)}")
    total = sum(counts.values())
    if not total:
        raise Unusable(NO_VOTES)
    p = (counts.get("a", 0) + (counts.get("tie", 0) + counts.get("both_bad", 0)) / 2) / total
    if total > MOST_COUNTED or any(count != int(count) for count in counts.values()):
        return Statement(p, total)
    single = tuple(Annotation(0, 1, won) for won, count in counts.items() for _ in range(int(count)))
    return Statement(p, total, single)


def _by_scores(row: Plain) -> Statement | None:
    values = [row.fields.get(key) for key in ("score_a", "score_b")]
    if any(map(is_missing, values)):
        return None
    one, two = (exact_of(value, row.name(key)) for value, key in zip(values, ("score_a", "score_b"), strict=True))
    return judged("tie" if alike(one, two, row.gap) else "a" if one > two else "b", row)


READINGS: dict[str, Callable[[Any, Plain], Statement | None]] = {
    "votes": _by_votes,
    "p": _by_p,
    "label": _by_label,
    "winner": _by_winner,
    "first_wins": _by_first_wins,
    "better_index": _by_index,
    "toward_second": lambda value, row: _toward(value, row, "toward_second", 1),
    "toward_first": lambda value, row: _toward(value, row, "toward_first", -1),
    "one_to_two": _by_one_to_two,
}
