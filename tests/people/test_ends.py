"""A page that ends by itself: once every pair is answered, and not while the last answer may be taken back."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from preftune.data import Ballot
from preftune.people import Address, labelling_of, open_labelling, progress_of
from preftune.people import serving as people_serving
from preftune.people.desk import Desk
from preftune.people.pairs import TIE, Pair
from preftune.people.store import SKIP, VOTE, Said, Store

PAIRS = [Pair(f"p{k}", f"Ask {k}", (f"one {k}", f"two {k}")) for k in range(3)]


def test_a_pair_is_answered_by_a_vote_that_counts_or_by_a_skip_and_open_again_after_an_undo(tmp_path: Path) -> None:
    with Store(tmp_path / "votes.sqlite") as store:
        desk = Desk(store, PAIRS)
        assert desk.unanswered() == 3
        desk.say(Said("1", "ann", "p0", VOTE, TIE))
        desk.say(Said("2", "ann", "p1", SKIP))
        desk.say(Said("3", "bob", "p2", VOTE, TIE))
        assert desk.unanswered() == 0
        desk.undo("bob", "4")
        assert desk.unanswered() == 1
        desk.say(Said("5", "bob", "p2", SKIP))
        store.leave_out("ann")
        assert Desk(store, PAIRS).unanswered() == 2, "who was left out has answered nothing"


def test_before_anybody_was_asked_nothing_is_known(tmp_path: Path) -> None:
    assert progress_of(tmp_path) is None


def listens(port: int) -> bool:
    with closing(socket.socket()) as here:
        return here.connect_ex(("127.0.0.1", port)) == 0


def test_a_page_ends_a_while_after_the_last_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a real socket: while a pair is open, or was opened again, it stays."""
    monkeypatch.setattr(people_serving, "LOOKED", 0.02)
    monkeypatch.setattr(people_serving, "LINGERS", 0.3)
    tokens, closed = [], threading.Event()
    fact = Store.fact

    def overheard(store: Store, name: str, make: Any) -> str:
        found = fact(store, name, make)
        tokens.extend([found] * (name == "token vote"))
        return found

    monkeypatch.setattr(Store, "fact", overheard)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def post(path: str, **asked: Any) -> Any:
        head = {"authorization": f"Bearer {tokens[-1]}", "content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", json.dumps(asked).encode(), head)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    def ann() -> None:
        while not listens(port):
            closed.wait(0.01)
        for number in ("1", "2", "3"):
            (pair, *_) = post("next", by="ann")["pairs"]
            post("vote", id=number, by="ann", pair=pair["pair"], kind="vote", winner="tie")
        post("undo", id="4", by="ann")
        assert not closed.wait(0.6), "a pair is open again"
        (pair,) = post("next", by="ann")["pairs"]
        post("vote", id="5", by="ann", pair=pair["pair"], kind="skip")

    ballots = labelling_of([Ballot(pair.prompt, pair.texts, ()) for pair in PAIRS], "here")

    def votes_or_stops() -> None:
        try:
            ann()
        except BaseException:
            os.kill(os.getpid(), signal.SIGINT)  # or the page would be open for ever
            raise

    thread = threading.Thread(target=votes_or_stops)
    thread.start()
    votes, _ = open_labelling(ballots, tmp_path / "o", Address(port=port), share=0.0, ends=True)
    closed.set()
    thread.join()
    assert votes == 2 and progress_of(tmp_path / "o") == (2, 0)
