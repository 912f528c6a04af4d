"""Pairs that people are asked about: named by their content, in an order that is fixed before anybody votes.

Prompts come in a random order, a pair of each before the second pair of any: whoever stops early has voted on a random
part of the prompts. Who is asked plays no part in the order, only in which response stands on which side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..data import Prompt

TIE, BOTH_BAD = "tie", "both_bad"  # winners beside the name of a response


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt; `question` is what a vote on it is about, and the `round` says how soon it is asked.

    Names of responses are digests of their content: votes are on these, and never on a side.
    """

    id: str
    prompt: Prompt
    texts: tuple[str, str]
    question: str = ""
    round: int = 0

    @cached_property
    def group(self) -> str:
        """The name of the prompt."""
        return named("prompt", self.prompt)

    @cached_property
    def names(self) -> tuple[str, str]:
        """The names of both responses."""
        first, second = self.texts
        return named("response", self.prompt, first), named("response", self.prompt, second)

    def sides(self, person: str) -> tuple[int, int]:
        """Which response this person sees on the left, and which on the right: as often the one as the other."""
        return (1, 0) if int(named("side", self.id, person), 16) % 2 else (0, 1)


def named(*parts: object) -> str:
    """16 hexadecimal digits that stand for some content."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def in_order(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """The pairs as they are asked; of those with one name, the first alone."""
    distinct = {pair.id: pair for pair in reversed(tuple(pairs))}.values()
    return tuple(sorted(distinct, key=lambda pair: (pair.round, named("order", pair.group), pair.group, pair.id)))


def is_shared(pair: Pair, share: float) -> bool:
    """Whether everybody is asked about the pair: a random `share` of all are, so that people can be compared."""
    return int(named("shared", pair.id), 16) < share * 16**16
