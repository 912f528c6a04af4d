"""Who is asked about which pair next, as it follows from the log: the same after every restart.

A pair that everybody is asked about is open to a person until they answered it; any other one until somebody voted on
it. One that somebody has before their eyes is held for them for a while.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from threading import RLock

from .pairs import BOTH_BAD, TIE, Pair, is_shared, named
from .store import AGAIN, CHOSEN, SKIP, UNDO, VOTE, Said, Store

HELD = 15 * 60.0  # seconds for which a pair that was handed out is kept for its person
SHARE = 0.2  # of the pairs, asked of everybody
AT_RANDOM = 0.25  # of what else a person is asked, where pairs are chosen
EVERY, LATER = 25, 10  # votes between two pairs that a person is asked again, and between a pair and its repetition


class Queue:
    """Which pairs are open to whom, from what was said so far."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        share: float = SHARE,
        left_out: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pairs, self.places = pairs, {pair.id: place for place, pair in enumerate(pairs)}
        self._left_out = set(left_out)  # whose votes are not enough
        self._preferred: tuple[int, ...] = ()  # the pairs to be asked next, where they are chosen
        self._chosen: dict[str, set[int]] = defaultdict(set)  # for each person
        self._share = share
        self._shared = [is_shared(pair, share) for pair in pairs]
        self._answers: dict[str, dict[int, str]] = defaultdict(dict)  # of each person, the latest answer last
        self._votes: dict[int, set[str]] = defaultdict(set)  # on each pair, by whom
        self._again: dict[str, set[int]] = defaultdict(set)  # what each person was asked twice
        self._held: dict[int, tuple[str, float]] = {}
        self._start: dict[str, int] = {}  # nothing before it is open to the person
        self._clock = clock

    def add(self, said: Said) -> None:
        """Take in a row of the log. One on a pair that is no longer there says nothing."""
        place = self.places.get(said.pair)
        if place is None:
            return
        if said.kind in (AGAIN, CHOSEN):
            (self._again if said.kind == AGAIN else self._chosen)[said.person].add(place)
            return
        self._answers[said.person].pop(place, None)
        self._votes[place].discard(said.person)
        if said.kind == VOTE:
            self._votes[place].add(said.person)
        if said.kind == UNDO:
            self._start = {person: min(start, place) for person, start in self._start.items()}
        else:
            self._answers[said.person][place] = said.kind
            self._held.pop(place, None)

    def next(self, person: str, count: int, have: Collection[str] = ()) -> list[Pair]:
        """The next pairs for a person, who `has` some before their eyes already; they are held from now on."""
        known = {self.places[name] for name in have if name in self.places}
        found: list[int] = []
        while len(found) < count and (place := self._pick(person, {*known, *found})) is not None:
            found.append(place)
        now = self._clock()
        self._held |= {place: (person, now) for place in (*found, *known) if not self._shared[place]}
        return [self.pairs[place] for place in found]

    def due(self, person: str) -> Pair | None:
        """The pair that the person is to be asked again, on the other sides; mostly none.

        It stays the same under later votes.
        """
        votes = [place for place, kind in self._answers[person].items() if kind == VOTE]
        asked = self._again[person]
        if len(votes) < EVERY * (len(asked) + 1):
            return None
        early = (place for place in votes[: EVERY * (len(asked) + 1) - LATER] if place not in asked)
        return self.pairs[min(early, key=lambda place: named("again", self.pairs[place].id, person))]

    def prefer(self, names: Sequence[str]) -> None:
        """From now on most of what is asked are these pairs, the first one first; none: all of it is random."""
        self._preferred = tuple(self.places[name] for name in names)

    def unvoted(self, most: int) -> list[Pair]:
        """The first pairs that nobody voted on and not everybody is asked about."""
        own = (place for place, shared in enumerate(self._shared) if not shared)
        free = (place for place in own if self._votes.get(place, set()) <= self._left_out)
        return [self.pairs[place] for place in islice(free, most)]

    def was_chosen(self, person: str, pair: Pair) -> bool:
        """Whether the person is asked about the pair because it was preferred."""
        return self.places[pair.id] in self._chosen[person]

    def _pick(self, person: str, taken: Collection[int]) -> int | None:
        """A pair for the person, none of those that are taken."""
        again = self.due(person)
        if again and self.places[again.id] not in taken:
            return self.places[again.id]
        for place, chosen in self._wanted(person, len(self._answers[person]) + len(taken)):
            if place not in taken:
                if chosen:
                    self._chosen[person].add(place)
                return place
        return None

    def _wanted(self, person: str, turn: int) -> Iterator[tuple[int, bool]]:
        """What may be asked at a person's turn, the best first, and whether it was chosen.

        Where some pairs are preferred, chance says of each turn whether it is for a pair that everybody is asked about
        (as often as there are such), for a random other one, or for one of the preferred.
        """
        at = int(named("turn", person, turn), 16) / 16**16
        if self._preferred and at < self._share:
            yield from ((place, False) for place in self._open(person) if self._shared[place])
        elif self._preferred and at < self._share + (1 - self._share) * AT_RANDOM:
            yield from ((place, False) for place in self._open(person) if not self._shared[place])
        elif self._preferred:
            yield from ((place, True) for place in self._preferred if self._is_open(place, person))
        yield from ((place, False) for place in self._open(person))

    def _open(self, person: str) -> Iterator[int]:
        start = self._start.get(person, 0)
        while start < len(self.pairs) and self._closed(start, person):
            start += 1
        self._start[person] = start
        yield from (place for place in range(start, len(self.pairs)) if self._is_open(place, person))

    def _is_open(self, place: int, person: str) -> bool:
        now = self._clock()
        holder, since = self._held.get(place, (person, now))
        return not self._closed(place, person) and (holder == person or now - since > HELD)

    def _closed(self, place: int, person: str) -> bool:
        """Whether the person answered it, or somebody voted who was enough."""
        return place in self._answers[person] or (not self._shared[place] and not self._votes[place] <= self._left_out)

    def leave_out(self, people: Collection[str]) -> None:
        """From now on the votes of these people, and of nobody else, are not enough."""
        self._left_out = set(people)
        self._start.clear()

    def knows(self, person: str) -> bool:
        """Whether something that the person said stands."""
        return bool(self._answers.get(person))

    def last(self, person: str) -> Pair | None:
        """What the person answered last, as it stands."""
        place = next(reversed(self._answers[person]), None)
        return None if place is None else self.pairs[place]

    def unanswered(self) -> int:
        """How many pairs have no vote that counts and were skipped by nobody."""
        said = (own.items() for person, own in self._answers.items() if person not in self._left_out)
        skipped = {place for own in said for place, kind in own if kind == SKIP}
        return sum(
            self._votes.get(place, set()) <= self._left_out and place not in skipped for place in range(len(self.pairs))
        )

    def counts(self, person: str) -> dict[str, int]:
        """How many votes, those on pairs that were asked again too, and skips of this person stand.

        Nobody is told what others said.
        """
        kinds = list(self._answers[person].values())
        return {"votes": kinds.count(VOTE) + len(self._again[person]), "skips": kinds.count(SKIP)}


class Desk:
    """The store and the queue together: what happens when somebody asks for a pair, votes, or takes a vote back."""

    def __init__(self, store: Store, pairs: Sequence[Pair], share: float = SHARE) -> None:
        self.store, self.queue = store, Queue(pairs, share, store.left_out())
        self._lock = RLock()
        for said in (*store.standing(), *store.repeats(), *store.chosen()):
            self.queue.add(said)

    def pair(self, name: str) -> Pair | None:
        """The pair of that name."""
        place = self.queue.places.get(name)
        return None if place is None else self.queue.pairs[place]

    def offer(self, person: str, count: int, have: Collection[str]) -> list[Pair]:
        """The next pairs for a person; which of them were chosen is on the disk before anybody sees them."""
        with self._lock:
            pairs = self.queue.next(person, count, have)
            for pair in pairs:
                if self.queue.was_chosen(person, pair):
                    self.store.append(Said(f"chosen {pair.id}", person, pair.id, CHOSEN))
            return pairs

    def counts(self, person: str) -> dict[str, int]:
        """How much this person said."""
        with self._lock:
            return self.queue.counts(person)

    def unanswered(self) -> int:
        """How many pairs are still to be answered."""
        with self._lock:
            return self.queue.unanswered()

    def say(self, said: Said) -> Said:
        """Keep a vote or a skip; what is kept under its id. Raises ValueError for a pair or a winner that is none."""
        pair = self.pair(said.pair)
        if pair is None:
            raise ValueError("there is no such pair")
        if said.kind not in (VOTE, SKIP) or (said.kind == VOTE) != (said.winner in (*pair.names, TIE, BOTH_BAD)):
            raise ValueError("a vote names a response of its pair, tie or both_bad; a skip names none")
        with self._lock:
            again = said.kind == VOTE and self.queue.due(said.person) == pair
            left = pair.names[self.sides(pair, said.person)[0]]
            return self._keep(replace(said, left=left, kind=AGAIN if again else said.kind))

    def sides(self, pair: Pair, person: str) -> tuple[int, int]:
        """Which response the person sees on the left, and which on the right: the other way round when asked again."""
        with self._lock:
            left, right = pair.sides(person)
            return (right, left) if self.queue.due(person) == pair else (left, right)

    def undo(self, person: str, name: str) -> Pair | None:
        """Take back what the person said last, by an undo of that id; the pair that is open again, None if none is."""
        with self._lock:
            last = self.queue.last(person)
            kept = self._keep(Said(name, person, last.id if last else "", UNDO))
            return self.pair(kept.pair)

    def leave_out(self, person: str, out: bool, name: str) -> None:
        """Let a person's votes count for nothing, or count again, by a row of that id. Raises ValueError for nobody."""
        with self._lock:
            if not self.queue.knows(person):
                raise ValueError("nobody of that name voted here")
            self.store.leave_out(person, out, name)
            self.queue.leave_out(self.store.left_out())

    def _keep(self, said: Said) -> Said:
        with self._lock:
            kept, new = self.store.append(said)
            if new:
                self.queue.add(kept)
            return kept
