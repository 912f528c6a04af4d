"""The log and the queue: what stands is what each person said last, after every restart, and nobody is asked twice."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from preftune.errors import UserError
from preftune.people.desk import HELD, Desk, Queue
from preftune.people.pairs import BOTH_BAD, TIE, Pair, in_order, is_shared, named
from preftune.people.store import AGAIN, IN, OUT, SKIP, UNDO, VOTE, Said, Store
from preftune.stopping import only_writer

PEOPLE = ("ann", "bob", "cy")


def make_pairs(count: int = 12, a_prompt: int = 2) -> tuple[Pair, ...]:
    """So many pairs, some of each prompt, in the order in which they are asked."""
    texts = ((f"prompt {k // a_prompt}", f"first {k}", f"second {k}", k % a_prompt) for k in range(count))
    return in_order(Pair(named(prompt, a, b), prompt, (a, b), round=k) for prompt, a, b, k in texts)


@contextmanager
def opened(**how: Any) -> Iterator[tuple[Path, Store]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.sqlite"
        with Store(path, **how) as store:
            yield path, store


DOINGS = st.lists(
    st.tuples(st.sampled_from(PEOPLE), st.sampled_from(["1", "2", TIE, BOTH_BAD, SKIP, UNDO, "again"])), max_size=30
)


def act(desk: Desk, person: str, doing: str, number: int, sent: list[Said]) -> None:
    """What a page would do; "again" sends the last vote once more, as after a lost answer."""
    if doing == "again":
        for said in sent[-1:]:
            assert desk.say(said).winner == said.winner
        return
    if doing == UNDO:
        desk.undo(person, f"u{number}")
        return
    for pair in desk.offer(person, 1, ()):
        winner = {"1": pair.names[0], "2": pair.names[1], SKIP: ""}.get(doing, doing)
        sent.append(Said(f"v{number}", person, pair.id, SKIP if doing == SKIP else VOTE, winner, ms=5))
        desk.say(sent[-1])


@given(DOINGS)
@tried(30)
def test_what_stands_is_what_each_person_said_last(doings: list[tuple[str, str]]) -> None:
    with opened() as (_, store):
        desk, sent = Desk(store, make_pairs()), list[Said]()
        model: dict[tuple[str, str], str] = {}
        for number, (person, doing) in enumerate(doings):
            before, last = len(store.log()), desk.queue.last(person)
            act(desk, person, doing, number, sent)
            new = store.log()[before:]
            assert len(new) <= 1 and not (doing == "again" and new)
            for said in new:
                model.pop((said.pair, said.person), None)
                if said.kind != UNDO:
                    model[said.pair, said.person] = said.winner or SKIP
                elif last:
                    assert said.pair == last.id
        standing = store.standing()
        assert {(said.pair, said.person): said.winner or SKIP for said in standing} == model
        assert len(standing) == len(model), "at most one of a person on a pair"


@given(DOINGS)
@tried(20)
def test_the_queue_follows_from_the_log_and_from_what_stands_alike(doings: list[tuple[str, str]]) -> None:
    """So a restart changes nothing for anybody; only what people have before their eyes is forgotten."""
    with opened() as (path, store):
        desk, sent = Desk(store, make_pairs()), list[Said]()
        for number, (person, doing) in enumerate(doings):
            act(desk, person, doing, number, sent)
        with Store(path) as again:
            for person in PEOPLE:
                live, late, fresh = desk.queue, replayed(store.log()), replayed(again.standing())
                assert fresh.counts(person) == late.counts(person) == live.counts(person)
                assert fresh.last(person) == late.last(person) == live.last(person)
                assert fresh.next(person, 99) == late.next(person, 99)


def replayed(log: list[Said]) -> Queue:
    queue = Queue(make_pairs())
    for said in log:
        queue.add(said)
    return queue


@given(DOINGS)
@tried(20)
def test_a_pair_that_is_not_for_everybody_gets_one_vote(doings: list[tuple[str, str]]) -> None:
    """And one that is gets one of each person at most."""
    with opened() as (_, store):
        desk, sent = Desk(store, make_pairs()), list[Said]()
        for number, (person, doing) in enumerate(doings):
            act(desk, person, doing, number, sent)
        votes = Counter(said.pair for said in store.standing() if said.kind == VOTE)
        for pair in desk.queue.pairs:
            assert votes[pair.id] <= (len(PEOPLE) if is_shared(pair, 0.2) else 1)


def test_everybody_is_asked_everything_that_is_shared_and_the_rest_once() -> None:
    with opened() as (_, store):
        pairs = make_pairs(60)
        desk, going, number = Desk(store, pairs, 0.3), set(PEOPLE), 0
        while going:
            for person in sorted(going):
                number += 1
                found = desk.offer(person, 1, ())
                if not found:
                    going.discard(person)
                for pair in found:
                    desk.say(Said(str(number), person, pair.id, VOTE, pair.names[0]))
        votes = Counter(said.pair for said in store.standing())
        shared = {pair.id for pair in pairs if is_shared(pair, 0.3)}
        assert 8 < len(shared) < 30
        assert votes == {pair.id: len(PEOPLE) if pair.id in shared else 1 for pair in pairs}


def test_prompts_come_before_second_pairs_of_any_prompt_and_in_no_order_of_the_file() -> None:
    pairs = make_pairs(200)
    assert [pair.round for pair in pairs] == [0] * 100 + [1] * 100
    first, second = [pair.prompt for pair in pairs[:100]], [pair.prompt for pair in pairs[100:]]
    assert first == second and first != sorted(first) and len(set(first)) == 100
    assert pairs == in_order(reversed(pairs))


def test_sides_are_balanced_for_each_person_and_differ_between_people() -> None:
    pairs = make_pairs(2000)
    sides = {person: [pair.sides(person)[0] for pair in pairs] for person in PEOPLE}
    for person in PEOPLE:
        assert abs(sum(sides[person]) - 1000) < 100  # 4.5 standard errors
    same = sum(a == b for a, b in zip(sides["ann"], sides["bob"], strict=True))
    assert abs(same - 1000) < 100


def test_what_one_has_before_the_eyes_is_not_asked_of_another_for_a_while() -> None:
    now = [0.0]
    queue = Queue(make_pairs(), share=0.0, clock=lambda: now[0])
    (mine,) = queue.next("ann", 1)
    assert mine not in queue.next("bob", 99) and queue.next("ann", 1) == [mine]
    now[0] = HELD + 1
    assert queue.next("cy", 1) == [mine]


def test_an_undo_opens_the_pair_again_and_a_resent_undo_undoes_nothing_more() -> None:
    with opened() as (_, store):
        desk = Desk(store, make_pairs(), 0.0)
        for number in range(3):
            (pair,) = desk.offer("ann", 1, ())
            desk.say(Said(str(number), "ann", pair.id, VOTE, TIE))
        assert desk.undo("ann", "u") == pair and desk.undo("ann", "u") == pair
        assert desk.counts("ann") == {"votes": 2, "skips": 0} and desk.offer("ann", 1, ()) == [pair]
        assert [said.kind for said in store.log()] == [VOTE, VOTE, VOTE, UNDO]
        assert desk.undo("bob", "u") is None


def test_now_and_then_a_pair_is_asked_again_on_the_other_sides_and_that_is_no_evidence() -> None:
    with opened() as (_, store):
        desk, asked, sides = Desk(store, make_pairs(80), 0.0), Counter[str](), []
        for number in range(80):
            (pair,) = desk.offer("ann", 1, ())
            again = asked[pair.id] == 1
            asked[pair.id] += 1
            if again:
                sides.append((desk.sides(pair, "ann"), pair.sides("ann")[::-1]))
            kept = desk.say(Said(str(number), "ann", pair.id, VOTE, pair.names[0]))
            left = pair.sides("ann")[1 if again else 0]
            assert (kept.kind == AGAIN) == again and kept.left == pair.names[left]
        assert len(store.repeats()) == 3 and all(seen == wanted for seen, wanted in sides)
        assert len(store.standing()) == 77 and max(asked.values()) == 2
        assert desk.counts("ann") == {"votes": 80, "skips": 0}, "to the person, each is a vote"
        assert replayed_with_repeats(store) == desk.offer("ann", 99, ())


def test_a_second_tab_replaces_a_vote_and_is_no_repetition() -> None:
    with opened() as (_, store):
        desk, pair = Desk(store, make_pairs(), 0.0), make_pairs()[0]
        for name, winner in (("1", pair.names[0]), ("2", pair.names[1])):
            assert desk.say(Said(name, "ann", pair.id, VOTE, winner)).kind == VOTE
        (standing,) = store.standing()
        assert standing.winner == pair.names[1] and desk.counts("ann") == {"votes": 1, "skips": 0}


def replayed_with_repeats(store: Store) -> list[Pair]:
    return Desk(store, make_pairs(80), 0.0).offer("ann", 99, ())


def test_an_id_of_another_person_stands_in_nobodys_way() -> None:
    with opened() as (_, store):
        desk, pair = Desk(store, make_pairs(), 1.0), make_pairs()[0]
        for person in PEOPLE:
            desk.say(Said("the same", person, pair.id, VOTE, TIE))
        assert len(store.standing()) == len(PEOPLE)


@pytest.mark.parametrize("wrong", [{"winner": "left"}, {"winner": ""}, {"kind": SKIP}, {"kind": UNDO}, {"pair": "no"}])
def test_a_vote_is_for_a_response_of_its_pair_and_never_for_a_side(wrong: dict[str, str]) -> None:
    with opened() as (_, store):
        desk, pair = Desk(store, make_pairs()), make_pairs()[0]
        with pytest.raises(ValueError, match=r"no such pair|a vote names"):
            desk.say(replace(Said("1", "ann", pair.id, VOTE, pair.names[0]), **wrong))
        assert store.log() == []


def open_to(desk: Desk, person: str) -> list[Pair]:
    desk.queue._held.clear()
    return desk.offer(person, 99, ())


def test_votes_of_a_person_who_is_left_out_are_asked_of_others_again_until_they_count_again() -> None:
    with opened() as (_, store):
        (first, *_), desk = make_pairs(), Desk(store, make_pairs(), 0.0)
        desk.say(Said("1", "ann", first.id, VOTE, TIE))
        assert first not in desk.offer("bob", 99, ())
        for out, name in ((True, "x"), (False, "y"), (True, "x")):  # the last one is the first, sent again
            desk.leave_out("ann", out, name)
            for one in (desk, Desk(store, make_pairs(), 0.0)):
                assert (first in open_to(one, "bob")) == (store.left_out() == {"ann"}) == (len(store.log()) == 2)
                assert first not in open_to(one, "ann"), "whoever voted is not asked again"
        assert [said.kind for said in store.log()] == [VOTE, OUT, IN] and store.left_out() == frozenset()
        assert [said.id for said in store.standing()] == ["1"], "no row of a person is a vote on a pair"
        with pytest.raises(ValueError, match="nobody of that name"):
            desk.leave_out("bob", True, "c")


def test_a_removed_person_is_in_no_byte_of_the_file() -> None:
    with opened() as (path, store):
        for person in ("Zebedee Quux", "ann"):
            for pair in make_pairs():
                store.append(Said(pair.id, person, pair.id, VOTE, TIE))
        store.leave_out("Zebedee Quux")
        assert store.remove("Zebedee Quux") == 13 and len(store.log()) == 12
        assert b"ann" in path.read_bytes()
        assert all(b"Zebedee" not in file.read_bytes() for file in path.parent.iterdir())


def test_the_log_is_synced_and_private() -> None:
    with opened() as (path, store):
        assert store._file.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert path.stat().st_mode & 0o077 == 0


def test_a_backup_is_whole_while_the_file_is_open_and_replaces_nothing(tmp_path: Path) -> None:
    with opened() as (_, store):
        store.append(Said("1", "ann", "p", VOTE, TIE))
        store.backup(tmp_path / "copy")
        with Store(tmp_path / "copy") as copy:
            assert copy.log() == store.log()
        with pytest.raises(UserError, match="is there already"):
            store.backup(tmp_path / "copy")


def test_a_second_writer_and_a_file_of_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    with (
        only_writer(tmp_path / "out"),
        pytest.raises(UserError, match="another process"),
        only_writer(tmp_path / "out"),
    ):
        pass
    (tmp_path / "votes.sqlite").write_bytes(b"something else, and long enough to be looked at" * 40)
    with pytest.raises(UserError, match="no file of votes"):
        Store(tmp_path / "votes.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE log (x)")
    with pytest.raises(UserError, match="no file of votes"):
        Store(tmp_path / "other.sqlite", read_only=True)
