"""Pages for people on the command line: mistakes in one line, and a session from the command to the ballots."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_study import write_synthetic_study
from tiny import WORDS as WORDS

from preftune.people import choosing as people_choosing
from preftune.people import folders as people_folders
from preftune.people.choosing import FEWEST
from preftune.people.desk import Desk
from preftune.people.store import VOTE, Said

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Ask {k}", "a": f"one {k}", "b": f"two {k}"} for k in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ann_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of a server: ann takes the first response of three pairs."""

    def serve(store, pairs, standing, address, *, share, name=""):
        desk = Desk(store, pairs, share)
        for pair in desk.offer("ann", 3, ()):
            desk.say(Said(pair.id, "ann", pair.id, VOTE, pair.names[0], ms=3000))

    monkeypatch.setattr(people_folders, "serve", serve)


def until(true: Callable[[], object]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < 60
        time.sleep(0.01)


def refused(run: Run, *arguments: object) -> str:
    code, printed, said = run(*arguments)
    (line,) = said.strip().splitlines()
    assert code == 2 and not printed and line.startswith("preftune: ")
    return line


def test_votes_from_the_command_to_the_ballots_and_what_is_said_of_them(
    run: Run, pairs: Path, tmp_path: Path, ann_votes: None
) -> None:
    out = tmp_path / "labels"
    code, printed, _ = run("label", pairs, "--out", out, "--by", "ann")
    assert code == 0 and "labelled.jsonl: 3 votes on 3 ballots" in printed
    code, printed, _ = run("people", "show", out)
    assert code == 0 and "3 votes on 3 of 6 pairs" in printed and "ann" in printed and "3.0" in printed
    assert run("people", "leave-out", out, "ann")[:2] == (0, "ann: left out; exports are written anew\n")
    assert run("people", "show", out)[1].endswith("ann: left out\n")
    assert (out / "labelled.jsonl").read_text() == ""
    assert run("people", "count-in", out, "ann")[0] == 0 and len((out / "votes.jsonl").read_text().splitlines()) == 3
    assert run("people", "export", out)[1].splitlines() == [
        f"{out / 'labelled.jsonl'}: 3 ballots",
        f"{out / 'votes.jsonl'}: 3 votes",
    ]
    assert run("people", "backup", out, tmp_path / "copy")[0] == 0 and (tmp_path / "copy").stat().st_size > 0
    assert "5 rows removed" in run("people", "remove", out, "ann")[1]
    assert run("people", "show", out)[1].startswith("0 votes on 0 of 6 pairs")


def test_an_arena_tells_who_is_who_when_it_ends(run: Run, tmp_path: Path, ann_votes: None) -> None:
    study = write_synthetic_study(tmp_path / "s", prompts=12)
    code, printed, _ = run("arena", study)
    place = study / "arena" / "arms"
    assert code == 0 and "judgements.jsonl: the same votes" in printed and f"preftune people show {place}" in printed
    assert "dpo beside ipo" in run("people", "show", place)[1]


def test_responses_are_drawn_once_and_labelled(
    run: Run, model: str, tmp_path: Path, ann_votes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "labels"
    prompts.write_text("\n".join(f"w{k} w{k + 1}" for k in range(8)))
    given = ("label", prompts, "--model", model, "--out", out, "--max-new-tokens", 5, "--device", "cpu", "--samples", 3)
    code, printed, said = run(*given)
    assert code == 0 and "prompts to label" in said and "3 votes on" in printed
    before = (out / "ballots.jsonl").read_bytes()
    rows = [json.loads(line) for line in before.splitlines()]
    assert rows and all(2 <= len(row["responses"]) <= 3 and not row["votes"] for row in rows)
    monkeypatch.setattr("preftune.study.draw_ballots", None)
    code, _, said = run(*given)
    assert code == 0 and "responses were drawn before" in said and (out / "ballots.jsonl").read_bytes() == before


def test_policies_meet_in_an_arena_of_their_own(run: Run, model: str, tmp_path: Path, ann_votes: None) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"w{k} w{k + 1}" for k in range(6)))
    shutil.copytree(model, tmp_path / "b")
    given = (model, tmp_path / "b", "--reference", model, "--prompts", tmp_path / "prompts.txt")
    code, printed, _ = run("arena", *given, "--out", tmp_path / "o", "--max-new-tokens", 4, "--device", "cpu")
    place = tmp_path / "o" / "arena" / "arms"
    assert code == 0 and f"preftune people show {place}" in printed
    assert f"{Path(model).name} beside b" in run("people", "show", place)[1]
    assert run("report", tmp_path / "o")[0] == 0 and "people" in (tmp_path / "o" / "report.html").read_text()


def test_pairs_are_chosen_by_the_features_of_a_model(
    run: Run, model: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real fit, in the place of a server: votes by length until some pair is chosen."""
    texts = [{"prompt": f"w{k} w{k + 1}", "a": "w1 " * (k % 5 + 1), "b": f"w{k} w2 w3"} for k in range(40)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in texts))

    def serve(store, pairs, standing, address, *, share, name, beside):
        desk = Desk(store, pairs, share)
        with beside(desk):
            for k in range(30):
                if k == FEWEST:
                    until(lambda: desk.queue._preferred)
                (pair,) = desk.offer("ann", 1, ())
                longer = len(pair.texts[1]) > len(pair.texts[0])
                desk.say(Said(str(k), "ann", pair.id, VOTE, pair.names[longer]))

    monkeypatch.setattr(people_folders, "serve", serve)
    monkeypatch.setattr(people_choosing, "PAUSE", 0.01)
    given = ("label", pairs, "--model", model, "--out", tmp_path / "o", "--next", "unsure", "--device", "cpu")
    code, _, said = run(*given)
    assert code == 0 and "features: layer" in said and "v was not fitted" not in said
    lines = [json.loads(line) for line in (tmp_path / "o" / "votes.jsonl").read_text().splitlines()]
    assert {line["asked"] for line in lines} == {"random", "unsure"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["label", "none.jsonl", "--out", "o"], "none.jsonl"),
        (["label", "PAIRS", "--out", "o", "--overlap", 1.5], "--overlap 1.5: must be a share"),
        (["label", "PAIRS", "--out", "o", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 8787: cannot be taken"),
        (["label", "PAIRS", "--out", "o", "--port", 99999], "--port 99999: cannot be taken"),
        (["label", "PAIRS", "--out", "o", "--model", "none"], "none"),
        (["label", "PAIRS", "--out", "o", "--samples", 3], "--samples 3: pairs.jsonl has responses, which are what is"),
        (["label", "PAIRS", "--out", "o", "--model", "m"], "leave it out, or add --next unsure"),
        (
            ["label", "PAIRS", "--out", "o", "--next", "unsure", "--model", "m", "--seed", 1],
            "--seed 1: pairs.jsonl has",
        ),
        (["label", "PAIRS", "--out", "o", "--next", "unsure"], "--next unsure: needs --model, whose features"),
        (["label", "PAIRS", "--out", "o", "--next", "unsur"], "--next unsur: is unknown; did you mean 'unsure'?"),
        (["label", "PAIRS", "--out", "o", "--next", "unsure", "--model", "none"], "none"),
        (["label", "PAIRS", "--out", "PAIRS"], "cannot be made"),
        (["arena", "none"], "none: is no study; to have policies meet, give --prompts FILE and --out DIR"),
        (["arena", "none", "--prompts", "p", "--out", "o"], "none: has no other policy to meet; name two"),
        (["arena", "none", "neither", "--prompts", "p", "--out", "o"], "none: no trained policy there"),
        (["arena", "none", "neither", "--prompts", "p", "--out", "o", "--samples", 1], "--samples 1: must be at least"),
        (["arena", "STUDY", "none"], "s: is a study; name it alone"),
        (["arena", "STUDY", "--samples", 2], "--samples: s is a study, whose samples are there already"),
        (["arena", "none", "--against", "arm"], "--against arm: is unknown; did you mean 'arms'?"),
        (["people", "sho", "o"], "people sho: unknown; did you mean 'show'?"),
        (["people", "show", "o"], "o: holds no votes"),
        (["people", "show", "o", "ann"], "people show: takes the folder alone"),
        (["people", "remove", "o"], "people remove: give the name of a person too"),
        (["people", "backup", "o", "copy"], "there are no votes of people"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").touch()
    names = {"PAIRS": pairs.name, "STUDY": "s"}
    assert told in refused(run, *(names.get(str(one), one) for one in arguments))
    assert not (tmp_path / "copy").exists() and not (tmp_path / "o" / "labelled.jsonl").exists()


def test_a_port_that_is_taken_is_told(run: Run, pairs: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused(run, "label", pairs, "--out", tmp_path / "o", "--port", port)
    assert f"--port {port}: cannot be taken" in told


def test_a_missing_extra_is_one_line_with_the_command(
    run: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("preftune.people.serving.find_spec", lambda name: None if name == "uvicorn" else found(name))
    told = refused(run, "label", pairs, "--out", tmp_path / "o")
    assert told == "preftune: label: needs uvicorn; install what is missing: pip install 'preftune[people]'"
