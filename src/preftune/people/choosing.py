"""Which pair comes next where votes train: some at random, most where the preference v, fitted to the votes so far, is
least sure. v is fitted in a thread of its own, which nobody who votes waits for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from ..console import say
from .desk import Desk
from .exports import counted, win_of
from .labels import Labelling, Place
from .store import Store

FEWEST = 10  # votes before the first fit
MOST_VOTES, MOST_PAIRS = 2000, 2000  # of which a fit reads, and chooses among, so many
AHEAD = 200  # pairs that are chosen at a time
PAUSE, REST = 1.0, 3.0  # seconds between two looks at the votes; times as long as a fit took, before the next

Choose = Callable[[Sequence[tuple[Place, float]], Sequence[Place], int], Sequence[Place]]


@contextmanager
def choosing(desk: Desk, path: Path, labelling: Labelling, choose: Choose) -> Iterator[None]:
    """Within it, what the desk asks next follows the votes in the file."""
    done = Event()
    thread = Thread(target=_follow, args=(desk, path, labelling, choose, done), name="choosing")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(desk: Desk, path: Path, labelling: Labelling, choose: Choose, done: Event) -> None:
    """Choose anew whenever there are new votes, until it is done; the file is read through a line of its own."""
    before: object = None
    rest = 0.0
    with Store(path, read_only=True) as store:
        while not done.wait(max(PAUSE, rest)):
            votes = _votes(store, labelling)
            if len(votes) < FEWEST or votes == before:
                continue
            start, before = time.monotonic(), votes
            try:
                desk.queue.prefer(_chosen(desk, labelling, choose, votes))
            except Exception as error:  # no fit is worth a vote: whoever is here is asked at random
                desk.queue.prefer(())
                say(f"pairs come at random until more votes are here: v was not fitted ({error})")
            rest = REST * (time.monotonic() - start)


def _votes(store: Store, labelling: Labelling) -> list[tuple[Place, float]]:
    pairs = labelling.by_name
    return [(labelling.places[one.pair], win_of(one, pairs[one.pair])) for one in counted(store, pairs)]


def _chosen(desk: Desk, labelling: Labelling, choose: Choose, votes: Sequence[tuple[Place, float]]) -> list[str]:
    """The names of the pairs to be asked about next, from at most so many votes, among at most so many pairs."""
    if len(votes) > MOST_VOTES:
        votes = random.Random(len(votes)).sample(votes, MOST_VOTES)
    names = {labelling.places[pair.id]: pair.id for pair in desk.queue.unvoted(MOST_PAIRS)}
    return [names[place] for place in choose(votes, list(names), AHEAD)]
