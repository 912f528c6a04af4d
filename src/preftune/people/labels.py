"""Ballots to label: their pairs, and what people said of them as votes that a method can learn from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from ..data import Annotation, Ballot, Outcome, stream_ballots, unvoted_ballot
from ..errors import UserError
from .exports import winner_of
from .pairs import Pair, in_order, named
from .store import Said

FIRST = 20  # rows that tell whether a file has responses
Place = tuple[int, int, int]  # a ballot, and two of its responses


@dataclass(frozen=True)
class Labelling:
    """Ballots, their pairs in the order in which they are asked, and where each pair is from; what was skipped."""

    ballots: tuple[Ballot, ...]
    pairs: tuple[Pair, ...]
    places: Mapping[str, Place]
    skipped: Mapping[str, int]

    @cached_property
    def by_name(self) -> Mapping[str, Pair]:
        """The pairs by their names."""
        return {pair.id: pair for pair in self.pairs}


def has_responses(source: str | Path, **reading: Any) -> bool:
    """Whether a file has responses beside its prompts, as its first rows tell."""
    if re.search(r"\.txt(\.gz)?$", str(source), re.IGNORECASE):
        return False
    reading.pop("skip_bad", False)
    return any(_ballot(outcome) for outcome in islice(stream_ballots(source, **reading), FIRST))


def read_labelling(source: str | Path, **reading: Any) -> Labelling:
    """What is to be labelled: ballots with votes, which play no part, or without any.

    Raises UserError, with the line, for a row that cannot be read (unless `skip_bad`), and where nothing is left.
    """
    skip_bad = reading.pop("skip_bad", False)
    ballots, skipped = [], Counter[str]()
    for outcome in stream_ballots(source, **reading):
        ballot = _ballot(outcome)
        if ballot is None and outcome.bad and not skip_bad:
            raise UserError(
                f"{outcome.place}: {outcome.reason}; to be labelled it needs a prompt and `responses` (a list), or `a` "
                "and `b`; --model draws responses to prompts alone; --skip-bad leaves such rows out"
            )
        if ballot is None:
            skipped[outcome.reason] += 1
        else:
            ballots.append(replace(ballot, votes=(), annotations=()))
    return labelling_of(ballots, str(source), skipped)


def _ballot(outcome: Outcome) -> Ballot | None:
    return outcome.ballot or unvoted_ballot(outcome.row or {}, outcome.place.rsplit(":", 1)[-1])


def labelling_of(ballots: Sequence[Ballot], where: str, skipped: Mapping[str, int] | None = None) -> Labelling:
    """The pairs of some ballots: every two responses that differ. Raises UserError if there is none."""
    places: dict[str, Place] = {}
    pairs, counts = [], Counter(skipped or {})
    for number, ballot in enumerate(ballots):
        own = []
        for a, b in combinations(range(len(ballot.responses)), 2):
            texts = ballot.responses[a], ballot.responses[b]
            name = named("pair", ballot.prompt, texts)
            reason = _useless(texts) or ("a pair that is there already" if name in places else "")
            if reason:
                counts[reason] += 1
                continue
            places[name] = number, a, b
            own.append(Pair(name, ballot.prompt, texts))
        pairs += [replace(pair, round=k) for k, pair in enumerate(sorted(own, key=lambda pair: pair.id))]
    if not pairs:
        told = ", ".join(f"{count} × {reason}" for reason, count in counts.items())
        raise UserError(f"{where}: holds no two responses to compare ({told or 'no rows'})")
    return Labelling(tuple(ballots), in_order(pairs), places, counts)


def _useless(texts: tuple[str, str]) -> str:
    if not all(text.strip() for text in texts):
        return "an empty response"
    return "identical responses" if texts[0] == texts[1] else ""


def labelled(
    labelling: Labelling, votes: Iterable[Said], names: Mapping[str, str], asked: Mapping[tuple[str, str], str]
) -> tuple[Ballot, ...]:
    """The ballots that people voted on, with one vote a pair: p is the share of its votes, a tie one half."""
    pairs = labelling.by_name
    said = defaultdict[int, list[Annotation]](list)
    for vote in votes:
        number, a, b = labelling.places[vote.pair]
        why = asked.get((vote.person, vote.pair), "")
        said[number].append(Annotation(a, b, winner_of(vote, pairs[vote.pair]), names[vote.person], why))
    found = ((labelling.ballots[number], tuple(said[number])) for number in sorted(said))
    return tuple(replace(one, votes=tuple(each.vote for each in of), annotations=of).pooled() for one, of in found)
