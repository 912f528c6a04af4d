"""The sample in the tokens of a model: how long it is, what --max-length cuts, which texts hold special tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ..data import Ballot, TextFormat, TokenBallot, tokenize
from .texts import turns

QUANTILES = (0.5, 0.9, 0.99, 1.0)
NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens at `QUANTILES`: of prompts, of responses, of prompt and longest response; what is cut or
    skipped at `max_length`, by reason; ballots in whose texts the model's special tokens are written out.
    """

    model: str
    ballots: int
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    whole: tuple[int, ...]
    max_length: int
    too_long: int
    cut: Mapping[str, int]
    skipped: Mapping[str, int]
    specials: Mapping[str, int]


def count_tokens(ballots: Sequence[Ballot], form: TextFormat, *, model: str, max_length: int) -> Tokens:
    """The lengths of these ballots in a model's tokens."""
    whole = tokenize(ballots, form, max_length=NO_LIMIT)
    sizes = [len(ballot.prompt) + max(map(len, ballot.responses)) for ballot in whole.ballots]
    fitted = tokenize(_longer(ballots, form, max_length), form, max_length=max_length)
    return Tokens(
        model=model,
        ballots=len(ballots),
        prompt=_quantiles([len(ballot.prompt) for ballot in whole.ballots]),
        response=_quantiles(list(chain.from_iterable(map(_lengths, whole.ballots)))),
        whole=_quantiles(sizes),
        max_length=max_length,
        too_long=sum(size > max_length for size in sizes),
        cut=dict(whole.shortened) | _new(fitted.shortened, whole.shortened),
        skipped=dict(whole.skipped) | _new(fitted.skipped, whole.skipped),
        specials=special_texts(ballots, form),
    )


def _lengths(ballot: TokenBallot) -> list[int]:
    return [len(ids) for ids in ballot.responses]


def _longer(ballots: Sequence[Ballot], form: TextFormat, max_length: int) -> list[Ballot]:
    """The ballots that may be longer: a token has one byte or more, and a template adds some of its own."""
    return [
        ballot
        for ballot in ballots
        if len("".join(turns(ballot.prompt)).encode("utf-8", "replace"))
        + max(len(text.encode("utf-8", "replace")) for text in ballot.responses)
        + 64 * (2 + len(turns(ballot.prompt)))
        > max_length
    ]


def _new(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What is counted only where there is a limit."""
    return {reason: count for reason, count in after.items() if reason not in before}


def _quantiles(sizes: Sequence[int]) -> tuple[int, ...]:
    if not sizes:
        return (0,) * len(QUANTILES)
    return tuple(int(size) for size in np.quantile(sizes, QUANTILES, method="higher"))


def special_texts(ballots: Sequence[Ballot], form: TextFormat) -> dict[str, int]:
    """Ballots in which a special token of the tokenizer is written out as text, by token, the most frequent first."""
    names = sorted(form.controls.ids)
    found: Counter[str] = Counter()
    for ballot in ballots:
        whole = "\n".join((*turns(ballot.prompt), *ballot.responses))
        found.update(name for name in names if len(name) > 1 and name in whole)
    return dict(found.most_common())
