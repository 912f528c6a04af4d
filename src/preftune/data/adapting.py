"""What a map of columns cannot say of a layout: each changes the fields of a row, which stand under our names already.

It gets the row as it is in the file too, and which of its columns is what. It may return what our names are in the
file, for messages.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from .fields import Ambiguous, Row, Unusable, is_missing, structure_of
from .layout import PASSED, VERDICTS
from .numbered import as_group, flattened, responses_in
from .verdicts import NO_VOTES

Fields = dict[str, Any]
Columns = Mapping[str, str]
RATINGS = ("rating", "reward", "grade", "overall_score", "quality")
ALIASES = (
    "preferred",
    "preference",
    "preferred_response",
    "better_response",
    "verdict",
    "choice",
    "judgment",
    "better",
)


def one_hot(fields: Fields, row: Row, columns: Columns) -> None:
    """The one of the three columns that is 1 has the winner's name."""
    won = [
        word
        for word, key in (("a", "winner_model_a"), ("b", "winner_model_b"), ("tie", "winner_tie"))
        if str(row.get(key)).strip().lower() in ("1", "1.0", "true")
    ]
    if len(won) != 1:
        raise ValueError(
            f"one of `winner_model_a`, `winner_model_b` and `winner_tie` must be 1, not {len(won)} of them"
        )
    fields["winner"] = won[0]


def to_turn(fields: Fields, row: Row, columns: Columns) -> None:
    """`turn` counts the turns of the user that were judged: what comes after them is cut off."""
    turn = row.get("turn")
    if not isinstance(turn, int) or isinstance(turn, bool) or turn < 1:
        return
    for side in ("a", "b"):
        chat = fields[side]
        if isinstance(chat, list):
            fields[side] = _first_turns(chat, turn)


def _first_turns(chat: list[object], turn: int) -> list[object]:
    users = [k for k, one in enumerate(chat) if isinstance(one, dict) and one.get("role") == "user"]
    return chat[: users[turn]] if len(users) > turn else chat


def status(fields: Fields, row: Row, columns: Columns) -> None:
    if str(row.get("status")).lower() == "tie":
        fields["p"] = 0.5


def any_word(fields: Fields, row: Row, columns: Columns) -> Mapping[str, str] | None:
    """Where a pair has no statement under our own names, one under a name that others use.

    Three numbered responses or more are a group, and so are those that people answered a question about.
    """
    stated = any(row.get(key) is not None for key in VERDICTS)
    if as_group(fields, row, responses_in(tuple(row)), stated=stated) or stated:
        return None
    for key in (*ALIASES, *(() if "rejected" in row else ("chosen",))):
        if row.get(key) is not None:
            fields["winner"] = row[key]
            return {"winner": key}
    return None


def exported(fields: Fields, row: Row, columns: Columns) -> None:
    """A record of an annotation tool: the texts under `fields`, and what people said of them under `responses`."""
    texts = row["fields"]
    if not isinstance(texts, dict):
        raise ValueError(f"`fields` is {reprlib.repr(texts)}, not an object with the texts of a record")
    flat = flattened(texts, row.get("responses"), row.get("suggestions"))
    names = responses_in(tuple(texts))
    fields.pop("responses", None)
    fields.update({key: value for key, value in texts.items() if key in PASSED})
    if not as_group(fields, flat, names):
        raise Unusable(NO_VOTES if names else "a record without two responses to compare")


def in_order(fields: Fields, row: Row, columns: Columns) -> None:
    """Outputs stand in the order of preference."""
    outputs = fields["responses"]
    if not isinstance(outputs, list):
        raise ValueError("no preference: one `output` to an instruction, and nothing to compare it with")
    fields["ranks"] = list(range(1, len(outputs) + 1))


def last_reply(fields: Fields, row: Row, columns: Columns) -> None:
    """The chosen response is the last turn of the chat."""
    chat = fields["messages"]
    if not isinstance(chat, list) or not chat:
        raise ValueError("`messages` must be a chat that ends with the chosen response")
    fields["prompt"], fields["chosen"] = chat[:-1], [chat[-1]]


def steps(fields: Fields, row: Row, columns: Columns) -> None:
    raise Unusable("ratings of single steps, not of whole responses")


def individual(fields: Fields, row: Row, columns: Columns) -> None:
    """HelpSteer has each annotator's own score beside the one that counts."""
    stated = row.get("individual_preference") or row.get("all_preferences_unprocessed")
    stated = structure_of(stated)[0] if isinstance(stated, str) else stated
    if not isinstance(stated, list) or fields.get("annotations") is not None:
        return
    scores = [one.get("score", one.get("strength")) for one in stated if isinstance(one, dict)]
    said = [
        {"a": 0, "b": 1, "winner": "b" if score > 0 else "a" if score < 0 else "tie", "by": str(number)}
        for number, score in enumerate(scores, 1)
        if isinstance(score, int | float) and not is_missing(score)
    ]
    fields["annotations"] = said or None


def binary(fields: Fields, row: Row, columns: Columns) -> None:
    value = fields["desirable"]
    word = str(value).strip().lower()
    if word not in ("true", "false", "1", "0", "1.0", "0.0"):
        raise ValueError(f"whether a response is good is {value!r}; it must be true or false")
    fields["score"] = float(word in ("true", "1", "1.0"))


def chat_then_binary(fields: Fields, row: Row, columns: Columns) -> None:
    chat = row.get("messages") or row.get("conversations")
    if not isinstance(chat, list) or not chat:
        raise ValueError("a rated chat must be a list of messages that ends with the response")
    fields.pop("messages", None), fields.pop("conversations", None)
    fields["prompt"], fields["response"] = chat[:-1], [chat[-1]]
    binary(fields, row, columns)


def one_rating(fields: Fields, row: Row, columns: Columns) -> None:
    """Of several ratings of a row none is better known than the others."""
    rated = [key for key in ("score", *RATINGS) if row.get(key) is not None]
    if row.get("helpfulness") is None and len(rated) > 1:
        raise Ambiguous(f"which rates the response: {' or '.join(rated)}? Say so: --columns score={rated[0]}")
