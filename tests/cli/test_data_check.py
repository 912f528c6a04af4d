"""`preftune data check` as a person meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROW = {"prompt": "x", "chosen": "a b", "rejected": "c"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text((json.dumps(ROW) + "\n") * 3 + json.dumps(ROW | {"rejected": ""}) + "\n", encoding="utf-8")
    return path


def test_it_says_what_it_found_and_writes_what_was_asked_for(run, data, tmp_path):
    page = tmp_path / "p.html"
    code, said, error = run("data", "check", data, "--html", page)
    assert (code, error) == (0, f"page: {page}\n")
    assert "4 rows · 3 ballots" in said and "an empty response" in said and "data.jsonl:4" in said
    assert "an empty response" in page.read_text()
    assert json.loads(run("data", "check", data, "--json")[1])["rows"] == 4
    assert not list(tmp_path.glob("*.partial"))


def test_strict_is_exit_1_for_a_warning_and_0_without_one(run, data, tmp_path):
    assert run("data", "check", data, "--strict")[0] == 1
    fine = tmp_path / "fine.jsonl"
    fine.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"prompt": "y"}) + "\n")
    assert run("data", "check", fine, "--strict")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "{folder}/none.jsonl"], "no such file"),
        (["check", "{data}", "--html", "{folder}"], "--html"),
        (["check", "{data}", "--html", "{folder}/no/x.html"], "no such folder"),
        (["check", "{data}", "--eval-data", "{folder}/none.jsonl"], "none.jsonl"),
        (["check", "{data}", "--model", "{folder}"], "no tokenizer"),
        (["check", "{data}", "out.jsonl"], "one too many"),
        (["chek", "{data}"], "did you mean data check?"),
        (["convert", "{data}"], "missing: out_file"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_written(arguments, says, run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("data", *(argument.format(folder=tmp_path, data=data) for argument in arguments))
    assert code == 2 and error.count("\n") == 1 and says in error, error
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_model_is_its_tokenizer_alone(run, data, model, tmp_path):
    for weights in Path(model).glob("*.safetensors"):
        weights.rename(tmp_path / weights.name)
    try:
        code, said, error = run("data", "check", data, "--model", model, "--max-length", 3)
    finally:
        for weights in tmp_path.glob("*.safetensors"):
            weights.rename(Path(model) / weights.name)
    assert code == 0 and "--max-length" in said, error
