"""How far simple rules predict the votes, on the sample: lengths, words, and what a response shows at a glance.

Human votes on two samples of one model are hard to predict by such rules. Where a rule does, a model will learn the
rule; and where it predicts nearly all, the two sides of a pair were most likely not written by the same model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..data import Ballot, TokenBallot, Vote, fit_rules, split_by_prompt
from ..evidence import Estimate, clustered_mean

HELD_OUT = 0.2
NEAR = 0.9  # share of pairs of words that two responses have in common
FITTED = 5_000  # ballots to which rules are fitted, the held-out ones among them
FEWEST = 50  # decided votes below which no rule is fitted


def opens(words: str) -> Callable[[str], bool]:
    pattern = re.compile(rf"\s*(?:{words})\b", re.IGNORECASE)
    return lambda text: bool(pattern.match(text))


def holds(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: bool(compiled.search(text))


WHITE_SPACE = ("white space at the beginning", "white space at the end")
TELLS: Mapping[str, Callable[[str], bool]] = {
    WHITE_SPACE[0]: lambda text: text[:1].isspace(),
    WHITE_SPACE[1]: lambda text: text[-1:].isspace(),
    "no mark at the end": lambda text: text.rstrip()[-1:].isalnum(),
    "a beginning in lower case": lambda text: text.lstrip()[:1].islower(),
    "a line break": lambda text: "\n" in text.strip(),
    "a list": holds(r"(?m)^\s*(?:[-*•]|\d+[.)])\s"),
    "Markdown headings or bold": holds(r"(?m)^#{1,6}\s|\*\*\S"),
    "a code block": lambda text: "```" in text,
    "agreement as the opening": opens("sure|certainly|of course|absolutely|great question|yes"),
    "a refusal as the opening": opens(
        "i'm sorry|i’m sorry|sorry|i cannot|i can't|i can’t|i am unable|i'm unable|i apologi[sz]e"
    ),
    "talk of being an AI": holds(r"(?i)\bas an ai\b|\bai (?:language )?model\b"),
    "a question at the end": lambda text: text.rstrip().endswith("?"),
}


@dataclass(frozen=True)
class Tell:
    """Something that a response shows: its share among preferred and other responses, in how many pairs one of the two
    shows it, and what a rule that always prefers it agrees with.
    """

    name: str
    preferred: float
    other: float
    mixed: float
    agrees: Estimate


@dataclass(frozen=True)
class Rules:
    """What rules make of the decided votes of the sample; a fitted one is asked held-out prompts."""

    ballots: int
    fitted_ballots: int
    decided: int
    tells: tuple[Tell, ...]
    fitted: Mapping[str, Estimate]  # `length` and `tfidf`: agreement on held-out votes
    sides: Estimate | None  # how often words tell the first response from the second; None where one side is the better
    held_out: int
    same_words: int
    near: int
    beginnings: int  # one response is the beginning of the other
    pairs: int


def ask_rules(ballots: Sequence[Ballot], *, seed: int, winner_first: bool) -> Rules:
    """What rules make of the votes of these ballots."""
    decided = [(ballot, vote) for ballot in ballots for vote in ballot.votes if vote.p != 0.5]
    some = random.Random(seed).sample(ballots, FITTED) if len(ballots) > FITTED else ballots
    parts = split_by_prompt(some, HELD_OUT, seed=seed)
    enough = len(decided) >= FEWEST and all(any(vote.p != 0.5 for b in part for vote in b.votes) for part in parts)
    fitted = _fit(*parts) if enough else {}
    sides = _fit(*(tuple(map(_by_place, part)) for part in parts)) if enough and not winner_first else {}
    same, near, beginnings = likenesses(ballots)
    return Rules(
        ballots=len(ballots),
        fitted_ballots=len(some),
        decided=len(decided),
        tells=_tells(decided) if len(decided) >= FEWEST else (),
        fitted=fitted,
        sides=sides.get("tfidf"),
        held_out=sum(vote.p != 0.5 for ballot in parts[1] for vote in ballot.votes) if enough else 0,
        same_words=same,
        near=near,
        beginnings=beginnings,
        pairs=sum(len(ballot.votes) for ballot in ballots),
    )


def _by_place(ballot: Ballot) -> Ballot:
    """The ballot as if its first response had won everywhere."""
    return replace(ballot, votes=tuple(Vote(min(v.a, v.b), max(v.a, v.b), 1.0) for v in ballot.votes))


def _fit(training: Sequence[Ballot], held_out: Sequence[Ballot]) -> dict[str, Estimate]:
    parts = [[_decided(ballot) for ballot in part] for part in (training, held_out)]
    train, held = (_numbered(part) for part in parts)
    texts = [[text for ballot in part for text in ballot.responses] for part in parts]
    found = fit_rules(train, held, [list(map(len, part)) for part in texts], texts)
    return {name: _estimate(quality["accuracy"]) for name, quality in found.items()}


def _decided(ballot: Ballot) -> Ballot:
    return replace(ballot, votes=tuple(vote for vote in ballot.votes if vote.p != 0.5))


def _numbered(ballots: Sequence[Ballot]) -> list[TokenBallot]:
    """Ballots whose prompts are numbers: all that a rule needs of them is whose votes they are."""
    numbers: dict[Any, int] = {}
    return [
        TokenBallot((numbers.setdefault(ballot.prompt, len(numbers)),), ((),) * len(ballot.responses), ballot.votes)
        for ballot in ballots
    ]


def _estimate(found: Mapping[str, float | None]) -> Estimate:
    return Estimate(found["value"] or 0.0, found["se"])


def _tells(decided: Sequence[tuple[Ballot, Vote]]) -> tuple[Tell, ...]:
    """Every tell, those first that say most."""
    prompts = [ballot.prompt for ballot, _ in decided]
    won = [ballot.responses[vote.a if vote.p > 0.5 else vote.b] for ballot, vote in decided]
    lost = [ballot.responses[vote.b if vote.p > 0.5 else vote.a] for ballot, vote in decided]
    tells = []
    for name, shows in TELLS.items():
        preferred, other = list(map(shows, won)), list(map(shows, lost))
        agrees = clustered_mean([(1 + a - b) / 2 for a, b in zip(preferred, other, strict=True)], prompts)
        mixed = sum(a != b for a, b in zip(preferred, other, strict=True)) / len(won)
        tells.append(Tell(name, sum(preferred) / len(won), sum(other) / len(lost), mixed, agrees))
    return tuple(sorted(tells, key=lambda tell: -abs(tell.agrees.value - 0.5)))


def likenesses(ballots: Sequence[Ballot]) -> tuple[int, int, int]:
    """How many compared pairs have the same words, have nearly the same, have one that begins the other."""
    same = near = beginnings = 0
    for ballot in ballots:
        for vote in ballot.votes:
            first, second = sorted((ballot.responses[vote.a], ballot.responses[vote.b]), key=len)
            beginnings += second.startswith(first.rstrip())
            if 2 * len(first) < len(second):  # too different in length to be near
                continue
            words = [re.findall(r"\w+", text.casefold()) for text in (first, second)]
            same += words[0] == words[1]
            near += words[0] != words[1] and _overlap(*words) >= NEAR
    return same, near, beginnings


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Jaccard's index of the pairs of successive words."""
    a, b = set(pairwise(first)), set(pairwise(second))
    return len(a & b) / len(a | b) if a | b else 0.0
