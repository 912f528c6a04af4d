"""Judges on the command line: every mistake is one line and exit code 2, and nothing is left behind."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_endpoint import Served, question, serving, sure
from studies import WORDS as WORDS
from studies import make_ballots

from preftune.data import write_ballots

Run = Callable[..., tuple[int, str, str]]
QUICK: list[object] = ["--betas", 0.3, "--eval-fraction", 0.3, "--max-new-tokens", 6, "--max-length", 24]
QUICK += ["--checkpoints", 1, "--lr", 0.005, "--device", "cpu"]
TEMPLATE = "$prompt\n$first\n$second\nA or B?"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "ballots.jsonl"
    write_ballots(make_ballots(), path)
    return path


def letters_of_a(body: dict, times: int) -> Served:
    """The answer with more of the letter a is the better one."""
    _, a, b, _ = re.split("Answer A:|Answer B:|Reply with", question(body))
    letter = "A" if a.count("a") >= b.count("a") else "B"
    return Served(body=sure(letter, {letter: 0.9, "AB".replace(letter, ""): 0.1}, model="fake"))


def refused(run: Run, out: Path, *arguments: object) -> str:
    """The one line that a mistake is answered with; nothing is written."""
    code, printed, said = run("compare", *arguments, *QUICK, "--methods", "dpo,ipo", "--out", out)
    lines = said.strip().splitlines()
    assert code == 2 and not printed and lines[-1].startswith("preftune: ")
    assert not (out / "study.json").exists() and "Traceback" not in said
    return lines[-1]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--judge", "gold"], "must be reward, reward:DIR, model:DIR"),
        (["--judge", "reward", "--judge", "reward"], "--judge reward: is named twice"),
        (["--judge", "reward:nowhere"], "--judge reward:nowhere"),
        (["--judge", "model:nowhere"], "--judge model:nowhere"),
        (["--judge", "http://127.0.0.1:9/v1"], "--judge-model NAME"),
        (["--judge-fraction", "0.2"], "--judge-fraction 0.2: no judge has use for it"),
        (["--judge", "reward", "--judge-fraction", "1"], "--judge-fraction 1.0: must be above 0 and below 1"),
        (["--judge", "reward", "--judge-template", "x"], "--judge-template x: no judge has use for it"),
        (["--judge", "reward", "--judge-budget", "9"], "--judge-budget 9: no judge has use for it"),
    ],
)
def test_what_cannot_judge_is_refused_in_a_line(
    run: Run, model: str, data: Path, out: Path, flags: list[str], told: str
) -> None:
    assert told in refused(run, out, "--model", model, "--data", data, *flags)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("$prompt $first", "has no $second, which the judge has to see"),
        ("$prompt", "has no $first and no $second"),
        (TEMPLATE + " $other", "$other is unknown"),
        (TEMPLATE + " costs 5$ ", "a $ stands alone"),
    ],
)
def test_a_template_that_lacks_something_is_refused(
    run: Run, model: str, data: Path, out: Path, tmp_path: Path, template: str, told: str
) -> None:
    path = tmp_path / "template.txt"
    path.write_text(template)
    flags = ["--judge", f"model:{model}", "--judge-template", path]
    line = refused(run, out, "--model", model, "--data", data, *flags)
    assert told in line and str(path) in line


def test_a_judge_whose_server_is_down_is_known_before_anything_is_trained(
    run: Run, model: str, data: Path, out: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    flags = ["--judge", url, "--judge-model", "m"]
    assert url in refused(run, out, "--model", model, "--data", data, *flags)


def test_a_reward_folder_with_a_tokenizer_that_is_not_its_own_is_refused(
    run: Run, model: str, data: Path, out: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "reward"
    code, _, said = run(
        *("train", "reward", "--model", model, "--data", data, "--kind", "full", "--steps", 2, "--max-length", 24),
        *("--device", "cpu", "--out", trained),
    )
    assert code == 0, said
    folder = tmp_path / "other"
    shutil.copytree(trained / "reward", folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    size = len(words["model"]["vocab"])
    words["model"]["vocab"] |= {f"word{i}": size + 500 + i for i in range(3)}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    line = refused(run, out, "--model", model, "--data", data, "--judge", f"reward:{folder}", "--allow-overlap")
    assert f"--judge reward:{folder}" in line


def test_a_study_by_an_endpoint_and_people_on_its_pairs(
    run: Run, model: str, data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way by commands: compare with a judge behind an endpoint, blind pairs, votes, the report."""
    monkeypatch.setenv("PREFTUNE_JUDGE_KEY", "sk-secret")
    with serving(letters_of_a) as server:
        flags = ["--judge", server.url, "--judge-model", "fake", "--samples", 2]
        asking = ["compare", "--model", model, "--data", data, *flags, *QUICK, "--methods", "dpo,ipo", "--out", out]
        code, _, said = run(*asking)
        asked = len(server.bodies)
        assert code == 0 and asked > 0, said
        assert "go to" in said and "sk-secret" not in said
        assert (
            run("compare", "--model", model, "--data", data, *flags, *QUICK, "--methods", "dpo,ipo", "--out", out)[0]
            == 0
        )
        assert len(server.bodies) == asked, "nothing is paid twice"
    assert not any("sk-secret" in path.read_text(errors="ignore") for path in out.rglob("*.json*"))
    pairs = tmp_path / "pairs.jsonl"
    assert run("report", out, "--pairs", pairs)[0] == 0
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    pairs.write_text(
        "".join(json.dumps(row | {"winner": "a" if i % 2 else "tie"}) + "\n" for i, row in enumerate(rows))
    )
    code, printed, _ = run("report", out, "--human-votes", pairs)
    assert code == 0 and f"{len(rows)} votes of people" in printed
    assert "People, and the judge with them" in (out / "report.html").read_text()
    assert run("report", out, "--pairs", pairs)[0] == 2, "a file that is there may hold votes"


def test_votes_on_samples_of_another_study_are_refused_and_nothing_is_kept(
    run: Run, model: str, data: Path, out: Path, tmp_path: Path
) -> None:
    few = ["compare", "--model", model, "--data", data, "--judge", "reward", "--kind", "frozen", *QUICK]
    assert run(*few, "--methods", "dpo,ipo", "--out", out)[0] == 0
    votes = tmp_path / "votes.jsonl"
    votes.write_text('{"pair": "feedfeedfeedfeed", "winner": "a"}\n')
    code, _, said = run("report", out, "--human-votes", votes)
    assert code == 2 and "line 1" in said and "none of this study's" in said
    assert not (out / "human-votes.jsonl").exists()
