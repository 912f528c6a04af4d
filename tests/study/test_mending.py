"""What a study had finished and has no longer whole is made again, and comes out the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from running import contents
from studies import QUICK, WORDS, make_ballots

from preftune.errors import UserError
from preftune.study import compare

assert WORDS  # the words of the model

HOW: dict[str, Any] = QUICK | {"betas": [0.5], "kind": "frozen", "max_new_tokens": 3, "epochs": 1.0}
SAME = (".safetensors", "results.jsonl", "metrics.jsonl", "verdict.json")


def study(model: str, out: Path) -> None:
    compare("dpo,amortized-ipo", make_ballots(), model=model, out=out, **HOW)


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "whole"
    study(model, folder)
    return folder


def left(folder: Path) -> dict[str, str]:
    return {name: content for name, content in contents(folder).items() if name.endswith(SAME[:2] + SAME[3:])}


RUN = "runs/amortized-ipo-beta0.5-seed0"
CUT = {
    "results.jsonl": "dpo-beta0.5-seed0: its row of results at step",
    "samples.jsonl": "lacks samples of",
    f"{RUN}/policy/model.safetensors": "amortized-ipo-beta0.5-seed0: policy/model.safetensors is not what was written",
    f"{RUN}/metrics.jsonl": "metrics.jsonl is not what was written",
    f"{RUN}/run.json": "run.json is not what was written",
    "rewards/seed0/reward/reward.safetensors": "reward/reward.safetensors is not what was written",
    "rewards/seed0/done.json": "",
    "clock.json": "cannot be read",
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_was_cut_is_made_again(
    name: str, model: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    path = out / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    if name.startswith("rewards"):
        (out / RUN / "run.json").unlink()  # nobody reads a reward model for runs that are there
    study(model, out)
    assert left(out) == left(whole)
    said = capsys.readouterr().err.replace("\n", " ")
    assert CUT[name] in said
    assert not list(out.rglob("state"))


def test_what_a_study_declared_is_not_made_again(model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "study.json").write_bytes((out / "study.json").read_bytes()[:100])
    before = contents(out)
    with pytest.raises(UserError, match=r"study.json is not JSON .*put a copy of it back, or begin again"):
        study(model, out)
    assert contents(out) == before
