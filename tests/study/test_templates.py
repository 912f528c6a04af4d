"""Chat templates as they are, in every command: what one refuses is counted, and what it is told is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_model, template

from preftune.data.ballots import Message
from preftune.data.reading import read_ballots, write_ballots
from preftune.data.templates import REFUSED
from preftune.errors import UserError
from preftune.model.loading import load_base
from preftune.study.policies import evaluate_folders, sample_folders
from preftune.study.single import train
from preftune.study.study import compare

CASES = Path(__file__).parents[1] / "data" / "chats"
QUICK: dict[str, Any] = {"steps": 1, "device": "cpu", "max_length": 256}
ASKED = (Message("user", "2+2?"),)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def gemma_like(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("gemma"), "smollm", template("gemma_like"))


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("qwen"), "qwen_3")


@pytest.mark.parametrize("case", ["alignment-handbook-93.jsonl", "alignment-handbook-123.jsonl"])
def test_what_the_template_refuses_is_counted_in_train_compare_and_evaluate_alike(
    case: str, gemma_like: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_ballots(CASES / case)
    run = train("dpo", rows, model=gemma_like, beta=0.1, out=tmp_path / "run", **QUICK)
    assert run.record["data"]["ballots"] == 6
    assert {reason.startswith(REFUSED): n for reason, n in run.record["data"]["skipped"].items()} == {True: 6}
    given = {"betas": [0.1], "max_new_tokens": 2, "checkpoints": 1, "eval_fraction": 0.5, **QUICK}
    data = compare("dpo", rows, model=gemma_like, out=tmp_path / "study", **given).study.info["data"]
    assert data["ballots_train"] + data["ballots_eval"] == 6 and sum(data["skipped"].values()) == 6
    refused = sum(n for reason, n in data["shortened"].items() if reason.startswith(f"evaluation prompts, {REFUSED}"))
    assert data["prompts_eval"] == data["ballots_eval"] and data["prompts_eval"] + refused == 6
    capsys.readouterr()
    write_ballots(rows, tmp_path / "asked.jsonl")
    asked = {"data": str(tmp_path / "asked.jsonl"), "max_new_tokens": 2, "max_length": 256, "device": "cpu"}
    evaluate_folders([gemma_like], reference=gemma_like, **asked)
    told = capsys.readouterr().err
    assert "6 ballots, 6 prompts; skipped or shortened: 6 × " in told and "6 × evaluation prompts, " in told


def test_prompts_that_the_template_refuses_one_and_all_are_a_users_mistake(gemma_like: str, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text('{"prompt": [{"role": "system", "content": "Be brief."}]}\n')
    with pytest.raises(UserError, match=f"--prompts: none of them can be asked .*{REFUSED}"):
        evaluate_folders([gemma_like], reference=gemma_like, prompts=str(tmp_path / "asked.jsonl"), device="cpu")


def test_a_prompt_that_a_policys_template_refuses_is_a_users_mistake(tmp_path: Path) -> None:
    refusing = save_model(tmp_path / "model", "smollm", "{{ raise_exception('nobody') }}")
    with pytest.raises(UserError, match=f"{refusing}: {REFUSED}.*nobody"):
        sample_folders([refusing], prompt="x", device="cpu")


def test_options_of_the_template_are_kept_by_the_run_and_its_policy_and_asked_with_again(
    thinking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_ballots(CASES / "alignment-handbook-93.jsonl")
    options = {"template_options": "enable_thinking=false"}
    run = train("dpo", rows, model=thinking, beta=0.1, out=tmp_path / "run", **options, **QUICK)
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["template_options"] == "enable_thinking=false" and run.record["data"]["ballots"] == 12
    form = load_base(str(tmp_path / "run" / "policy"), device=torch.device("cpu")).form
    assert form.tokenizer.decode(form.prompt(ASKED)).endswith("<think>\n\n</think>\n\n")
    seen = watch_prompts(monkeypatch)
    (tmp_path / "asked.jsonl").write_text('{"prompt": [{"role": "user", "content": "hello"}]}\n')
    asked = {"prompts": str(tmp_path / "asked.jsonl"), "max_new_tokens": 2, "max_length": 256, "device": "cpu"}
    evaluate_folders([str(tmp_path / "run")], **asked)
    assert seen() and all(form.tokenizer.decode(ids).endswith("</think>\n\n") for ids in seen())
    train("dpo", rows, model=thinking, beta=0.1, out=tmp_path / "other", **QUICK)
    both = [str(tmp_path / "run"), str(tmp_path / "other")]
    with pytest.raises(UserError, match="evaluate: the policies were trained with '' and 'enable_thinking=false'"):
        evaluate_folders(both, **asked)
    evaluate_folders(both, template_options="", **asked)


def watch_prompts(patch: pytest.MonkeyPatch) -> Callable[[], list[tuple[int, ...]]]:
    """What `evaluate` asks from here on, as token ids."""
    from preftune.study import policies

    asked: list[tuple[int, ...]] = []
    real = policies.make_questions

    def watched(*given: Any) -> Any:
        questions, cuts = real(*given)
        asked.extend(questions.prompts)
        return questions, cuts

    patch.setattr(policies, "make_questions", watched)
    return lambda: asked


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("enable_thinking", "--template-options enable_thinking: write name=value"),
        ("deep=1", "--template-options deep: the chat template of --model .* does not read it"),
    ],
)
def test_a_wrong_option_of_the_template_is_one_line(options: str, reason: str, thinking: str, tmp_path: Path) -> None:
    rows = read_ballots(CASES / "alignment-handbook-93.jsonl")
    out = tmp_path / "run"
    with pytest.raises(UserError, match=reason):
        train("dpo", rows, model=thinking, beta=0.1, out=out, template_options=options, **QUICK)
    assert not out.exists()


def test_a_reference_that_is_none_is_reported_as_such(thinking: str, tmp_path: Path) -> None:
    rows, out = read_ballots(CASES / "alignment-handbook-93.jsonl"), tmp_path / "run"
    with pytest.raises(UserError, match=r"^--reference nope: not a causal language model.*no local folder"):
        train("dpo", rows, model=thinking, reference="nope", beta=0.1, out=out, **QUICK)
    with pytest.raises(UserError, match=r"^--reference nope: "):
        evaluate_folders([thinking], reference="nope", data=str(CASES / "alignment-handbook-93.jsonl"), device="cpu")
    assert not out.exists()
