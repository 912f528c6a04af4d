"""A judge votes: responses that nobody compared yet become ballots with what it prefers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ..data import Ballot, Vote
from ..evidence import Judgement, read_judgements
from ..judges import Contest, Jury
from .judging import ask, open_named
from .meetings import Asked


def ask_for_votes(
    jury: Jury, ballots: Sequence[Ballot], path: Path, **settings: Any
) -> tuple[tuple[Ballot, ...], Counter[str]]:
    """The ballots with a vote of the first judge on every two responses, p its preference; and what has no verdict, by
    reason. Its answers are kept in `path` as they come, and are asked for once."""
    judge = open_named(jury.specs[0], jury, **settings)
    asked = [one for number, ballot in enumerate(ballots) for one in _contests(number, ballot)]
    ask(judge, asked, path)
    votes: dict[int, list[Vote]] = {number: [] for number in range(len(ballots))}
    missing = Counter[str]()
    for one in read_judgements(path) if asked else ():
        if one.preference is None:
            missing[f"pairs without a verdict: {one.why}"] += 1
        else:
            votes[one.prompt_id].append(Vote(one.sample, one.other, one.preference))
    return tuple(replace(ballots[number], votes=tuple(own)) for number, own in votes.items() if own), missing


def _contests(number: int, ballot: Ballot) -> list[Asked]:
    found = []
    for a, b in combinations(range(len(ballot.responses)), 2):
        texts, ended = ballot.responses, ballot.ended
        to = Judgement("", ballot.source, 0, number, a, ballot.source, 0, b, None, None)
        found.append((to, Contest(ballot.prompt, texts[a], texts[b], ended[a], ended[b])))
    return found
