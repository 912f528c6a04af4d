"""Votes of people as files for others: a line a vote, under pseudonyms."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from ..data import UNSURE
from .pairs import BOTH_BAD, TIE, Pair
from .store import VOTE, Said, Store


def pseudonyms(store: Store, people: Iterable[str]) -> dict[str, str]:
    """A name for each person that only this file of votes could tell; the same one at every export."""
    key = store.fact("pseudonyms", lambda: secrets.token_hex(16)).encode()
    return {name: f"person-{hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:8]}" for name in people}


def counted(store: Store, pairs: Mapping[str, Pair]) -> list[Said]:
    """The votes that stand and count: on pairs that are there, of people who were not left out; first come, first."""
    out = store.left_out()
    return [one for one in store.standing() if one.kind == VOTE and one.person not in out and one.pair in pairs]


def winner_of(said: Said, pair: Pair) -> str:
    """a, b, tie or both_bad: `a` is the first response of the pair, wherever it stood."""
    if said.winner in (TIE, BOTH_BAD):
        return said.winner
    return "ab"[pair.names.index(said.winner)]


def win_of(said: Said, pair: Pair) -> float:
    """1 where the first response of the pair won, 0 where the second did, else ½."""
    return {"a": 1.0, "b": 0.0}.get(winner_of(said, pair), 0.5)


def why_asked(store: Store) -> dict[tuple[str, str], str]:
    """Of a person and a pair, why they were asked about it: "unsure" where a fit was; every other pair is random."""
    return {(one.person, one.pair): UNSURE for one in store.chosen()}


def vote_lines(
    votes: Iterable[Said], pairs: Mapping[str, Pair], names: Mapping[str, str], asked: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """A line for each vote: on what and why, who, when, what stood on the left, and how long it took."""
    lines = []
    for said in votes:
        pair = pairs[said.pair]
        left = "ab"[pair.names.index(said.left)]
        what = {"pair": said.pair, "prompt": pair.group, "asked": asked.get((said.person, said.pair), "random")}
        winner = {"winner": winner_of(said, pair), "response": said.winner, "left": left, "ms": said.ms}
        lines.append({**what, **winner, "by": names[said.person], "at": said.at})
    return lines
