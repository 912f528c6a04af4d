"""What a judge is asked, and what it answers: two responses to a prompt, a preference in both orders or no verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from ..data import Prompt


@dataclass(frozen=True)
class Contest:
    """Two responses to one prompt, all of it untrusted text.

    `ended_a`, `ended_b`: whether a response ended by itself, and was not cut off at the most tokens that it may have.
    """

    prompt: Prompt
    a: str
    b: str
    ended_a: bool = True
    ended_b: bool = True

    def swap(self) -> Contest:
        """The same with the responses in the other order."""
        return Contest(self.prompt, self.b, self.a, self.ended_b, self.ended_a)


@dataclass(frozen=True)
class Opinion:
    """What a judge thinks of a contest: Pr(a ≻ b), asked twice; or no verdict.

    `first` was asked with a in the first place, `second` with b in the first place (told of a all the same). Where one
    of them is None there is no verdict, and `why` says in a few words why: a reason that many contests may share. What
    has no verdict is no tie.
    """

    first: float | None
    second: float | None
    why: str = ""

    @property
    def preference(self) -> float | None:
        """F = (first + second) / 2; None where there is no verdict."""
        return None if self.first is None or self.second is None else (self.first + self.second) / 2

    def swap(self) -> Opinion:
        """The same opinion told of the contest's other order."""
        flip = [None if p is None else 1 - p for p in (self.second, self.first)]
        return replace(self, first=flip[0], second=flip[1])


@runtime_checkable
class PairJudge(Protocol):
    """Who compares two responses to a prompt.

    `name` is what the study calls it, such as `reward` or `model:DIR`; `description` says in a sentence who it is.
    `identity` is what its opinions depend on (hashes of weights, its template, its parameters): `study.json` has it.
    """

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        """An opinion of every contest, in their order, each asked in both orders."""
        ...


@dataclass(frozen=True)
class Caller:
    """A Python function as a judge: `prefer_a(prompt, a, b)` is Pr(a ≻ b) in [0, 1], or None for no verdict.

    It is called in both orders; the prompt is a text, or a tuple of messages.
    """

    name: str
    description: str
    prefer_a: Callable[[Prompt, str, str], float | None]

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"function": self.name}

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        """An opinion of every contest, by two calls of the function. What is no number in [0, 1] is no verdict."""
        return [self._opinion(contest) for contest in contests]

    def _opinion(self, contest: Contest) -> Opinion:
        first = self.prefer_a(contest.prompt, contest.a, contest.b)
        second = self.prefer_a(contest.prompt, contest.b, contest.a)
        if first is None or second is None:
            return Opinion(None, None, "it gave no verdict")
        if not (0 <= first <= 1 and 0 <= second <= 1):
            return Opinion(None, None, "it gave no number between 0 and 1")
        return Opinion(float(first), 1 - float(second))


def sigmoid(difference: float) -> float:
    """σ in steps of 2⁻⁵³, so that σ(−d) = 1 − σ(d) to the last bit: an opinion swapped twice is the same."""
    less = math.exp(-abs(difference)) / (1 + math.exp(-abs(difference)))
    more = 1 - less
    return more if difference >= 0 else 1 - more
