"""Preference data as records: a ballot is one prompt, its responses, and the votes over them."""

from __future__ import annotations

import random
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, overload

from ..errors import UserError

TOOLS = "tools"  # role of a first message that offers tools, as JSON
MOST_SINGLE = 10_000  # votes that are drawn one by one; of more, how many is drawn
MOST_KEPT = 1_000_000  # votes of a prompt that are chosen by chance
LIGHTEST, HEAVIEST = 1e-30, 1e30  # weights of a vote: within these float32 sums of losses neither vanish nor overflow


class Message(NamedTuple):
    """One turn of a chat; `role` is `system`, `user`, `assistant` or `tool`."""

    role: str
    content: str


class FullMessage(Message):
    """A turn with more than its text: `beside` is JSON of the rest, its tool calls and its reasoning."""

    def __new__(cls, role: str, content: str, beside: str) -> FullMessage:
        return tuple.__new__(cls, (role, content, beside))

    @property
    def beside(self) -> str:
        return str(tuple.__getitem__(self, 2))

    def __repr__(self) -> str:
        return f"FullMessage(role={self.role!r}, content={self.content!r}, beside={self.beside!r})"

    def _replace(self, **changes: Any) -> FullMessage:
        return FullMessage(**{"role": self.role, "content": self.content, "beside": self.beside, **changes})


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Vote:
    """How often response `a` was preferred to response `b`: `p = Pr(a ≻ b)`, counted `weight` times.

    A hard label has p = 1 or 0, a tie ½. Raises ValueError for p outside [0, 1], a weight outside [1e-30, 1e30], or a
    response compared with itself.
    """

    a: int
    b: int
    p: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"a vote compares response {self.a} with itself")
        if not 0 <= self.p <= 1:
            raise ValueError(f"p = {self.p} is outside [0, 1]")
        if not LIGHTEST <= self.weight <= HEAVIEST:
            raise ValueError(f"weight = {self.weight} is outside [{LIGHTEST:g}, {HEAVIEST:g}]")

    def swap(self) -> Vote:
        """The same vote told from the other side: (b, a, 1 − p)."""
        return Vote(self.b, self.a, 1 - self.p, self.weight)


WINNERS = ("a", "b", "tie", "both_bad")
UNSURE = "unsure"  # why a pair was asked about


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one person or judge, `by`, said of responses `a` and `b`: the `winner` is a, b, tie or both_bad.

    Votes are made of annotations; both_bad votes like a tie. `asked` is "unsure" where the pair was chosen because a
    fitted preference was least sure of it. Raises ValueError for another winner or `asked`, or for a response compared
    with itself.
    """

    a: int
    b: int
    winner: str
    by: str = ""
    asked: str = ""

    def __post_init__(self) -> None:
        if self.a == self.b:
            raise ValueError(f"an annotation compares response {self.a} with itself")
        if self.winner not in WINNERS:
            raise ValueError(f"the winner of an annotation is {self.winner!r}; it must be one of {', '.join(WINNERS)}")
        if self.asked not in ("", UNSURE):
            raise ValueError(f"`asked` of an annotation is {self.asked!r}; it must be {UNSURE}, or left out")

    @property
    def vote(self) -> Vote:
        """The vote of weight 1 that this is."""
        return Vote(self.a, self.b, {"a": 1.0, "b": 0.0}.get(self.winner, 0.5))


@dataclass(frozen=True, slots=True)
class Ballot:
    """One prompt, K ≥ 2 responses, and the votes over them: the unit of preference data.

    `prompt` is plain text or a chat. `ended[k]` says whether response k came to its own end (an end-of-text token
    is trained only then); left empty, all did. `annotations` are what the votes are made of, where that is known: they
    say who said what, and train nothing. `beside[k]` is JSON of what response k has beside its text (tool calls,
    reasoning); it is left empty where none has anything. Raises ValueError for fewer than two responses, a vote or
    annotation on a response that is not there, or an `ended` or `beside` of another length.
    """

    prompt: Prompt
    responses: tuple[str, ...]
    votes: tuple[Vote, ...]
    id: str = ""
    source: str = ""
    ended: tuple[bool, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.responses)
        if count < 2:
            raise ValueError(f"a ballot needs two responses or more, got {count}")
        said: Iterable[Vote | Annotation] = (*self.votes, *self.annotations)
        for one in said:
            for k in (one.a, one.b):
                if not 0 <= k < count:
                    what = "a vote" if isinstance(one, Vote) else "an annotation"
                    raise ValueError(f"{what} names response {k}, counted from 0; there are {count}")
        if not self.ended:
            object.__setattr__(self, "ended", (True,) * len(self.responses))
        if len(self.ended) != len(self.responses):
            raise ValueError(f"`ended` has {len(self.ended)} entries for {len(self.responses)} responses")
        if len(self.beside) not in (0, count):
            raise ValueError(f"`beside` has {len(self.beside)} entries for {count} responses")

    def swap(self) -> Ballot:
        """The same ballot with every vote told from the other side."""
        return replace(self, votes=tuple(vote.swap() for vote in self.votes))

    def pooled(self) -> Ballot:
        """The same ballot with one vote per compared pair (see `pool`)."""
        return replace(self, votes=pool(self.votes))


def pool(votes: Iterable[Vote]) -> tuple[Vote, ...]:
    """Merge the votes on each pair into one, oriented a < b: p is the weighted mean, weights add.

    DPO's loss on the pooled votes is exactly the sum over the single ones; IPO's differs by a constant.
    """
    totals: dict[tuple[int, int], tuple[float, float]] = {}
    for vote in votes:
        oriented = vote if vote.a < vote.b else vote.swap()
        mass, weight = totals.get((oriented.a, oriented.b), (0.0, 0.0))
        totals[oriented.a, oriented.b] = (mass + oriented.weight * oriented.p, weight + oriented.weight)
    if heavy := [weight for _, weight in totals.values() if weight > HEAVIEST]:
        raise UserError(f"votes on one pair weigh {heavy[0]:g} together, more than {HEAVIEST:g}; scale weights down")
    return tuple(Vote(a, b, min(mass / weight, 1.0), weight) for (a, b), (mass, weight) in totals.items())


def counted_votes(vote: Vote) -> tuple[tuple[Vote, int], ...]:
    """The votes of weight 1 that a counted one stands for, alike ones together with how many they are.

    They are n·p for a, n·(1 − p) for b, with at most one tie. Where that gives no whole numbers they are n votes alike;
    a weight that is no whole number is one vote.
    """
    n = round(vote.weight)
    if n != vote.weight:
        return ((vote, 1),)
    won, lost = int(vote.p * n + 1e-9), int((1 - vote.p) * n + 1e-9)
    tied = n - won - lost
    if tied not in (0, 1) or abs(won + tied / 2 - vote.p * n) > 1e-6:
        return ((replace(vote, weight=1.0), n),)
    counts = ((1.0, won), (0.0, lost), (0.5, tied))
    return tuple((Vote(vote.a, vote.b, p), count) for p, count in counts if count)


def flip_votes(votes: Iterable[Sequence[Vote]], rate: float, *, seed: int) -> tuple[tuple[tuple[Vote, ...], ...], int]:
    """(the votes of every ballot with label noise, how many were flipped).

    Each single vote is turned round (p → 1 − p) with probability `rate`, on its own; of more than `MOST_SINGLE` alike
    ones their number is drawn, by one draw. The draws depend on the seed and the place of a vote only: what is flipped
    at one rate is flipped at every higher one too.
    """
    rng = random.Random(f"flips/{seed}")
    flipped = 0

    def turned(one: Vote, count: int) -> tuple[float, int]:
        """The sum of p over so many votes, some of them turned round, and how many those are."""
        if count > MOST_SINGLE:
            turns = binomial(rng.random(), count, rate)
            return one.p * (count - turns) + one.swap().p * turns, turns
        each = [rng.random() < rate for _ in range(count)]
        return sum(one.swap().p if turn else one.p for turn in each), sum(each)

    def noisy(vote: Vote) -> Vote:
        nonlocal flipped
        groups = counted_votes(vote)
        sums, turns = zip(*(turned(one, count) for one, count in groups), strict=True)
        flipped += sum(turns)
        return replace(vote, p=min(sum(sums) / sum(count for _, count in groups), 1.0)) if any(turns) else vote

    return tuple(tuple(map(noisy, own)) for own in votes), flipped


def binomial(u: float, count: int, rate: float) -> int:
    """The quantile at u of how many of `count` come about, each with probability `rate`: it rises with the rate.

    Beyond 10¹², where that loops, of the normal distribution with the same mean and variance.
    """
    if count > 10**12:
        from scipy.special import ndtri

        drawn = rate * count + float(ndtri(u)) * (rate * (1 - rate) * count) ** 0.5 if 0 < u < 1 else 0.0
        return int(min(max(drawn, 0), count))
    from scipy.stats import binom

    return int(max(binom.ppf(u, count, rate), 0))


def limit_votes(ballots: Sequence[Ballot], most: int, *, seed: int) -> tuple[Ballot, ...]:
    """The ballots with at most `most` single votes for each prompt, chosen by chance; responses all stay.

    The choice depends on the seed and the prompt only. Raises ValueError unless `most` is positive, and UserError for
    more than `MOST_KEPT` where a prompt has more votes than it.
    """
    if most < 1:
        raise ValueError(f"most = {most} is not positive")
    places: dict[Prompt, list[tuple[int, int, Vote, int]]] = {}
    for i, ballot in enumerate(ballots):
        groups = [(i, j, one, count) for j, vote in enumerate(ballot.votes) for one, count in counted_votes(vote)]
        places.setdefault(ballot.prompt, []).extend(groups)
    kept: dict[tuple[int, int], list[Vote]] = {}
    for prompt, counted in places.items():
        total = sum(count for *_, count in counted)
        if most >= total > MOST_SINGLE:
            for i, j, one, count in counted:
                kept.setdefault((i, j), []).append(replace(one, weight=one.weight * count))
            continue
        ends = list(accumulate(count for *_, count in counted))
        for place in drawn_places(random.Random(f"votes/{seed}/{prompt!r}"), total, min(most, total)):
            i, j, one, _ = counted[bisect_right(ends, place)]
            kept.setdefault((i, j), []).append(one)

    def fewer(i: int, ballot: Ballot) -> Ballot:
        left = [kept[i, j] for j in range(len(ballot.votes)) if (i, j) in kept]
        return replace(ballot, votes=tuple(vote for own in left for vote in pool(own)))

    return tuple(fewer(i, ballot) for i, ballot in enumerate(ballots))


def drawn_places(rng: random.Random, total: int, most: int) -> list[int]:
    """So many of the numbers below `total`, each as likely, none twice."""
    if most > MOST_KEPT:
        raise UserError(f"--votes-per-prompt {most}: a prompt has {total:g} votes; choose {MOST_KEPT:,} at most")
    if total <= sys.maxsize:
        return rng.sample(range(total), most)
    chosen: dict[int, None] = {}
    while len(chosen) < most:
        chosen[rng.randrange(total)] = None
    return list(chosen)


@dataclass(frozen=True)
class BallotSet(Sequence[Ballot]):
    """Ballots in file order, and what became of the rows that are not among them.

    `rows` were read (where a layout spreads a ballot over several rows, those count as one); `skipped` counts the
    unusable ones by reason, so that rows = ballots + skipped; `dropped` counts single responses left out of ballots
    that stayed, and `noted` what was read in a way that a person should know. `bad` has place and reason of the rows
    that were skipped because they cannot be read. `source` and `sha256` name the content.
    """

    ballots: tuple[Ballot, ...]
    rows: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    sha256: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    noted: Mapping[str, int] = field(default_factory=dict)
    bad: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Ballot: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Ballot, ...]: ...
    def __getitem__(self, index: int | slice) -> Ballot | tuple[Ballot, ...]:
        return self.ballots[index]

    def __len__(self) -> int:
        return len(self.ballots)


def split_by_prompt(
    ballots: Sequence[Ballot], fraction: float, *, seed: int
) -> tuple[tuple[Ballot, ...], tuple[Ballot, ...]]:
    """(training, held-out) ballots: about `fraction` of the distinct prompts, with all their ballots, held out.

    No prompt stands on both sides. The choice depends on the prompts and the seed only, not on their order. With a
    fraction above 0 each side gets at least one prompt; a single one stays in training. Raises ValueError for a
    fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction = {fraction} is outside [0, 1]")
    prompts = sorted({ballot.prompt for ballot in ballots}, key=repr)
    random.Random(seed).shuffle(prompts)
    count = min(max(round(fraction * len(prompts)), 1), len(prompts) - 1) if fraction > 0 and prompts else 0
    held_out = set(prompts[:count])
    train = tuple(ballot for ballot in ballots if ballot.prompt not in held_out)
    return train, tuple(ballot for ballot in ballots if ballot.prompt in held_out)


Said = TypeVar("Said", Vote, Annotation)


def renumbered(ballot: Ballot, places: Sequence[int | None]) -> Ballot:
    """Response k moves to places[k] (numbered as they first appear) or, at None, goes; of several the first stays.

    Votes and annotations follow; one on a response that goes, or on two that share a place, goes.
    """
    first: dict[int, int] = {}
    for k, place in enumerate(places):
        if place is not None:
            first.setdefault(place, k)

    def moved(said: Iterable[Said]) -> Iterator[Said]:
        for one in said:
            a, b = places[one.a], places[one.b]
            if a is not None and b is not None and a != b:
                yield replace(one, a=a, b=b)

    votes, annotations = tuple(moved(ballot.votes)), tuple(moved(ballot.annotations))
    responses = tuple(ballot.responses[k] for k in first.values())
    ended = tuple(ballot.ended[k] for k in first.values())
    beside = tuple(ballot.beside[k] for k in first.values()) if ballot.beside else ()
    return replace(ballot, responses=responses, ended=ended, votes=votes, annotations=annotations, beside=beside)
