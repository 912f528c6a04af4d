"""Pairs that are chosen where a fit is least sure: most of what is asked and never all, told in every file, and no vote
waits for it."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from preftune.data import UNSURE, read_ballots
from preftune.people import Address, export_votes, open_labelling, read_labelling
from preftune.people import choosing as people_choosing
from preftune.people import folders as people_folders
from preftune.people.choosing import FEWEST, choosing
from preftune.people.desk import AT_RANDOM, SHARE, Desk, Queue
from preftune.people.labels import Labelling, Place
from preftune.people.pairs import TIE, Pair, is_shared
from preftune.people.store import CHOSEN, SKIP, VOTE, Said, Store

Votes = Sequence[tuple[Place, float]]


def make_labelling(folder: Path, count: int = 60) -> Labelling:
    path = folder / "in.jsonl"
    rows = [{"prompt": f"Ask {k}", "a": f"one {k}", "b": f"two {k}"} for k in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_labelling(path)


def last_first(votes: Votes, places: Sequence[Place], count: int) -> list[Place]:
    """In the place of a fit: the prompts from the last one on."""
    return sorted(places, reverse=True)[:count]


@contextmanager
def opened(labelling: Labelling, share: float = SHARE) -> Iterator[tuple[Path, Store, Desk]]:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "votes.sqlite") as store:
        yield Path(folder) / "votes.sqlite", store, Desk(store, labelling.pairs, share)


def vote(desk: Desk, person: str, count: int) -> list[Pair]:
    asked = []
    for _ in range(count):
        (pair,) = desk.offer(person, 1, ())
        desk.say(Said(f"{time.monotonic_ns()}", person, pair.id, VOTE, TIE))
        asked.append(pair)
    return asked


def until(true: Any) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < 20
        time.sleep(0.005)


def test_most_of_what_is_asked_is_preferred_and_the_rest_is_as_random_as_ever(tmp_path: Path) -> None:
    pairs = make_labelling(tmp_path, 900).pairs
    queue, own = Queue(pairs, SHARE), [pair for pair in pairs if not is_shared(pair, SHARE)]
    queue.prefer([pair.id for pair in own[::-1]])
    asked = []
    for k in range(400):
        (pair,) = queue.next("ann", 1)
        queue.add(Said(str(k), "ann", pair.id, SKIP))
        asked.append(pair)
    chosen = [pair for pair in asked if queue.was_chosen("ann", pair)]
    shared = [pair for pair in asked if is_shared(pair, SHARE)]
    others = [pair for pair in asked if pair not in chosen and pair not in shared]
    assert abs(len(shared) - 400 * SHARE) < 32 and abs(len(others) - 400 * (1 - SHARE) * AT_RANDOM) < 32
    assert chosen == own[::-1][: len(chosen)], "the first one first"
    everybodys = [pair for pair in pairs if is_shared(pair, SHARE)]
    assert shared == everybodys[: len(shared)] and others == own[: len(others)], (
        "in the order in which they always come"
    )


def test_without_a_preference_and_after_it_everything_is_random(tmp_path: Path) -> None:
    pairs = make_labelling(tmp_path).pairs
    queue = Queue(pairs, 0.0)
    assert queue.next("ann", 9) == list(pairs[:9]) and not any(queue.was_chosen("ann", pair) for pair in pairs)
    other = Queue(pairs, 0.0)
    other.prefer([pairs[50].id])
    found = other.next("ann", 60)
    assert sorted(pair.id for pair in found) == sorted(pair.id for pair in pairs), "nobody is left without a pair"
    assert [pair for pair in pairs if other.was_chosen("ann", pair)] == [pairs[50]]


def test_what_was_chosen_for_whom_is_known_after_a_restart(tmp_path: Path) -> None:
    labelling = make_labelling(tmp_path)
    with opened(labelling, 0.0) as (_, store, desk):
        desk.queue.prefer([pair.id for pair in labelling.pairs[::-1]])
        vote(desk, "ann", 20)
        rows = [said for said in store.log() if said.kind == CHOSEN]
        assert 10 <= len(rows) <= 20 and len(store.standing()) == 20
        voted = {said.pair: said.seq for said in store.standing()}
        assert all(said.seq < voted[said.pair] for said in rows), "it is kept before anybody sees the pair"
        again = Desk(store, labelling.pairs, 0.0)
        for person in ("ann", "bob"):
            told = [pair.id for pair in labelling.pairs if again.queue.was_chosen(person, pair)]
            assert sorted(told) == (sorted(said.pair for said in rows) if person == "ann" else [])


def test_choosing_follows_the_votes_and_never_asks_about_what_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people_choosing, "PAUSE", 0.01)
    labelling, seen = make_labelling(tmp_path), list[tuple[int, set[Place]]]()

    def choose(votes: Votes, places: Sequence[Place], count: int) -> list[Place]:
        seen.append((len(votes), set(places)))
        return last_first(votes, places, count)

    with opened(labelling, 0.0) as (path, _, desk), choosing(desk, path, labelling, choose):
        vote(desk, "ann", FEWEST - 1)
        time.sleep(0.05)
        assert not seen and not desk.queue._preferred, "too few to be fitted to"
        vote(desk, "ann", 1)
        until(lambda: desk.queue._preferred)
        voted = {labelling.places[pair.id] for pair in vote(desk, "ann", 8)}
        until(lambda: seen[-1][0] == FEWEST + 8)
    assert seen[0][0] == FEWEST and len(seen[0][1]) == 60 - FEWEST and not seen[-1][1] & voted


def test_no_vote_waits_for_a_fit_and_a_fit_that_fails_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(people_choosing, "PAUSE", 0.01)
    monkeypatch.setattr(people_choosing, "REST", 0.0)
    labelling, fitting, go_on = make_labelling(tmp_path), Event(), Event()

    def choose(votes: Votes, places: Sequence[Place], count: int) -> list[Place]:
        fitting.set()
        go_on.wait(20)
        raise ValueError("no such matrix")

    with opened(labelling, 0.0) as (path, _, desk), choosing(desk, path, labelling, choose):
        vote(desk, "ann", FEWEST)
        assert fitting.wait(20)
        vote(desk, "ann", 30)
        assert desk.counts("ann")["votes"] == FEWEST + 30 and not go_on.is_set()
        go_on.set()
        until(lambda: "no such matrix" in capsys.readouterr().err)
        vote(desk, "ann", 10)


def test_every_file_says_how_the_pair_of_a_vote_came_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelling = make_labelling(tmp_path)

    def serve(
        store: Any, pairs: Any, standing: Any, address: Any, *, share: float, name: str = "", beside: Any
    ) -> None:
        desk = Desk(store, pairs, share)
        with beside(desk):
            vote(desk, "ann", FEWEST)
            until(lambda: desk.queue._preferred)
            vote(desk, "ann", 25)

    monkeypatch.setattr(people_folders, "serve", serve)
    monkeypatch.setattr(people_choosing, "PAUSE", 0.01)
    out = tmp_path / "out"
    open_labelling(labelling, out, Address(), last_first, share=SHARE, name="")
    lines = [json.loads(line) for line in (out / "votes.jsonl").read_text().splitlines()]
    kinds = Counter(line["asked"] for line in lines)
    assert set(kinds) == {"random", UNSURE} and 10 <= kinds[UNSURE] <= 25
    ballots = read_ballots(out / "labelled.jsonl")
    assert sum(one.asked == UNSURE for ballot in ballots for one in ballot.annotations) == kinds[UNSURE]
    ((reason, count),) = [(why, n) for why, n in ballots.noted.items() if "least sure" in why]
    assert count == kinds[UNSURE] and "not that on random pairs" in reason
    before = (out / "labelled.jsonl").read_bytes()
    export_votes(out)
    assert (out / "labelled.jsonl").read_bytes() == before
