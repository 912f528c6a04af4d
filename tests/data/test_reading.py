"""Reading preference files: every form means what it says, nothing is dropped unseen, every error is a line."""

import csv
import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, example, given
from hypothesis import strategies as st
from properties import tried

from preftune.data.ballots import WINNERS, Annotation, Ballot, BallotSet, Message, Vote
from preftune.data.reading import merge_prompts, read_ballots, read_prompts, write_ballots
from preftune.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "FORMATS.md").read_text(encoding="utf-8")
ONE_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]  # every example writes its files anew
quick = tried(40, suppress_health_check=ONE_FOLDER)


def examples(kind: str) -> list[str]:
    return [line for block in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


EXAMPLES, TOGETHER, PROMPT_EXAMPLES = examples("json"), examples("json together"), examples("json prompts")


def read_rows(tmp_path: Path, *rows: object) -> BallotSet:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_ballots(path)


def read_row(tmp_path: Path, row: object) -> Ballot:
    return read_rows(tmp_path, row)[0]


def error_of(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value), "an error for a person is one line"
    return str(caught.value)


def parquet(table: pyarrow.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


GOOD = {"prompt": "q", "chosen": "x", "rejected": "y"}


# ---------------------------------------------------------------------------------------------- round trip, canonical

texts = st.text(min_size=1).filter(str.strip)
roles = st.sampled_from(["system", "user", "assistant"])
chats = st.lists(st.builds(Message, roles, texts), min_size=1, max_size=3).map(tuple)


@st.composite
def usable_ballots(draw: st.DrawFn, prompts: st.SearchStrategy[Any] = texts | chats) -> Ballot:
    responses = draw(st.lists(texts, min_size=2, max_size=4, unique=True))
    pairs = st.sampled_from([(a, b) for a in range(len(responses)) for b in range(len(responses)) if a != b])
    weight = st.floats(1e-6, 1e6)
    votes = st.builds(lambda pair, p, w: Vote(*pair, p, w), pairs, st.floats(0, 1), weight)
    ended = draw(st.lists(st.booleans(), min_size=len(responses), max_size=len(responses)))
    votes_ = tuple(draw(st.lists(votes, min_size=1, max_size=4)))
    notes = st.builds(lambda pair, won, by: Annotation(*pair, won, by), pairs, st.sampled_from(WINNERS), st.text())
    said = tuple(draw(st.lists(notes, max_size=3)))
    return Ballot(draw(prompts), tuple(responses), votes_, draw(st.text()), draw(st.text()), tuple(ended), said)


@quick
@given(ballots=st.lists(usable_ballots(), min_size=1, max_size=4), name=st.sampled_from(["x.jsonl", "x.jsonl.gz"]))
def test_what_is_written_is_read_back_as_the_same_ballots(tmp_path: Path, ballots: list[Ballot], name: str) -> None:
    write_ballots(ballots, tmp_path / name)
    back = read_ballots(tmp_path / name)
    assert back.ballots == tuple(ballots)
    assert (back.rows, back.skipped, back.dropped) == (len(ballots), {}, {})


def test_writing_is_canonical_and_gzipped_where_the_name_says_so(tmp_path: Path) -> None:
    ballots = [Ballot("Où\u2028?", ("x", "y"), (Vote(0, 1, 1),))]
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        write_ballots(ballots, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        os.utime(tmp_path / name, (0, 0))
        write_ballots(ballots, tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    plain = (tmp_path / "plain.jsonl").read_bytes()
    assert (tmp_path / "packed.jsonl.gz").read_bytes()[4:8] == bytes(4), "no time of writing inside"
    assert gzip.decompress((tmp_path / "packed.jsonl.gz").read_bytes()) == plain
    assert plain.count(b"\n") == 1
    assert "Où" in plain.decode()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.jsonl"
    write_ballots([Ballot("q", ("x", "y"), (Vote(0, 1, 1),))], path)
    before = path.read_bytes()

    def broken():
        yield Ballot("q", ("x", "z"), (Vote(0, 1, 1),))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_ballots(broken(), path)

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    assert "cannot be written (No space left" in error_of(lambda: write_ballots(read_ballots(path), path))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    ballots = [Ballot("q", ("x", "y"), (Vote(0, 1, 1),))]
    (tmp_path / "file").write_text("x")
    assert "is a folder" in error_of(lambda: write_ballots(ballots, tmp_path))
    for path in (tmp_path / "nowhere" / "x.jsonl", tmp_path / "file" / "x.jsonl"):
        assert f"{path}: cannot be written" in error_of(lambda path=path: write_ballots(ballots, path))


# ---------------------------------------------------------------------------------------------- forms

SHARED = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Name a river.\n\nAssistant:"
CHAT = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Name a river."))
TURNS = [{"role": turn.role, "content": turn.content} for turn in CHAT]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[turn.role], "value": turn.content} for turn in CHAT]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": f"{SHARED} Nile", "rejected": f"{SHARED} Bread"},
        {"chosen": f"{SHARED}  Nile\n", "rejected": f"{SHARED}Bread", "prompt": None},
        {"prompt": SHARED, "chosen": " Nile", "rejected": " Bread"},
        {"prompt": SHARED, "chosen": f"{SHARED} Nile", "rejected": f"{SHARED} Bread"},
        {"chosen": [*TURNS, said("Nile")], "rejected": [*TURNS, said("Bread")]},
        {"prompt": TURNS, "chosen": [said("Nile")], "rejected": [said("Bread")]},
        {"prompt": TURNS, "chosen": [*TURNS, said("Nile")], "rejected": [*TURNS, said("Bread")]},
        {"prompt": TURNS, "chosen": "Nile", "rejected": "Bread"},
        {"prompt": "Hi", "chosen": [*TURNS, said("Nile")], "rejected": [*TURNS, said("Bread")]},
        {"prompt": TURNS, "chosen": said("Nile"), "rejected": said("Bread")},
        {"conversations": SHAREGPT, "chosen": {"from": "gpt", "value": "Nile"}, "rejected": "Bread"},
        {"conversations": SHAREGPT, "a": "Nile", "b": "Bread", "label": 1},
        {"context": TURNS, "replies": [{"text": "Nile", "rank": 0}, {"text": "Bread", "rank": 7}]},
        {"prompt": TURNS, "answers": [{"content": "Nile", "score": 0.5}, {"content": "Bread", "score": -1}]},
        {"prompt": TURNS, "responses": ["Nile", "Bread"], "votes": [{"a": 0, "b": 1, "p": 1}]},
        {"responses": [f"{SHARED} Nile", f"{SHARED} Bread"], "scores": [1, 0]},
    ],
)
def test_every_form_of_one_chat_gives_the_same_ballot(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read_row(tmp_path, row) == Ballot(CHAT, ("Nile", "Bread"), (Vote(0, 1, 1.0),), "1")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": " yes\n", "rejected": "no"},
        {"question": "Q", "chosen": " yes\n", "rejected": "no"},
        {"instruction": "Q", "input": "", "chosen": " yes\n", "rejected": "no"},
        {"context": "Q", "response_a": " yes\n", "response_b": "no", "label": "1"},
        {"prompt": "Q", "question": "other", "response_1": " yes\n", "response_2": "no", "p": 1},
        {"prompt": "Q", "response1": " yes\n", "response2": "no", "votes": {"a": 1, "b": 0}},
        {"prompt": "Q", "output_1": " yes\n", "output_2": "no", "label": 1.0, "p": None},
        {"prompt": "Q", "completions": [" yes\n", "no"], "ranks": [1, 2]},
        {"prompt": "Q", "responses": [" yes\n", "no"], "label": 1},
    ],
)
def test_plain_text_is_taken_to_the_letter(tmp_path: Path, row: dict[str, Any]) -> None:
    ballot = replace(read_row(tmp_path, row), annotations=())
    assert ballot == Ballot("Q", (" yes\n", "no"), (Vote(0, 1, 1.0),), "1")


def test_instruction_and_input_stand_on_two_lines_and_a_system_text_opens_a_chat(tmp_path: Path) -> None:
    sides = {"chosen": "x", "rejected": "y"}
    assert read_row(tmp_path, {"instruction": "I", "input": "i", **sides}).prompt == "I\ni"
    opened = (Message("system", "S"), Message("user", "Q"))
    assert read_row(tmp_path, {"system": "S", "question": "Q", **sides}).prompt == opened
    assert read_row(tmp_path, {"system": "S", "prompt": [{"role": "user", "content": "Q"}], **sides}).prompt == opened
    assert read_row(tmp_path, {"system": "", "prompt": "Q", **sides}).prompt == user("Q")
    chat = [{"role": turn.role, "content": turn.content} for turn in opened]
    assert read_row(tmp_path, {"system": "S\n", "prompt": chat, **sides}).prompt == opened
    assert read_row(tmp_path, {"system": None, "system_prompt": "S", "prompt": "Q", **sides}).prompt == opened
    canonical = {"prompt": "Q", "responses": ["x", "y"], "votes": [{"a": 0, "b": 1, "p": 1}], "system": "S"}
    assert read_row(tmp_path, canonical).prompt == opened


def test_a_text_prompt_beside_an_assistant_message_is_a_turn_of_the_user(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": [said("x")], "rejected": [said("y")]}
    assert read_row(tmp_path, row).prompt == user("Q")


def test_the_canonical_form_is_taken_word_for_word(tmp_path: Path) -> None:
    ballot = Ballot(SHARED, (f"{SHARED} x", f"{SHARED} y"), (Vote(1, 0, 0.25),))
    write_ballots([ballot], tmp_path / "x.jsonl")
    assert read_ballots(tmp_path / "x.jsonl")[0] == ballot


def test_one_text_that_ended_and_was_cut_off_is_two_responses(tmp_path: Path) -> None:
    row = {"prompt": "q", "responses": ["x", "x"], "ended": [True, False], "votes": [{"a": 0, "b": 1, "p": 1}]}
    assert read_row(tmp_path, row) == Ballot("q", ("x", "x"), (Vote(0, 1, 1.0),), "1", "", (True, False))


def test_transcripts_that_do_not_repeat_a_stated_prompt_are_responses(tmp_path: Path) -> None:
    row = {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": f"{SHARED} x", "rejected": f"{SHARED} y"}
    ballot = read_row(tmp_path, row)
    assert (ballot.prompt, ballot.responses) == (user("Q"), (f"{SHARED} x".strip(), f"{SHARED} y".strip()))


def test_a_prompt_that_occurs_only_in_a_response_is_not_that_of_the_chat(tmp_path: Path) -> None:
    row = {"prompt": "Nile", "chosen": [*TURNS, said("Nile")], "rejected": [*TURNS, said("Nile")]}
    assert read_rows(tmp_path, GOOD, row).skipped == {"a prompt that differs between the sides": 1}


def test_successive_turns_of_one_role_in_a_transcript_become_one(tmp_path: Path) -> None:
    shared = "\n\nHuman: Q\n\nAssistant: one\n\nAssistant: two\n\nHuman: R\n\nAssistant:"
    ballot = read_row(tmp_path, {"chosen": shared + " x", "rejected": shared + " y"})
    assert ballot.prompt == (Message("user", "Q"), Message("assistant", "one\n\ntwo"), Message("user", "R"))


def test_plain_text_that_quotes_its_prompt_or_a_transcript_is_left_alone(tmp_path: Path) -> None:
    for first in ("Q: because", "They said:\n\nHuman: hi\n\nAssistant: ho"):
        ballot = read_row(tmp_path, {"prompt": "Q", "chosen": first, "rejected": "Q no"})
        assert (ballot.prompt, ballot.responses) == ("Q", (first, "Q no"))


@pytest.mark.parametrize("prompt", [None, "", "Name a river.", TURNS, SHARED], ids=repr)
def test_transcripts_that_hold_the_stated_prompt_are_chats(tmp_path: Path, prompt: object) -> None:
    ballot = read_row(tmp_path, {"prompt": prompt, "chosen": f"{SHARED} x", "rejected": f"{SHARED} y"})
    assert (ballot.prompt, ballot.responses) == (CHAT, ("x", "y"))


@pytest.mark.parametrize("prompt", [None, "Q", "Name a river.", TURNS, SHARED], ids=repr)
@pytest.mark.parametrize("other", ["y", [*TURNS, said("y")], said("y"), "\n\nHuman: Hi"], ids=repr)
def test_a_transcript_on_one_side_only_is_never_a_response(tmp_path: Path, prompt: object, other: object) -> None:
    for sides in ((f"{SHARED} x", other), (other, f"{SHARED} x")):
        row = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}
        assert read_rows(tmp_path, GOOD, row).skipped == {"a transcript beside a response that is none": 1}


PADDED = {"role": None, "content": None, "from": None, "value": None, "name": None, "tool_calls": None}


@pytest.mark.parametrize(
    ("turn", "content"),
    [
        ({**PADDED, "role": "user", "content": "x"}, "x"),
        ({**PADDED, "from": "human", "value": "x"}, "x"),
        ({**PADDED, "role": "user", "from": "human", "value": "x"}, "x"),
        ({"role": "user", "from": "human", "value": "x"}, "x"),
        ({"role": None, "from": "human", "value": "x"}, "x"),
        ({"role": "user", "content": "x", "from": "human", "value": "x"}, "x"),
        ({"role": "user", "content": "x", "from": "the web"}, "x"),
        ({"from": "human", "value": "x", "content": None}, "x"),
        ({"role": "user", "content": None, "from": "human", "value": "x"}, "x"),
    ],
)
def test_of_two_pairs_of_names_a_turn_speaks_under_the_one_with_values(tmp_path: Path, turn: Any, content: str) -> None:
    row = {"prompt": [turn], "chosen": {**PADDED, **said("a")}, "rejected": {**PADDED, "from": "gpt", "value": "b"}}
    assert read_row(tmp_path, row) == Ballot(user(content), ("a", "b"), (Vote(0, 1, 1.0),), "1")
    assert read_prompts(tmp_path / "rows.jsonl") == (user(content),)


def test_of_the_names_of_a_response_the_one_with_a_value_counts(tmp_path: Path) -> None:
    entries = [{"text": None, "answer": "x", "rank": 1}, {**PADDED, "text": "y", "answer": "y", "rank": 2}]
    assert read_row(tmp_path, {"prompt": "q", "replies": entries}).responses == ("x", "y")


@pytest.mark.parametrize(
    ("beside", "vote"),
    [
        ({"p": 0.75}, Vote(0, 1, 0.75)),
        ({"p": 0.5}, Vote(0, 1, 0.5)),
        ({"label": 1}, Vote(0, 1, 1.0)),
        ({"label": None, "votes": None, "p": None}, Vote(0, 1, 1.0)),
        ({"votes": {"a": 3, "b": 1}}, Vote(0, 1, 0.75, 4.0)),
        ({"votes": {"a": "3", "tie": "1"}, "label": "1", "p": 0.9}, Vote(0, 1, 0.875, 4.0)),
        ({"votes": {"a": 1, "b": 1}, "weight": 2}, Vote(0, 1, 0.5, 4.0)),
    ],
)
def test_votes_p_and_label_say_how_sure_chosen_is(tmp_path: Path, beside: dict[str, Any], vote: Vote) -> None:
    assert read_row(tmp_path, {**GOOD, **beside}).votes == (vote,)


@pytest.mark.parametrize("name", ["rank", "score"])
def test_integers_that_floats_cannot_tell_apart_are_told_apart(tmp_path: Path, name: str) -> None:
    for one, two in ((2**53 + 1, 2**53), (str(2**53 + 1), str(2**53)), (2**53 + 1, float(2**53))):
        row = {"prompt": "q", "responses": ["x", "y"], f"{name}s": [one, two]}
        assert read_row(tmp_path, row).votes == (Vote(0, 1, float(name == "score")),)


@pytest.mark.parametrize("text", ["1", "+1", "1.", "1.0", "01", "1e0", "10E-1", ".1e1"])
def test_a_number_may_be_the_plain_text_of_one(tmp_path: Path, text: str) -> None:
    row = {"prompt": "q", "a": "x", "b": "y", "p": text, "label": text, "votes": {"a": text}, "weight": text}
    assert read_row(tmp_path, row).votes == (Vote(0, 1, 1.0),)


def test_id_and_source_are_kept_whatever_they_are(tmp_path: Path) -> None:
    for value in (7, 2**53 + 1, True, {"$oid": "5f"}, ["x", 1], 0.5):
        ballot = read_row(tmp_path, {**GOOD, "id": value, "source": value})
        assert (ballot.id, ballot.source) == (str(value), str(value))


@pytest.mark.parametrize(("label", "p"), [(1, 1.0), (2, 0.0)])
def test_label_1_prefers_the_first_and_2_the_second(tmp_path: Path, label: int, p: float) -> None:
    assert read_row(tmp_path, {"prompt": "q", "a": "x", "b": "y", "label": label}).votes == (Vote(0, 1, p),)


counts = st.integers(0, 50)


@quick
@given(a=counts, b=counts, tie=counts, weight=st.sampled_from([None, 1, 0.5, 3]))
def test_counted_votes_are_one_vote_in_which_a_tie_is_half_for_each(tmp_path: Path, a, b, tie, weight) -> None:
    assume(a + b + tie)
    row = {"prompt": "q", "a": "x", "b": "y", "votes": {"a": a, "b": b, "tie": tie}, "weight": weight}
    (vote,) = read_row(tmp_path, row).votes
    single = [1.0] * a + [0.0] * b + [0.5] * tie
    assert (vote.a, vote.b) == (0, 1)
    assert vote.p == pytest.approx(sum(single) / len(single))
    assert vote.weight == pytest.approx(len(single) * (1 if weight is None else weight))


def test_votes_go_before_p_and_must_not_name_another_winner(tmp_path: Path) -> None:
    pair = {"prompt": "q", "a": "x", "b": "y"}
    assert read_row(tmp_path, {**pair, "votes": {"a": 2, "b": 1}, "p": 0.667}).votes == (Vote(0, 1, 2 / 3, 3.0),)
    for contradiction in ({"votes": {"a": 2, "b": 1}, "p": 0.3}, {"p": 0.7, "label": 2}):
        said = error_of(lambda row=contradiction: read_row(tmp_path, {**pair, **row}))
        assert "rows.jsonl:1: " in said
        assert "different winners" in said


@quick
@given(values=st.lists(st.integers(-3, 3) | st.floats(-3, 3), min_size=2, max_size=6), data=st.data())
def test_a_group_votes_on_every_pair_by_rank_or_by_score(tmp_path: Path, values: list[float], data: Any) -> None:
    name, better = data.draw(st.sampled_from([("rank", min), ("score", max)]))
    responses = [f"response {n}" for n in range(len(values))]
    inside = [{"text": text, name: value} for text, value in zip(responses, values, strict=True)]
    row = data.draw(st.sampled_from([{"responses": responses, f"{name}s": values}, {"replies": inside}]))
    ballot = read_row(tmp_path, {"prompt": "q", **row})
    assert {frozenset((v.a, v.b)) for v in ballot.votes} == {frozenset(x) for x in combinations(range(len(values)), 2)}
    assert len(ballot.votes) == len(values) * (len(values) - 1) // 2
    for vote in ballot.votes:
        first, second = values[vote.a], values[vote.b]
        assert vote.p == (0.5 if first == second else 1.0 if better(first, second) == first else 0.0)


def test_an_id_is_kept_and_else_is_the_line(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row | {'id': 7})}\n{json.dumps(row)}\n")
    assert [ballot.id for ballot in read_ballots(path)] == ["1", "7", "4"]
    path.write_text(json.dumps([row, row]))
    assert [ballot.id for ballot in read_ballots(path)] == ["1", "2"]


@quick
@given(ballots=st.lists(usable_ballots(), min_size=1, max_size=3), factor=st.floats(0.01, 100))
def test_a_weight_multiplies_the_votes_of_its_row(tmp_path: Path, ballots: list[Ballot], factor: float) -> None:
    write_ballots(ballots, tmp_path / "x.jsonl")
    rows = [json.loads(line) | {"weight": factor} for line in (tmp_path / "x.jsonl").read_text().split("\n")[:-1]]
    for before, after in zip(ballots, read_rows(tmp_path, *rows), strict=True):
        assert [v.weight for v in after.votes] == pytest.approx([v.weight * factor for v in before.votes])
        assert [(v.a, v.b, v.p) for v in after.votes] == [(v.a, v.b, v.p) for v in before.votes]


# ---------------------------------------------------------------------------------------------- unusable rows

CALLED = "a tool call in a form that is not known"
REASONED = "reasoning that is no text"


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("an empty response", {"prompt": "q", "chosen": "x", "rejected": " \n"}),
        ("an empty response", {"prompt": "q", "chosen": None, "rejected": "y"}),
        ("an empty response", {"prompt": "q", "chosen": None, "rejected": None}),
        ("an empty response", {"chosen": f"{SHARED} x", "rejected": f"{SHARED} "}),
        ("an empty response", {"chosen": f"{SHARED} x", "rejected": ""}),
        ("an empty response", {"chosen": None, "rejected": f"{SHARED} x"}),
        ("an empty response", {"prompt": TURNS, "chosen": [], "rejected": [said("x")]}),
        ("an empty response", {"chosen": [], "rejected": None}),
        ("an empty response", {"prompt": TURNS, "chosen": [said("")], "rejected": [said("x")]}),
        ("an empty response", {"prompt": "q", "responses": ["x", "", " "], "ranks": [1, 2, 3]}),
        ("identical responses", {"prompt": "q", "chosen": "x", "rejected": "x"}),
        ("identical responses", {"chosen": f"{SHARED} x", "rejected": f"{SHARED}x"}),
        ("identical responses", {"prompt": "q", "responses": ["x", "x", "x"], "ranks": [1, 2, 3]}),
        (
            "a prompt that differs between the sides",
            {"chosen": f"{SHARED} x", "rejected": "\n\nHuman: Q\n\nAssistant: y"},
        ),
        (
            "a prompt that differs between the sides",
            {"chosen": [*TURNS, said("x")], "rejected": [*TURNS, said("y"), *TURNS[:1], said("z")]},
        ),
        (
            "a prompt that differs between the sides",
            {"prompt": "other", "chosen": [*TURNS, said("x")], "rejected": [*TURNS, said("y")]},
        ),
        ("no prompt", {"chosen": "x", "rejected": "y"}),
        ("no prompt", {"prompt": " ", "chosen": "x", "rejected": "y"}),
        ("no prompt", {"prompt": [], "chosen": "x", "rejected": "y"}),
        ("no prompt", {"chosen": [said("x")], "rejected": [said("y")]}),
        ("no votes", {"prompt": "q", "a": "x", "b": "y", "votes": {"a": 0, "b": 0, "tie": 0}}),
        ("no votes", {"prompt": "q", "a": "x", "b": "y", "label": None}),
        ("no votes", {"prompt": "q", "responses": ["x", "y"], "votes": []}),
        ("no votes", {"prompt": "q", "responses": ["x", "y", "z"], "ranks": None}),
        ("a response without a rank or score", {"prompt": "q", "responses": ["x", "y"], "scores": [1, None]}),
        ("a response without a rank or score", {"prompt": "q", "responses": ["x", "y"], "ratings": ["N/A", "3"]}),
        ("no votes", {"prompt": "q", "replies": [{"text": "x", "rank": None}, {"text": "y", "rank": None}]}),
        ("no votes", {**GOOD, "weight": 0}),
        ("no votes", {"prompt": "q", "responses": ["x", "y", ""], "votes": [{"a": 0, "b": 2, "p": 1}]}),
        ("fewer than two responses", {"prompt": "q", "replies": [{"text": "x", "rank": 0}]}),
        ("fewer than two responses", {"prompt": "q", "responses": [], "scores": []}),
        (
            "a response whose turn is not the assistant's (its role is user)",
            {"chosen": TURNS, "rejected": [*TURNS[:2], TURNS[0]]},
        ),
        (
            "a turn of a role other than system, user or assistant ('critic')",
            {"prompt": [{"role": "critic", "content": "1"}], "chosen": "x", "rejected": "y"},
        ),
        (CALLED, {"prompt": "q", "chosen": {"from": "function_call", "value": "f()"}, "rejected": "y"}),
        (CALLED, {"prompt": "q", "chosen": {"role": "tool_call", "content": None}, "rejected": "y"}),
        (CALLED, {"prompt": "q", "chosen": {**said("x"), "tool_calls": ["f"]}, "rejected": "y"}),
        (REASONED, {"prompt": "q", "chosen": {**said("x"), "reasoning_content": [{"step": "r"}]}, "rejected": "y"}),
        ("text that is not valid Unicode (half of a surrogate pair)", {**GOOD, "chosen": "\ud83d"}),
        ("text that is not valid Unicode (half of a surrogate pair)", {**GOOD, "id": "\ud83d"}),
    ],
)
def test_an_unusable_row_is_counted_by_its_reason_and_alone_is_an_error(tmp_path: Path, reason: str, row: Any) -> None:
    ballots = read_rows(tmp_path, GOOD, row, row)
    assert (ballots.rows, len(ballots), ballots.skipped, ballots.dropped) == (3, 1, {reason: 2}, {})
    message = error_of(lambda: read_rows(tmp_path, row))
    assert message.endswith(f"rows.jsonl: none of its 1 rows can be used (1 × {reason})")


def test_empty_calls_tools_and_reasoning_are_none(tmp_path: Path) -> None:
    side = {**said("x"), "tool_calls": [], "function_call": None, "reasoning_content": "", "reasoning": None}
    for tools in (None, [], "", "[]", " {} ", "null"):
        assert read_row(tmp_path, {**GOOD, "chosen": [side], "tools": tools}).responses == ("x", "y")


def test_the_reasoning_of_a_judge_beside_a_score_is_nothing_of_the_response(tmp_path: Path) -> None:
    entries = [{"text": text, "score": score, "reasoning": "r"} for text, score in (("x", 2), ("y", 1))]
    assert len(read_rows(tmp_path, {"prompt": "q", "responses": entries})) == 1


def test_an_empty_response_leaves_its_group_alone_and_is_counted(tmp_path: Path) -> None:
    row = {"prompt": "q", "responses": ["x", "", "y", "z"], "ranks": [2, 1, 3, 3], "ended": [True, True, False, True]}
    ballots = read_rows(tmp_path, row)
    assert ballots[0].responses == ("x", "y", "z")
    assert ballots[0].ended == (True, False, True)
    assert ballots[0].votes == (Vote(0, 1, 1.0), Vote(0, 2, 1.0), Vote(1, 2, 0.5))
    assert (ballots.skipped, ballots.dropped) == ({}, {"an empty response": 1})


def test_copies_in_a_group_become_one_response_with_their_votes_pooled(tmp_path: Path) -> None:
    ballots = read_rows(tmp_path, {"prompt": "q", "responses": ["x", "y", "x"], "ranks": [1, 2, 3]})
    assert ballots[0].responses == ("x", "y")
    assert ballots[0].votes == (Vote(0, 1, 0.5, 2.0),)
    assert (ballots.skipped, ballots.dropped) == ({}, {"identical responses": 1})


# ---------------------------------------------------------------------------------------------- unreadable rows

PAIR = {"prompt": "q", "a": "x", "b": "y"}
GROUP = {"prompt": "q", "responses": ["x", "y", "z"]}
SYSTEM = {"role": "system", "content": "S"}


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("must be an object", ["x"]),
        ("must be an object", "text"),
        ("must be an object", None),
        ("no known layout: the row has 'prompt', 'reply'; the nearest is", {"prompt": "q", "reply": "x"}),
        ("--columns prompt=question,chosen=best,rejected=worst", {"question": "q", "best": "x", "worst": "y"}),
        ("the row has no fields", {}),
        ("without `label`, `winner`, `votes` or `p`", PAIR),
        ("`winner` is 'z', which names no winner", {**PAIR, "winner": "z"}),
        ("without `votes`, `ranks` or `scores`", GROUP),
        ("`label` is 0: either 1 is the first and 0 the second (--columns first_wins=label), or", {**PAIR, "label": 0}),
        ("`winner` is 1: either", {**PAIR, "winner": 1}),
        ("`preference` is '2': either", {**PAIR, "preference": "2"}),
        ("`label` is 3; it must be 1", {**PAIR, "label": 3}),
        ("`label` is 1.5; it must be 1", {**PAIR, "label": 1.5}),
        ("`label` is True: either", {**PAIR, "label": True}),
        ("`label` is 'z', not a finite number", {**PAIR, "label": "z"}),
        ("p = 1.2 is outside [0, 1]", {**PAIR, "p": 1.2}),
        ("p = -0.1 is outside [0, 1]", {**PAIR, "p": -0.1}),
        ("p = 2.0 is outside [0, 1]", {**GOOD, "p": 2}),
        ("`p` is nan, not a finite number", {**PAIR, "p": math.nan}),
        ("negative `votes`", {**PAIR, "votes": {"a": -1, "b": 2}}),
        ("`votes.a` is nan", {**PAIR, "votes": {"a": math.nan, "b": 2}}),
        ("must be counts under `a`, `b` and `tie`", {**PAIR, "votes": {"a": 1, "b": 2, "both bad": 1}}),
        ("must be counts under `a`, `b` and `tie`", {**PAIR, "votes": 3}),
        ("`label` names one of two responses, and there are 3", {**GROUP, "label": 2}),
        ("`ranks` must be a list of 3 numbers", {**GROUP, "ranks": [1, 2]}),
        ("`scores` must be a list of 3 numbers", {**GROUP, "scores": [1, 2, 3, 4]}),
        ("`scores` must be a list of 3 numbers", {**GROUP, "scores": 5}),
        ("`score` is inf, not a finite number", {**GROUP, "scores": [1, math.inf, 2]}),
        ("not a list of votes", {**GROUP, "votes": {"a": 1, "b": 1}}),
        ("names response 3, counted from 0; there are 3", {**GROUP, "votes": [{"a": 0, "b": 3, "p": 1}]}),
        ("with itself", {**GROUP, "votes": [{"a": 1, "b": 1, "p": 1}]}),
        ("a vote must have `a`, `b`, `p`", {**GROUP, "votes": [{"a": 1, "b": 0}]}),
        ("a vote must have `a`, `b`, `p`", {**GROUP, "votes": [[0, 1, 1]]}),
        ("by their place from 0", {**GROUP, "votes": [{"a": 0.5, "b": 1, "p": 1}]}),
        ("weight = 0.0 is outside [1e-30, 1e+30]", {**GROUP, "votes": [{"a": 0, "b": 1, "p": 1, "weight": 0}]}),
        ("`weight` is -1", {**GOOD, "weight": -1}),
        ("`weight` is nan", {**GOOD, "weight": math.nan}),
        ("weight = 1e+300 is outside", {**PAIR, "votes": {"a": 1e300, "b": 1}, "weight": 1e300}),
        ("`ended` has 1 entries for 2 responses", {**GOOD, "ended": [True]}),
        *(
            ("`ended` is no list of true and false", {**GOOD, "ended": no})
            for no in ("yes", False, 0, 1, {}, "", [1, 0])
        ),
        ("`ended` has 0 entries for 2 responses", {**GOOD, "ended": []}),
        *(
            ("`p` is", {**GOOD, "p": text})
            for text in ("0_1", " 0.5 ", "0.5\n", "０.５", "nan", "inf", "", "0x1", "1e999")
        ),
        ("`weight` is '1_000', not a finite number", {**GOOD, "weight": "1_000"}),
        ("`label` is '１', not a finite number", {**PAIR, "label": "１"}),
        ("`votes.a` is '1_0', not a finite number", {**PAIR, "votes": {"a": "1_0", "b": 1}}),
        ("`rank` is '1_0', not a finite number", {**GROUP, "ranks": ["1_0", 2, 3]}),
        ("`score` is 1000", {**GROUP, "scores": [10**400, 2, 3]}),
        ("`a` is '1_0', not a finite number", {**GROUP, "votes": [{"a": "1_0", "b": 1, "p": 1}]}),
        *(
            ("`chosen` loses by the", {**GOOD, **beside})
            for beside in (
                {"p": 0.4},
                {"label": 2},
                {"votes": {"a": 1, "b": 2}},
                {"votes": {"a": 1, "b": 1}, "label": 2},
                {"votes": {"a": 2, "b": 1}, "p": 0},
            )
        ),
        ("`label` is 0: either", {**GOOD, "label": 0}),
        ("must be counts under `a`, `b` and `tie`", {**GOOD, "votes": [{"a": 0, "b": 1, "p": 1}]}),
        ("p = 7.0 is outside [0, 1]", {**PAIR, "votes": {"a": 1}, "p": 7}),
        ("name different winners", {**GROUP, "ranks": [1, 2, 2], "scores": [2, 2, 3]}),
        ("name different winners", {"prompt": "q", "responses": ["x", "y"], "label": 1, "scores": [1, 2]}),
        ("`input` is 5, not text", {"instruction": "q", "input": 5, "chosen": "x", "rejected": "y"}),
        ("`input` is ['i'], not text", {"instruction": "q", "input": ["i"], "chosen": "x", "rejected": "y"}),
        ("an `instruction` that is a chat", {"instruction": TURNS, "input": "i", "chosen": "x", "rejected": "y"}),
        *(("`system` is", {**GOOD, "system": system}) for system in (False, 0, [], {})),
        ("`system` and `system_prompt` have different", {**GOOD, "system": "S", "system_prompt": "T"}),
        (
            "the `system` field and the system turn of the chat",
            {"system": "T", "prompt": [SYSTEM, *TURNS], "chosen": "x", "rejected": "y"},
        ),
        (
            "the `system` field and the system turn of the chat",
            {"system": "T", **{key: [SYSTEM, *TURNS, said(key)] for key in ("chosen", "rejected")}},
        ),
        ("of a turn differ", {"prompt": [{**TURNS[0], "from": "gpt", "value": None}], "chosen": "x", "rejected": "y"}),
        ("of a turn differ", {"prompt": [{**TURNS[0], "from": "human", "value": "?"}], "chosen": "x", "rejected": "y"}),
        ("of a turn differ", {"prompt": [{**TURNS[0], "from": None, "value": "?"}], "chosen": "x", "rejected": "y"}),
        ("which is the response: text, answer?", {**GOOD, "chosen": {"text": "x", "answer": "z"}}),
        ("a response is 5, neither text nor messages", {"prompt": "q", "chosen": 5, "rejected": "y"}),
        ("a response is {'model': 'm'}", {"prompt": "q", "responses": [{"model": "m"}, "y"], "ranks": [1, 2]}),
        ("`responses` is 'x', not a list", {"prompt": "q", "responses": "x", "ranks": [1]}),
        ("a chat is a list of", {"prompt": ["q"], "chosen": "x", "rejected": "y"}),
        ("the content of a turn is 5", {"prompt": [{"role": "user", "content": 5}], "chosen": "x", "rejected": "y"}),
        ("`prompt` is 5, neither text nor", {"prompt": 5, "chosen": "x", "rejected": "y"}),
        ("`system` is 5, not text", {**GOOD, "system": 5}),
        ("which is the prompt: question, context?", {"context": "c", "question": "q", "chosen": "x", "rejected": "y"}),
    ],
)
def test_an_unreadable_row_stops_with_its_file_and_line(tmp_path: Path, what: str, row: object) -> None:
    message = error_of(lambda: read_rows(tmp_path, GOOD, GOOD, row, GOOD))
    assert f"{tmp_path / 'rows.jsonl'}:3: " in message
    assert what in message
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, row], indent=1))
    assert f"{path}, row 2: " in error_of(lambda: read_ballots(path))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path, monkeypatch) -> None:
    assert "there is no such file" in error_of(lambda: read_ballots(tmp_path / "none.jsonl"))
    assert "there is no such file" in error_of(lambda: read_prompts(tmp_path / "none.txt"))
    assert "is a folder" in error_of(lambda: read_ballots(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("none", "none.jsonl", "folder/none.csv", "data/none", "./data/none", "folder/none.jsonl.gz", "a\0b"):
        message = error_of(lambda name=name: read_ballots(name))
        assert message.startswith(f"{name}: ") and "hub" not in message


TEXTS_FOR_CELLS = [
    "",
    "x",
    SHARED + " y",
    "1",
    "user",
    "1_0",
    "nan",
    "[",
    "{[]: 1}",
    "{'a': 1, 'a': 2}",
    '{"role": null}',
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS_FOR_CELLS)
FIELDS = (
    "prompt chosen rejected a b label votes p responses replies ranks scores rank score text role content from value "
    "conversations context system weight ended id source tie turns messages instruction input tools tool_calls "
    "function_call reasoning thinking system_prompt winner preference completion output response history better_index "
    "message_id parent_id replies info summaries choice conversation_a conversation_b turn fields suggestions user_id "
    "response_1 response_2 response_3 ranking kto_tag desirable parts images type annotations by rows row columns data"
)
known = st.sampled_from(FIELDS.split())
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(known, inner, max_size=4), max_leaves=12
)


@st.composite
def damaged_rows(draw: st.DrawFn) -> Any:
    """A good row of any form in which one value, at any depth, is replaced or gone."""
    row = json.loads(draw(st.sampled_from(EXAMPLES + TOGETHER + PROMPT_EXAMPLES)))
    place: Any = row
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[key], dict | list) and place[key] and draw(st.booleans())):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(values)
    else:
        del place[key]
    return row


HUMAN = {"role": "user", "from": "human", "value": "x"}


@tried(120, suppress_health_check=ONE_FOLDER)
@given(rows=st.lists(st.dictionaries(known, values, max_size=6) | values | damaged_rows(), min_size=1, max_size=3))
@example(rows=[{"prompt": {"role": None, "from": None, "value": None}, "chosen": "x", "rejected": "y"}])
@example(rows=[{"prompt": HUMAN, "chosen": "x", "rejected": "y"}, {"messages": [{"role": None, "tool_calls": ["f"]}]}])
@example(rows=[{"prompt": "\ud83d", "chosen": [HUMAN], "rejected": {"text": "\ud83d"}}])
@example(rows=[{"prompt": "q", "responses": ["x", "y"], "scores": [10**400, "1" + "0" * 5000]}])
@example(rows=[{"prompt": "q", "replies": [{"text": "x", "score": 2**53 + 1}, {"text": "y", "score": "1e999"}]}])
def test_whatever_rows_a_file_holds_each_is_accounted_for_or_named_in_a_user_error(tmp_path: Path, rows) -> None:
    for path, content in containers_of(tmp_path, rows):
        path.write_bytes(content)
        for read in (read_ballots, read_prompts):
            try:
                result = read(path)
            except UserError as error:
                assert str(path) in str(error)
                assert "\n" not in str(error)
            else:
                if isinstance(result, BallotSet):
                    assert result.rows == len(result) + sum(result.skipped.values())
                    canonical = path.with_name("canonical.jsonl")
                    write_ballots(result, canonical)
                    back = read_ballots(canonical)
                    assert (back.ballots, back.sha256, back.skipped) == (result.ballots, result.sha256, {})


def containers_of(folder: Path, rows: list[object]) -> Iterator[tuple[Path, bytes]]:
    """The rows in every container that can hold them."""
    yield folder / "rows.jsonl", CONTAINERS["json lines"](rows)
    yield folder / "rows.json", CONTAINERS["json list"](rows)
    titles = sorted({key for row in rows if isinstance(row, dict) for key in row})
    table = [{title: row.get(title) for title in titles} for row in rows if isinstance(row, dict)]
    if not titles or "\\ud83d" in json.dumps(table):
        return
    yield folder / "json.csv", as_csv(table, json.dumps)
    yield folder / "python.tsv", as_csv(table, repr, "\t")
    with suppress(pyarrow.ArrowException, OverflowError):  # a column is of one type there
        yield folder / "rows.parquet", as_parquet(table)


contents = st.binary(max_size=60) | st.text('{}[]",:\n \ufeffpromt', max_size=40).map(str.encode)
heads = st.sampled_from([b"", b"PAR1", b"\x1f\x8b", b"prompt,a,b\n"])


@quick
@given(content=contents, head=heads)
@example(content=b"\x0c\n", head=b"")
@example(content=b"\xe2\x80\xa8", head=b"")
def test_whatever_bytes_a_file_holds_reading_ends_in_ballots_or_a_user_error(tmp_path: Path, content, head) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(head + content)
    for read in (read_ballots, read_prompts):
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error)


# ---------------------------------------------------------------------------------------------- containers


def as_csv(rows: list[dict[str, Any]], cell: Callable[[object], str], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(rows[0])
    writer.writerows([value if isinstance(value, str) else cell(value) for value in row.values()] for row in rows)
    return out.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    return parquet(pyarrow.Table.from_pylist(rows))


CONTAINERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "json lines": lambda rows: "\n".join(map(json.dumps, rows)).encode(),
    "json lines, windows, byte order mark": lambda rows: "\r\n".join(map(json.dumps, rows)).encode("utf-8-sig"),
    "json list": lambda rows: json.dumps(rows).encode(),
    "json list, indented": lambda rows: json.dumps(rows, indent=2, ensure_ascii=False).encode(),
    "json object": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "json object, indented": lambda rows: json.dumps({"data": rows}, indent=2).encode(),
    "csv": lambda rows: as_csv(rows, json.dumps),
    "csv with python's lists": lambda rows: as_csv(rows, repr),
    "csv with semicolons": lambda rows: as_csv(rows, json.dumps, ";"),
    "csv with tabs": lambda rows: as_csv(rows, json.dumps, "\t"),
    "parquet": as_parquet,
}
FORMS: dict[str, list[dict[str, Any]]] = {
    "text": [{"prompt": "Où?", "chosen": 'a, "b"\n\nc;\td', "rejected": "[1, 2]"}, {**GOOD, "rejected": "{}"}],
    "messages": [{"prompt": TURNS, "chosen": [said("it's")], "rejected": [said("y")]}] * 2,
    "transcripts": [{"chosen": f"{SHARED} x", "rejected": f"{SHARED} y"}] * 2,
    "counted": [{"prompt": "q", "a": "x", "b": "y", "votes": {"a": 2, "b": 1, "tie": 0}, "weight": 0.5}],
    "labelled": [{"prompt": "q", "a": "x", "b": "y", "label": label} for label in (1, 2)],
    "ranked": [{"prompt": TURNS, "responses": ["x", "y", "z"], "ranks": [3, 1, 1]}],
    "scored": [{"prompt": "q", "replies": [{"text": "x", "score": 1.5}, {"text": "y", "score": -1.0}]}],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_ballots_whatever_its_name(
    tmp_path: Path, container: str, packed: bool, form: str
) -> None:
    expected = read_rows(tmp_path, *FORMS[form])
    content = CONTAINERS[container](FORMS[form])
    for name in ("data.jsonl", "data.parquet", "data"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if packed else content)
        ballots = read_ballots(str(path))
        assert ballots.ballots == expected.ballots
        assert ballots.sha256 == expected.sha256


def test_an_indented_object_that_is_a_row_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(GOOD, indent=2))
    assert len(read_ballots(path)) == 1


def test_a_cell_longer_than_csvs_own_limit_is_read_and_the_limit_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_bytes(as_csv([{**GOOD, "chosen": "long " * 100_000}], json.dumps))
    before = csv.field_size_limit(1000)
    try:
        assert len(read_ballots(path)[0].responses[0]) == 500_000
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_the_hash_is_that_of_the_content_that_trains(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{**GOOD, "chosen": text} for text in "stu"]
    path.write_bytes(CONTAINERS["json lines"](rows))
    first = read_ballots(path).sha256
    assert re.fullmatch("[0-9a-f]{64}", first)

    os.utime(path, (1, 1))
    renamed = path.rename(tmp_path / "renamed")
    assert read_ballots(renamed).sha256 == first
    renamed.write_bytes(
        gzip.compress(CONTAINERS["json list, indented"]([{"id": n} | row for n, row in enumerate(rows)]))
    )
    assert read_ballots(renamed).sha256 == first

    others = [rows[::-1], rows[:2], [*rows, rows[0]], [{**rows[0], "weight": 2}, *rows[1:]]]
    others += [[{**rows[0], change: "S"}, *rows[1:]] for change in ("prompt", "chosen", "rejected")]
    others += [[{**rows[0], "p": 0.75}, *rows[1:]], [{**rows[0], "ended": [True, False]}, *rows[1:]]]
    assert len({first, *(read_rows(tmp_path, *other).sha256 for other in others)}) == 1 + len(others)


# ---------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch):
    """A hub that knows `owner/one` with one split, `owner/two` with two, `owner/many` with two configurations."""
    import datasets
    import huggingface_hub

    def info(name: str, timeout: float) -> None:
        assert timeout <= 30
        if name not in ("owner/one", "owner/two", "owner/many"):
            raise ConnectionError("no\nsuch host")

    def load(name: str, configuration: str | None = None, *, split: str | None) -> object:
        if name not in ("owner/one", "owner/two", "owner/many"):
            raise FileNotFoundError("not cached")
        if name == "owner/many" and configuration not in ("first", "second"):
            raise ValueError(
                "Config name is missing.\nPlease pick one among the available configs: ['first', 'second']"
            )
        one = name == "owner/one" or configuration == "first"
        splits = {"train": [GOOD]} if one else {"train": [GOOD], "test": [GOOD, GOOD]}
        loaded = datasets.DatasetDict({key: datasets.Dataset.from_list(rows) for key, rows in splits.items()})
        return loaded if split is None else loaded[split]

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", load)


def test_a_hub_data_set_is_read_by_name_and_split(hub, tmp_path: Path) -> None:
    assert read_ballots("owner/one").ballots == read_rows(tmp_path, GOOD).ballots
    assert len(read_ballots("owner/two:test")) == 2
    assert read_ballots("owner/two:test").source == "owner/two:test"
    assert read_prompts("owner/two:test") == ("q",)
    assert "choose a split: owner/two:train, owner/two:test" in error_of(lambda: read_ballots("owner/two"))


def test_a_column_that_is_named_is_read_from_the_hub_too(hub, monkeypatch) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"ask": "q", "good": "x", "poor": "y", "prompt": "other"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    ballots = read_ballots("owner/one", columns="prompt=ask,chosen=good,rejected=poor")
    assert (ballots[0].prompt, ballots[0].responses) == ("q", ("x", "y"))
    assert "the row has 'ask', 'good', 'poor', 'prompt'; the nearest is" in error_of(lambda: read_ballots("owner/one"))


def test_of_several_configurations_one_is_named(hub) -> None:
    assert len(read_ballots("owner/many:first")) == 1
    assert len(read_ballots("owner/many:second:test")) == 2
    choose = "choose one: owner/many:first, owner/many:second"
    assert choose in error_of(lambda: read_ballots("owner/many"))
    splits = "choose a split: owner/many:second:train, owner/many:second:test"
    assert splits in error_of(lambda: read_ballots("owner/many:second"))


def test_a_hub_out_of_reach_is_one_line_and_a_cached_copy_needs_none(hub, monkeypatch) -> None:
    reason = "nobody/none:train: neither a file here nor a data set that the hub gives"
    assert f"{reason} (no such host)" in error_of(lambda: read_ballots("nobody/none:train"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.dataset_info", None)
    assert f"{reason} (not cached)" in error_of(lambda: read_ballots("nobody/none:train"))
    assert len(read_ballots("owner/one")) == 1


# ---------------------------------------------------------------------------------------------- merging


@quick
@given(ballots=st.lists(usable_ballots(st.sampled_from(["p", "q", user("p")])), max_size=5))
def test_merging_keeps_every_vote_and_leaves_one_ballot_per_prompt(ballots: list[Ballot]) -> None:
    def tally(ballots) -> dict[object, list[float]]:
        sums: dict[object, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for ballot in ballots:
            keyed = list(zip(ballot.responses, ballot.ended, strict=True))
            for vote in ballot.votes:
                for one, two, p in ((vote.a, vote.b, vote.p), (vote.b, vote.a, 1 - vote.p)):
                    entry = sums[ballot.prompt, keyed[one], keyed[two]]
                    entry[0] += vote.weight * p
                    entry[1] += vote.weight
        return sums

    merged = merge_prompts(ballots)
    assert [ballot.prompt for ballot in merged] == list(dict.fromkeys(ballot.prompt for ballot in ballots))
    before, after = tally(ballots), tally(merged)
    assert before.keys() == after.keys()
    for key in before:
        assert after[key] == pytest.approx(before[key], rel=1e-6, abs=1e-6)
    for ballot in merged:
        responses = list(zip(ballot.responses, ballot.ended, strict=True))
        assert len(set(responses)) == len(responses)
        pairs = Counter(frozenset((vote.a, vote.b)) for vote in ballot.votes)
        assert set(pairs.values()) <= {1}, "votes are pooled"


def test_merging_shares_responses_and_names_the_sources() -> None:
    one = Ballot("q", ("x", "y"), (Vote(0, 1, 1.0),), "1", "s")
    two = Ballot("q", ("z", "x"), (Vote(0, 1, 1.0),), "2", "t")
    other = Ballot("r", ("x", "y"), (Vote(0, 1, 1.0),), "3", "s")
    merged = Ballot("q", ("x", "y", "z"), (Vote(0, 1, 1.0), Vote(0, 2, 0.0)), "1", "s, t")
    assert merge_prompts([one, other, two]) == (merged, other)


# ---------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "q"}, "q"),
        ({"prompt": TURNS}, CHAT),
        ({"prompt": SHARED}, CHAT),
        ({"question": "q", "system": "s"}, (Message("system", "s"), Message("user", "q"))),
        ({"turns": ["q", "r"], "question_id": 1}, user("q")),
        ({"messages": TURNS}, CHAT),
        ({"messages": [*TURNS, said("x")]}, CHAT),
        ({"conversations": [*SHAREGPT, {"from": "gpt", "value": "x"}]}, CHAT),
        ({"chosen": f"{SHARED} x", "rejected": f"{SHARED} "}, CHAT),
        ({"chosen": f"{SHARED} x", "rejected": "\n\nHuman: Q\n\nAssistant: y"}, CHAT),
        ({"prompt": "q", "chosen": "", "rejected": None}, "q"),
        ({"prompt": SHARED, "responses": ["x", "y"], "votes": []}, SHARED),
        ({"context": TURNS, "replies": [{"text": "x", "rank": 0}]}, CHAT),
    ],
)
def test_a_prompt_is_found_in_any_row(tmp_path: Path, row: dict[str, Any], prompt: object) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "first"}) + "\n" + json.dumps(row) + "\n" + json.dumps(row))
    assert read_prompts(path) == ("first", prompt)


@quick
@given(ballots=st.lists(usable_ballots(), min_size=1, max_size=4))
def test_the_prompts_of_a_ballot_file_are_those_of_its_ballots(tmp_path: Path, ballots: list[Ballot]) -> None:
    write_ballots(ballots, tmp_path / "x.jsonl")
    assert read_prompts(tmp_path / "x.jsonl") == tuple(dict.fromkeys(ballot.prompt for ballot in ballots))


def test_a_text_file_holds_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes('{name}, hello \r\n\n[1]\nA "quoted", line\n{name}, hello \n'.encode("utf-8-sig"))
    assert read_prompts(path) == ("{name}, hello ", "[1]", 'A "quoted", line')


def test_a_row_without_a_prompt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for row in (
        {"text": "q"},
        {"prompt": ""},
        {"prompt": "\ud83d"},
        {"prompt": "q", "tools": ["f"]},
        {"prompt": []},
        {"turns": []},
        {"chosen": "x", "rejected": "y"},
    ):
        path.write_text(json.dumps({"prompt": "q"}) + "\n" + json.dumps(row))
        assert f"{path}:2: " in error_of(lambda: read_prompts(path))


# ---------------------------------------------------------------------------------------------- real data, the page


@pytest.mark.parametrize(
    ("name", "rows", "skipped", "votes", "weight"),
    [
        (
            "hh-rlhf/helpful-base.test.jsonl.gz",
            2354,
            {"an empty response": 4, "a prompt that differs between the sides": 9, "identical responses": 2},
            2339,
            2339,
        ),
        (
            "hh-rlhf/harmless-base.test.jsonl.gz",
            2312,
            {"an empty response": 4, "a prompt that differs between the sides": 5},
            2303,
            2303,
        ),
        ("multi-vote/pandalm.jsonl.gz", 999, {"an empty response": 54}, 945, 3 * 945),
        ("multi-vote/llmfao.jsonl.gz", 1850, {}, 1850, 7723),
        ("multi-vote/oasst_en100_ranked_groups.jsonl", 212, {}, 754, 754),
        ("llamafactory_dpo_en_demo.json", 300, {}, 300, 300),
    ],
)
def test_real_files_are_read_and_every_row_is_accounted_for(
    shared_data: Path, name: str, rows: int, skipped: dict[str, int], votes: int, weight: int
) -> None:
    ballots = read_ballots(shared_data / name)
    assert (ballots.rows, ballots.skipped, ballots.dropped) == (rows, skipped, {})
    assert len(ballots) == rows - sum(skipped.values())
    assert sum(len(ballot.votes) for ballot in ballots) == votes
    assert sum(vote.weight for ballot in ballots for vote in ballot.votes) == pytest.approx(weight)


def test_mt_bench_gives_eighty_single_turns(shared_data: Path) -> None:
    prompts = read_prompts(shared_data / "mtbench_question.jsonl")
    assert len(prompts) == 80
    assert all(isinstance(prompt, tuple) and [turn.role for turn in prompt] == ["user"] for prompt in prompts)


def test_the_page_of_formats_shows_examples() -> None:
    assert len(EXAMPLES) >= 14
    assert len(PROMPT_EXAMPLES) == 3


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_on_the_page_reads_as_a_ballot_about_a_river_or_bread(tmp_path: Path, line: str) -> None:
    path = tmp_path / "example.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    (ballot,) = read_ballots(path)
    assert max(ballot.votes[0].p, 1 - ballot.votes[0].p) > 0.5
    better = ballot.responses[ballot.votes[0].a if ballot.votes[0].p > 0.5 else ballot.votes[0].b]
    assert better in ("The Nile.", "Nile.", "bread")


@pytest.mark.parametrize("line", PROMPT_EXAMPLES)
def test_every_prompt_on_the_page_reads(tmp_path: Path, line: str) -> None:
    path = tmp_path / "example.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert read_prompts(path) in (("Name a river.",), (user("Name a river."),))


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
def test_a_parquet_file_is_read_without_threads_which_abort_a_process_that_ends_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(as_parquet([GOOD]))
    code = (
        "import os, sys, pyarrow.parquet, preftune.data.reading as r\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = threads(); r.read_ballots(sys.argv[1]); sys.exit(threads() - before)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_reading_leaves_torch_unloaded(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(as_parquet([GOOD]))
    code = "import sys, preftune.data.reading as r; r.read_ballots(sys.argv[1]); sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False).returncode == 0
