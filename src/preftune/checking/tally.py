"""One pass over the rows of a file: small accumulators, none of which grows with the file but the digests."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from ..data import Ballot, Message
from ..masking import HIDDEN, secrets_in
from .digests import Kept
from .facts import annotators, has_tie, models
from .rows import Seen
from .texts import EXAMPLES, Spot, Texts, excerpt, strings, turns

SAMPLE = 20_000  # ballots of which what costs more is asked
MOST_NAMES = 10_000  # annotators, models and fields that are told apart
MOST_FIELDS = 200
MOST_SAID = 400  # characters of a reason
BATCH = 64  # rows that one accumulator after the other goes over
WIDTHS = 48  # classes of lengths, two to a doubling


@dataclass
class Reading:
    """What became of the rows."""

    rows: int = 0
    ballots: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    spots: dict[str, list[Spot]] = field(default_factory=dict)
    prompts_alone: int = 0  # rows that hold a prompt and cannot be a ballot
    dropped: int = 0  # responses left out of ballots that stayed
    noted: Counter[str] = field(default_factory=Counter)  # what the reader says of ballots that it made
    unit: str = ""  # what stands between the file's name and the number of a row

    def add(self, seen: Seen) -> None:
        self.rows += 1
        self.unit = self.unit or (", row " if ", row " in seen.place else ":")
        if seen.ballot:
            self.ballots += 1
            self.dropped += seen.dropped
            if seen.noted:
                self.noted.update(seen.noted)
            return
        self.prompts_alone += seen.prompt is not None
        reason = excerpt(_discreet(seen), 0, MOST_SAID)
        of_kind = self.broken if seen.broken else self.skipped
        reason = reason if reason in of_kind or len(of_kind) < 50 else "other reasons"
        of_kind[reason] += 1
        spots = self.spots.setdefault(reason, [])
        if len(spots) < EXAMPLES:
            text = " · ".join(strings(seen.row)) or reason
            spots.append(Spot(seen.number, excerpt(text, 0, 2 * 40)))


def _discreet(seen: Seen) -> str:
    """The reason without values that are cut in it, if the row holds what looks like a secret: half of one is none."""
    if "..." in seen.reason and any(True for text in strings(seen.row) for _ in secrets_in(text)):
        return re.sub(r"""(['"])[^'"]*\.\.\.[^'"]*\1""", HIDDEN, seen.reason)
    return seen.reason


@dataclass
class Fields:
    """The fields of the rows: how many rows fill each one, with what, and the first of it."""

    filled: Counter[tuple[str, type]] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, seen: Seen) -> None:
        for name, value in seen.row.items():
            if value is None or value == "":
                continue
            if name not in self.first:
                if len(self.first) >= MOST_FIELDS:
                    continue
                self.first[name] = excerpt(_shown(value), 0, 80)
            self.filled[name, type(value)] += 1


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return str(text)[:4000]


@dataclass
class Votes:
    """Ballots and their votes: how many of each, what they say, who gave them."""

    responses: Counter[int] = field(default_factory=Counter)  # ballots by number of responses
    votes: int = 0
    weight: float = 0.0
    hard: int = 0  # votes that say 0 or 1
    ties: int = 0  # votes that say ½
    first_won: int = 0
    second_won: int = 0
    rows_with_tie: int = 0  # rows in which somebody voted for neither, usable or not
    by_layout: int = 0  # ballots whose fields say which response is the better one
    annotators: Counter[str] = field(default_factory=Counter)
    models: Counter[tuple[str, ...]] = field(default_factory=Counter)
    ended: int = 0  # responses that did not come to their own end

    @property
    def soft(self) -> int:
        """Votes that say a share other than ½."""
        return self.votes - self.hard - self.ties

    def add(self, seen: Seen) -> None:
        self.rows_with_tie += has_tie(seen.row, seen.ballot)
        if not seen.ballot:
            return
        ballot = seen.ballot
        self.responses[len(ballot.responses)] += 1
        self.by_layout += "chosen" in seen.row
        self.ended += ballot.ended.count(False)
        for vote in ballot.votes:
            self.votes += 1
            self.weight += vote.weight
            if vote.p == 0.5:
                self.ties += 1
                continue
            self.hard += vote.p in (0.0, 1.0)
            first = (vote.p > 0.5) == (vote.a < vote.b)
            self.first_won += first
            self.second_won += not first
        _count(self.annotators, annotators(seen.row, ballot))
        if wrote := models(seen.row):
            _count(self.models, [wrote])


def _count(counter: Counter[Any], names: list[Any]) -> None:
    """More names than can be told apart are counted together, under None."""
    for name in names:
        counter[name if name in counter or len(counter) < MOST_NAMES else None] += 1


ROLES = {
    "two_users": "two turns of the user in a row",
    "two_assistants": "two turns of the assistant in a row",
    "late_system": "a system turn after the beginning",
    "assistant_first": "a chat that the assistant begins",
    "not_asked": "a prompt that does not end with the user's turn",
    "empty_turn": "an empty turn",
}


@dataclass
class Prompts:
    """Prompts as text or chats, and turns in an order that templates refuse or that hints at a wrong split."""

    plain: int = 0
    chats: int = 0
    turns: Counter[int] = field(default_factory=Counter)
    systems: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    spots: dict[str, list[Spot]] = field(default_factory=dict)

    def add(self, seen: Seen) -> None:
        prompt = seen.prompt
        if prompt is None:
            return
        if isinstance(prompt, str):
            self.plain += 1
            return
        self.chats += 1
        self.turns[min(len(prompt), 100)] += 1
        self.systems += prompt[0].role == "system" if prompt else 0
        for problem in wrong_order(prompt):
            self.roles[problem] += 1
            spots = self.spots.setdefault(problem, [])
            if len(spots) < EXAMPLES:
                spots.append(Spot(seen.number, " → ".join(turn.role for turn in prompt[-8:])))


def wrong_order(prompt: tuple[Message, ...]) -> list[str]:
    """What is wrong with the order of the turns, as keys of `ROLES`."""
    roles = [turn.role for turn in prompt]
    spoken = [role for role in roles if role != "system"]
    pairs = set(pairwise(spoken))
    said = {
        "two_users": ("user", "user") in pairs,
        "two_assistants": ("assistant", "assistant") in pairs,
        "late_system": "system" in roles[1:],
        "assistant_first": spoken[:1] == ["assistant"],
        "not_asked": spoken[-1:] != ["user"],
        "empty_turn": not all(turn.content.strip() for turn in prompt if turn.role != "system"),
    }
    return [problem for problem, there in said.items() if there]


@dataclass
class Lengths:
    """Lengths in characters, in classes two to a doubling, and whether the longer response wins."""

    prompts: list[int] = field(default_factory=lambda: [0] * WIDTHS)
    preferred: list[int] = field(default_factory=lambda: [0] * WIDTHS)
    other: list[int] = field(default_factory=lambda: [0] * WIDTHS)
    longer_won: int = 0
    shorter_won: int = 0
    same_length: int = 0

    def add(self, seen: Seen) -> None:
        if seen.prompt is not None:
            self.prompts[class_of(sum(map(len, turns(seen.prompt))))] += 1
        if not seen.ballot:
            return
        sizes = [len(text) for text in seen.ballot.responses]
        for vote in seen.ballot.votes:
            if vote.p == 0.5:
                continue
            won, lost = (vote.a, vote.b) if vote.p > 0.5 else (vote.b, vote.a)
            self.preferred[class_of(sizes[won])] += 1
            self.other[class_of(sizes[lost])] += 1
            self.longer_won += sizes[won] > sizes[lost]
            self.shorter_won += sizes[won] < sizes[lost]
            self.same_length += sizes[won] == sizes[lost]


def width_class(size: int) -> int:
    """0 for nothing, then two classes to a doubling: 1, 2–2, 3–3, 4–5, 6–7, 8–11, …"""
    if size < 2:
        return size
    bits = size.bit_length()
    return min(2 * bits - 3 + (size >> (bits - 2) & 1) + 1, WIDTHS - 1)


CLASSES = tuple(map(width_class, range(4096)))


def class_of(size: int) -> int:
    """`width_class`, looked up for common sizes."""
    return CLASSES[size] if size < len(CLASSES) else width_class(size)


@dataclass
class Reservoir:
    """Some of the ballots, each with the same chance, whatever their number (Vitter's algorithm R)."""

    seed: int = 0
    most: int = SAMPLE
    met: int = 0
    ballots: list[tuple[int, Ballot]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(f"check/{self.seed}").random

    def add(self, seen: Seen) -> None:
        if not seen.ballot:
            return
        self.met += 1
        if len(self.ballots) < self.most:
            self.ballots.append((seen.number, seen.ballot))
        elif (place := int(self.random() * self.met)) < self.most:
            self.ballots[place] = (seen.number, seen.ballot)


@dataclass
class Tally:
    """All of it: every accumulator takes one row after the other."""

    seed: int = 0
    reading: Reading = field(default_factory=Reading)
    fields: Fields = field(default_factory=Fields)
    votes: Votes = field(default_factory=Votes)
    prompts: Prompts = field(default_factory=Prompts)
    lengths: Lengths = field(default_factory=Lengths)
    texts: Texts = field(default_factory=Texts)
    kept: Kept = field(default_factory=Kept)

    def __post_init__(self) -> None:
        self.sample = Reservoir(self.seed)

    def add(self, rows: Sequence[Seen]) -> None:
        """Each accumulator goes over a batch of rows on its own: its code stays in the processor's cache meanwhile."""
        parts = (self.reading, self.fields, self.votes, self.prompts, self.lengths, self.texts, self.kept, self.sample)
        for part in parts:
            add = part.add
            for seen in rows:
                add(seen)


def count_rows(rows: Iterable[Seen], *, seed: int = 0) -> Tally:
    """The one pass."""
    tally, rest = Tally(seed), iter(rows)
    while batch := list(islice(rest, BATCH)):
        tally.add(batch)
    return tally
