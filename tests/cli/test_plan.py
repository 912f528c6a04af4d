"""`preftune plan` as a person meets it: what it says of runs, sharing, time and sight; nothing is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import studies
from studies import make_ballots

from preftune.cli.parser import COMMANDS
from preftune.cli.plan import duration

Call = Callable[..., tuple[int, str, str]]
WORDS = studies.WORDS  # of the tiny model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"prompt": b.prompt, "chosen": b.responses[0], "rejected": b.responses[1]} for b in make_ballots()]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def plan(monkeypatch, run: Call, model: str, data: Path, tmp_path: Path) -> Call:
    """Run `plan` on the tiny model: (exit code, standard output, standard error)."""

    def call(*flags: str) -> tuple[int, str, str]:
        given = ["--model", model, "--data", str(data), "--out", str(tmp_path / "out"), "--max-length", "24"]
        short = ["--max-new-tokens", "6", "--batch-size", "8", "--device", "cpu"]
        monkeypatch.setenv("COLUMNS", "160")
        return run("plan", *given, *short, *flags)

    return call


def test_it_says_runs_sharing_time_memory_and_sight_and_writes_nothing(plan: Call, tmp_path: Path) -> None:
    code, out, error = plan("--methods", "dpo,ipo,sft", "--betas", "0.1,0.5", "--seeds", "0,1")
    assert code == 0, error
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ") and line.strip()}
    assert {"dpo", "ipo", "sft"} <= rows.keys() and "10 runs on" in out
    for says in (
        "reference log-probs",
        "responses a second",
        "kept in fp32",
        "peak memory",
        "left to do",
        "extrapolation",
    ):
        assert says in out
    assert re.search(r"dpo and ipo, 8 run ends: a difference of [\d.]+ σ is found in four of five", out)
    assert "dpo and sft, 6 run ends" in out and "judge" in out and not (tmp_path / "out").exists()


def test_a_plan_that_cannot_tell_arms_apart_says_what_to_add(plan: Call) -> None:
    code, out, _ = plan("--methods", "dpo,ipo", "--betas", "0.1")
    assert code == 0 and "this plan cannot tell arms apart: dpo and ipo: too few runs" in out
    assert "to be sure of an answer: 3 seeds of every run, or more β" in out
    code, out, _ = plan("--methods", "dpo")
    assert code == 0 and "there is one arm; add another" in out
    code, out, _ = plan("--methods", "dpo,ipo", "--betas", "0.1,0.5", "--seeds", "0,1", "--samples", "0")
    assert code == 0 and "to change that: --samples 1 or more" in out


def test_a_folder_that_compare_would_refuse_is_refused_in_one_line(plan: Call, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    code, out, error = plan("--methods", "dpo")
    assert code == 2 and out == "" and "is not empty" in error.splitlines()[-1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_it_takes_the_flags_of_compare() -> None:
    assert COMMANDS["plan"].required == COMMANDS["compare"].required
    wanted = [name for name in COMMANDS["compare"].flags if name not in ("until", "hours")]
    assert COMMANDS["plan"].flags == wanted


def test_a_time_in_words() -> None:
    assert [duration(s) for s in (0.03, 4.2, 41, 99, 400, 7800)] == [
        "0.03 s",
        "4 s",
        "41 s",
        "99 s",
        "7 min",
        "2 h 10 min",
    ]
