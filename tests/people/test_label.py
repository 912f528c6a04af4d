"""From ballots to votes and back: what is labelled can be trained on, under pseudonyms, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.data import Annotation, Ballot, Message, Vote, read_ballots, write_ballots
from preftune.errors import UserError
from preftune.people import (
    Address,
    back_up,
    export_votes,
    figures_of,
    leave_out_person,
    open_labelling,
    read_labelling,
    remove_person,
)
from preftune.people import folders as people_folders
from preftune.people.desk import Desk
from preftune.people.pairs import BOTH_BAD, TIE
from preftune.people.store import SKIP, VOTE, Said
from preftune.stopping import only_writer

CHAT = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Sort a list"))


def ballots_file(path: Path) -> Path:
    rows = [
        {"prompt": "One", "responses": ["a", "b"], "ended": [False, True], "id": "first"},
        {"prompt": [turn._asdict() for turn in CHAT], "responses": ["x", "y", "z"], "votes": []},
        {"prompt": "Voted", "chosen": "good", "rejected": "bad"},
        {"prompt": "Two columns", "a": "left", "b": "right"},
        {"prompt": "Alike", "responses": ["same", "same"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def people_vote(monkeypatch: pytest.MonkeyPatch, says: dict[str, Any]) -> None:
    """In the place of a server: each person says the same of every pair that they are asked about."""

    def serve(store: Any, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        desk = Desk(store, pairs, share)
        for person, winner in says.items():
            for pair in desk.offer(person, 99, ()):
                chosen = pair.names[winner] if isinstance(winner, int) else winner
                desk.say(Said(pair.id, person, pair.id, VOTE if chosen else SKIP, chosen, ms=2000))
        assert standing()["pairs"] == len(pairs)

    monkeypatch.setattr(people_folders, "serve", serve)


def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: dict[str, Any], share: float = 1.0) -> Path:
    people_vote(monkeypatch, says)
    found = read_labelling(ballots_file(tmp_path / "in.jsonl"), skip_bad=True)
    open_labelling(found, tmp_path / "out", Address(), share=share, name="")
    return tmp_path / "out"


def test_what_can_be_labelled_is_read_with_or_without_votes(tmp_path: Path) -> None:
    found = read_labelling(ballots_file(tmp_path / "in.jsonl"), skip_bad=True)
    assert [ballot.prompt for ballot in found.ballots] == ["One", CHAT, "Voted", "Two columns"]
    assert all(ballot.votes == () for ballot in found.ballots)
    assert found.ballots[0].ended == (False, True) and found.ballots[0].id == "first"
    assert len(found.pairs) == 1 + 3 + 1 + 1 and sum(found.skipped.values()) == 1
    assert [pair.round for pair in found.pairs] == [0, 0, 0, 0, 1, 2]


def test_a_row_that_cannot_be_labelled_is_named_with_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "x", "responses": ["a", "b"]}\n{"question": "y"}\n')
    with pytest.raises(UserError, match=r"in\.jsonl:2: .*to be labelled it needs a prompt and `responses`"):
        read_labelling(path)
    assert len(read_labelling(path, skip_bad=True).pairs) == 1
    path.write_text('{"prompt": "x", "responses": ["a", "a"]}\n')
    with pytest.raises(UserError, match="no two responses to compare"):
        read_labelling(path, skip_bad=True)


def test_votes_come_out_as_ballots_with_soft_p_and_say_who_said_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = labelled(tmp_path, monkeypatch, {"ann": 0, "bob": 1, "cy": 0, "dee": TIE, "eve": BOTH_BAD, "flo": ""})
    found = {ballot.prompt: ballot for ballot in read_ballots(out / "labelled.jsonl")}
    one = found["One"]
    assert one.votes == (Vote(0, 1, (1 + 0 + 1 + 0.5 + 0.5) / 5, 5.0),)
    assert [said.winner for said in one.annotations] == ["a", "b", "a", "tie", "both_bad"]
    assert one.ended == (False, True) and one.id == "first" and len(found[CHAT].votes) == 3
    lines = [json.loads(line) for line in (out / "votes.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * 6 and all(line["ms"] == 2000 and line["at"].endswith("+00:00") for line in lines)
    assert {line["by"] for line in lines} == {said.by for said in one.annotations}
    assert all((line["response"] in ("tie", "both_bad")) == (line["winner"] in ("tie", "both_bad")) for line in lines)
    for name in ("labelled.jsonl", "votes.jsonl"):
        text = (out / name).read_text()
        assert not any(f'"{person}"' in text for person in ("ann", "bob", "cy", "dee", "eve"))


def test_pseudonyms_stay_and_a_person_can_be_left_out_counted_in_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = labelled(tmp_path, monkeypatch, {"ann": 0, "bob": 1})
    whole = (out / "votes.jsonl").read_text()
    leave_out_person(out, "bob", True)
    assert all(ballot.votes[0].p == 1 for ballot in read_ballots(out / "labelled.jsonl"))
    assert [one["left_out"] for one in figures_of(out)["people"]] == [False, True]
    leave_out_person(out, "bob", False)
    assert (out / "votes.jsonl").read_text() == whole
    back_up(out, tmp_path / "copy.sqlite")
    assert remove_person(out, "bob") == 6 + 2, "left out, and counted in again, is a row each"
    assert b"bob" not in (out / "votes.sqlite").read_bytes() and b"bob" in (tmp_path / "copy.sqlite").read_bytes()
    assert [one["name"] for one in figures_of(out)["people"]] == ["ann"]
    assert len((out / "votes.jsonl").read_text().splitlines()) == 6
    with pytest.raises(UserError, match="nobody by the name 'bob' voted here; known are ann"):
        remove_person(out, "bob")


def test_other_ballots_find_no_place_in_a_folder_with_votes_and_more_of_them_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = labelled(tmp_path, monkeypatch, {"ann": 0})
    more = tmp_path / "more.jsonl"
    with more.open("w") as file:
        file.write((tmp_path / "in.jsonl").read_text() + json.dumps({"prompt": "New", "a": "p", "b": "q"}) + "\n")
    assert open_labelling(read_labelling(more, skip_bad=True), out, Address(), share=1.0) == (7, 5)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "Other", "a": "p", "b": "q"}) + "\n")
    with pytest.raises(UserError, match="holds 7 votes on pairs that are not asked about now"):
        open_labelling(read_labelling(other), out, Address(), share=1.0)
    assert len(read_labelling(out / "ballots.jsonl").pairs) == 7


def test_a_file_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    ballots_file(tmp_path / "ballots.jsonl")
    before = (tmp_path / "ballots.jsonl").read_bytes()
    found = read_labelling(tmp_path / "ballots.jsonl", skip_bad=True)
    with pytest.raises(UserError, match=r"has a ballots\.jsonl that `label` did not write"):
        open_labelling(found, tmp_path, Address(), share=1.0)
    assert (tmp_path / "ballots.jsonl").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_while_somebody_serves_a_second_one_is_refused_and_figures_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = labelled(tmp_path, monkeypatch, {"ann": 0})
    with only_writer(out):
        with pytest.raises(UserError, match="another process is writing there"):
            open_labelling(read_labelling(out / "ballots.jsonl"), out, Address(), share=1.0)
        with pytest.raises(UserError, match="another process is writing there"):
            remove_person(out, "ann")
        assert figures_of(out)["votes"] == 6 and export_votes(out)[1][1] == "6 votes"


def test_what_was_labelled_survives_the_round_trip(tmp_path: Path) -> None:
    ballot = Ballot(CHAT, ("one", "two"), (Vote(0, 1, 1.0),), "id", "src", (True, False), (Annotation(0, 1, "a"),))
    write_ballots([ballot], tmp_path / "in.jsonl")
    found = read_labelling(tmp_path / "in.jsonl")
    write_ballots(found.ballots, tmp_path / "again.jsonl")
    again = read_labelling(tmp_path / "again.jsonl")
    assert (again.ballots, again.pairs) == (found.ballots, found.pairs)
    assert again.ballots[0].ended == (True, False) and again.ballots[0].id == "id"
    assert [pair.texts for pair in again.pairs] == [("one", "two")]
