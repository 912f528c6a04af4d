"""What a row says beside its ballot: how its votes were counted, who gave them, which models wrote, which split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..data import Annotation, Ballot, Vote
from .rows import Row

ANNOTATORS = ("annotator", "annotator_id", "annotators", "judge", "judge_id", "worker", "worker_id", "labeler", "rater")
MODELS = (
    ("chosen_model", "rejected_model"),
    ("chosen-model", "rejected-model"),
    ("model_a", "model_b"),
    ("model_1", "model_2"),
    ("response_a_model", "response_b_model"),
)
ENTRIES = ("models", "responses", "replies", "completions", "answers", "generations")
NAMING = frozenset(ANNOTATORS)
MODELS_NAMED = frozenset((*ENTRIES, *(key for pair in MODELS for key in pair)))
TIES = ("tie", "both_bad")


class Counted(NamedTuple):
    """Single votes on one pair of responses."""

    a: int = 0
    b: int = 0
    tie: int = 0

    @property
    def total(self) -> int:
        return self.a + self.b + self.tie


NONE = Counted()
SINGLE = {1.0: Counted(a=1), 0.0: Counted(b=1), 0.5: Counted(tie=1)}


def counted_votes(row: Row, ballot: Ballot) -> list[Counted]:
    """How many single votes each vote of a ballot stands for; none where the row does not say."""
    if ballot.annotations:
        return _annotated(ballot.annotations, ballot.votes)
    stated = row.get("votes")
    if isinstance(stated, dict) and len(ballot.votes) == 1 and len(ballot.responses) == 2:
        return [_stated(stated)]
    return [_single(vote) for vote in ballot.votes]


def has_tie(row: Row, ballot: Ballot | None) -> bool:
    """Whether somebody voted for neither, also in a row that cannot be used."""
    if ballot and any(one.winner in TIES for one in ballot.annotations):
        return True
    stated = row.get("votes")
    if isinstance(stated, dict):
        return _whole(stated.get("tie")) > 0
    return any(vote.p == 0.5 for vote in ballot.votes) if ballot else False


def _stated(votes: Mapping[str, Any]) -> Counted:
    return Counted(*(_whole(votes.get(key)) for key in ("a", "b", "tie")))


def _whole(value: object) -> int:
    try:
        number = float(value) if isinstance(value, int | float | str) else 0.0
    except ValueError:
        return 0
    return int(number) if 0 < number < 65536 and number.is_integer() else 0


def _annotated(annotations: Sequence[Annotation], votes: Sequence[Vote]) -> list[Counted]:
    """Annotations are of pairs that may be told from either side."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for one in annotations:
        side = 2 if one.winner in TIES else int(one.winner == "b")
        counts[one.a, one.b, side] += 1
        counts[one.b, one.a, side if side == 2 else 1 - side] += 1
    return [Counted(*(counts[vote.a, vote.b, side] for side in range(3))) for vote in votes]


def _single(vote: Vote) -> Counted:
    """A share of ½ that counts twice may be two ties or one vote for each: only what is certain is counted."""
    if vote.weight == 1.0:
        return SINGLE.get(vote.p, NONE)
    if not float(vote.weight).is_integer() or vote.weight > 65535:
        return NONE
    if vote.p in (0.0, 1.0):
        return Counted(a=int(vote.p * vote.weight), b=int((1 - vote.p) * vote.weight))
    return NONE


def annotators(row: Row, ballot: Ballot) -> list[str]:
    """Who voted, as far as the row names them."""
    if ballot.annotations:
        return [one.by for one in ballot.annotations if one.by]
    for key in ANNOTATORS if not NAMING.isdisjoint(row) else ():
        value = row.get(key)
        if isinstance(value, str | int):
            return [str(value)]
        if isinstance(value, list) and value and all(isinstance(name, str | int) for name in value):
            return list(map(str, value))
    return []


def models(row: Row) -> tuple[str, ...]:
    """The models that wrote the responses, as far as the row names them."""
    if MODELS_NAMED.isdisjoint(row):
        return ()
    for first, second in MODELS:
        if isinstance(row.get(first), str) and isinstance(row.get(second), str):
            return row[first], row[second]
    if isinstance(row.get("models"), str):
        names = tuple(name for name in re.split(r"_|,|\||;|\s+vs\.?\s+", row["models"]) if name.strip())
        return names if len(names) == 2 else ()
    for key in ENTRIES:
        entries = row.get(key)
        if isinstance(entries, list) and entries:
            found = [entry.get("model") if isinstance(entry, dict) else entry for entry in entries]
            named = tuple(name for name in found if isinstance(name, str) and name)
            if len(named) == len(entries) and (key == "models" or isinstance(entries[0], dict)):
                return named
    return ()
