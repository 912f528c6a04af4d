"""Rows that make a ballot together: rated answers to one prompt, and replies that name the message they answer.

Rows wait in a private SQLite file, which stays in memory while it is small and is gone with its connection.
"""

from __future__ import annotations

import json
import reprlib
import sqlite3
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from .chats import NOT_ASSISTANT, ROLES
from .fields import Plain, Row, Unusable
from .forms import Read, ballot_of

SINGLE = "a single response, with no other one to the same prompt to compare it with"
ALL_ALIKE = "responses to one prompt that are all good, or all bad"
NO_RANK = "a reply without a ranked one beside it"
Found = tuple[str, Read | Exception]  # where, and what became of it


class Waiting:
    """Rows that wait for those of the same group, each with its place and its number in the file."""

    def __init__(self) -> None:
        self.base = sqlite3.connect("")
        self.base.execute(
            "CREATE TABLE rows (n INTEGER PRIMARY KEY, kind TEXT, key TEXT, own TEXT, place TEXT, row TEXT)"
        )

    def close(self) -> None:
        """Forget all rows."""
        self.base.close()

    def add(self, kind: str, row: Plain, place: str, number: str) -> None:
        """Keep a row: of one prompt (kind "prompt") or of one parent ("tree")."""
        fields = dict(row.fields)
        own = ""
        if kind == "tree":
            key, own = str(fields.get("parent") or ""), str(fields["id"])
        else:
            names = BESIDE_PROMPT if fields.get("prompt") is not None else PROMPT_FIELDS
            key = json.dumps([fields.get(name) for name in names], sort_keys=True, default=str)
        kept = json.dumps({"fields": fields, "number": number, "gap": row.gap}, default=str)
        self.base.execute(
            "INSERT INTO rows (kind, key, own, place, row) VALUES (?, ?, ?, ?, ?)", (kind, key, own, place, kept)
        )

    def ballots(self) -> Iterator[Found]:
        """What became of each group, in the order of their first rows."""
        self.base.execute("CREATE INDEX by_key ON rows (kind, key, n)")
        self.base.execute("CREATE INDEX by_own ON rows (kind, own)")
        groups = "SELECT kind, key, min(n), place FROM rows GROUP BY kind, key ORDER BY min(n)"
        for kind, key, _, place in self.base.execute(groups):
            if kind == "tree" and not key:
                continue
            try:
                found: Read | Exception = self._tree(key) if kind == "tree" else self._prompt(key)
            except (Unusable, ValueError, RecursionError) as reason:
                found = reason
            yield place, found

    def _rows(self, kind: str, key: str) -> list[dict[str, Any]]:
        query = "SELECT row FROM rows WHERE kind = ? AND key = ? ORDER BY n"
        return [json.loads(row) for (row,) in self.base.execute(query, (kind, key))]

    def _prompt(self, key: str) -> Read:
        rows = self._rows("prompt", key)
        return rated([row["fields"] for row in rows], rows[0]["number"], rows[0]["gap"])

    def _tree(self, parent: str) -> Read:
        replies = [row["fields"] for row in self._rows("tree", parent)]
        return replied(self._chain(parent), replies, parent)

    def _chain(self, name: str) -> list[Row]:
        """The messages that lead to one, the first one first."""
        chain: list[Row] = []
        seen: set[str] = set()
        while name and name not in seen:
            seen.add(name)
            found = self.base.execute("SELECT row FROM rows WHERE kind = 'tree' AND own = ?", (name,)).fetchone()
            if found is None:
                raise Unusable("a reply to a message that is not in the file")
            message = json.loads(found[0])["fields"]
            chain.insert(0, message)
            name = str(message.get("parent") or "")
        return chain


BESIDE_PROMPT = ("prompt", "history", "system", "system_prompt")
PROMPT_FIELDS = (
    *("prompt", "conversations", "conversation", "question", "instruction", "context", "messages", "contents", "input"),
    *("query", "trajectory", "user_prompt", "user_input", "problem", "post", "history", "system", "system_prompt"),
)


def rated(rows: Sequence[Row], number: str, gap: float) -> Read:
    """The ballot of single responses to one prompt, by score, by rank, or by whether they are good."""
    if len(rows) < 2:
        raise Unusable(SINGLE)
    fields = {key: value for key, value in rows[0].items() if key not in ("response", "score", "rank", "desirable")}
    fields["responses"] = [row.get("response") for row in rows]
    if any(row.get("desirable") is not None for row in rows):
        good = [row["score"] for row in rows]
        if len(set(good)) < 2:
            raise Unusable(ALL_ALIKE)
        pairs = [(a, b) for a, won in enumerate(good) for b, lost in enumerate(good) if won > lost]
        fields["votes"] = [{"a": a, "b": b, "p": 1} for a, b in pairs]
    elif any(row.get("rank") is not None for row in rows):
        fields["ranks"] = [row.get("rank") for row in rows]
    else:
        fields["scores"] = [row.get("score") for row in rows]
    return ballot_of(Plain(fields, gap=gap), number)


def replied(chain: Sequence[Row], replies: Sequence[Row], number: str) -> Read:
    """The ballot of the ranked replies to the last message of a chain."""
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if len(ranked) < 2:
        raise Unusable(NO_RANK)
    for reply in ranked:
        if ROLES.get(str(reply.get("role")).lower()) != "assistant":
            raise Unusable(NOT_ASSISTANT.format(role=ROLES.get(str(reply.get("role")).lower(), reply.get("role"))))
    prompt = [{"role": message.get("role"), "content": message.get("text")} for message in chain]
    fields = {
        "prompt": prompt,
        "responses": [reply.get("text") for reply in ranked],
        "ranks": [reply["rank"] for reply in ranked],
    }
    found = ballot_of(Plain(fields), number)
    unranked = Counter({NO_RANK: len(replies) - len(ranked)})
    return found._replace(left_out=+(found.left_out + unranked))


def nested(tree: Row) -> Iterator[Read | Exception]:
    """What became of every message with replies in a tree that holds them."""
    chains = deque([[tree]])
    while chains:
        chain = chains.popleft()
        replies = chain[-1].get("replies")
        if not replies:
            continue
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            yield ValueError(f"`replies` is {reprlib.repr(replies)}, not a list of messages")
            continue
        chains.extend([*chain, reply] for reply in replies)
        try:
            yield replied(chain, replies, str(chain[-1].get("message_id") or ""))
        except (Unusable, ValueError) as reason:
            yield reason
