"""Leaks are loud: evaluation prompts that were trained on are found by content, whatever learned from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama

from preftune.data.ballots import Ballot, Message, Prompt, Vote
from preftune.data.leaks import kept_digests, prompt_digest, prompt_digests
from preftune.data.reading import read_ballots, write_ballots
from preftune.errors import UserError
from preftune.evidence import read_study, verdict
from preftune.study.overlap import check_overlap, trained_on
from preftune.study.policies import evaluate_folders
from preftune.study.single import train
from preftune.study.study import compare

CASES = Path(__file__).parents[1] / "data" / "chats"
WORDS = ["Say", "number", *(f"{n}." for n in range(20)), *map(str, range(20)), "no", "other"]
QUICK: dict[str, Any] = {"steps": 1, "device": "cpu", "max_length": 24}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("model"), WORDS)


@pytest.fixture(scope="module")
def training() -> Sequence[Ballot]:
    return read_ballots(CASES / "OpenRLHF-1089-train.jsonl")


@pytest.fixture(scope="module")
def repeated() -> Sequence[Ballot]:
    return read_ballots(CASES / "OpenRLHF-1089-eval.jsonl")


@pytest.fixture(scope="module")
def run(model: str, training: Sequence[Ballot], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run on the training file."""
    out = tmp_path_factory.mktemp("run") / "r1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(out.parent / "cache"))
        train("dpo", training, model=model, beta=0.1, out=out, lora=2, **QUICK)
    yield out


def others(count: int) -> list[Ballot]:
    return [Ballot(f"other {n}", (str(n), "no"), (Vote(0, 1, 1.0),)) for n in range(count)]


def refused(reason: str, call: Any) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- what counts as the same prompt ----------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_prompt_is_the_same_as_text_and_as_a_chat_and_whatever_its_white_space(text: str) -> None:
    chat: Prompt = (Message("user", f"  {text}\n"),)
    spaced = "\t\n ".join(["", *text.split(), ""])
    assert prompt_digest(text) == prompt_digest(chat) == prompt_digest(spaced)


def test_prompts_that_say_something_else_are_told_apart() -> None:
    prompts: list[Prompt] = ["a b", "ab", "A b", "a b.", (Message("system", "a"), Message("user", "b"))]
    prompts += [(Message("user", "a"), Message("assistant", "b")), (Message("assistant", "a b"),)]
    assert len(prompt_digests(prompts)) == len(prompts)


def test_a_set_that_shares_nothing_gets_no_caveat(training: Sequence[Ballot]) -> None:
    assert check_overlap({"--prompts": ["new"]}, trained_on(training), allowed=False) == []
    assert check_overlap({"--prompts": []}, trained_on(training), allowed=False) == []


# --- in every command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_train_refuses_eval_data_that_repeat_training_prompts_with_the_number(
    method: str, model: str, training: Sequence[Ballot], repeated: Sequence[Ballot], tmp_path: Path
) -> None:
    out, beta = tmp_path / "out", None if method == "reward" else 0.1
    mixed = [*repeated, *others(2)]
    refused(
        r"--eval-data: 5 of 7 prompts are also in the training data \(such as 'Say number 0.'\).*--allow-overlap",
        lambda: train(method, training, model=model, beta=beta, eval_ballots=mixed, out=out, **QUICK),
    )
    assert not out.exists()


def test_train_keeps_them_where_it_is_told_to_and_the_run_says_so(
    model: str, training: Sequence[Ballot], repeated: Sequence[Ballot], tmp_path: Path
) -> None:
    given = {"model": model, "beta": 0.1, "eval_ballots": repeated, "out": tmp_path / "out", **QUICK}
    record = train("dpo", training, allow_overlap=True, **given).record
    assert record["held_out"]["accuracy"]["value"] is not None
    (caveat,) = json.loads((tmp_path / "out" / "run.json").read_text())["caveats"]
    assert caveat.startswith("Not held out: of --eval-data, 5 of 5 prompts are also in the training data")


def test_compare_refuses_them_and_prompts_too_or_says_so_in_the_verdict_and_the_report(
    model: str, training: Sequence[Ballot], repeated: Sequence[Ballot], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": model, "betas": [0.1], "max_new_tokens": 2, "checkpoints": 1, **QUICK}
    out = tmp_path / "study"
    refused("--eval-data: 5 of 5", lambda: compare("dpo", training, eval_ballots=repeated, out=out, **given))
    asked = ["Say number 3.", "other 1"]
    refused(
        "--prompts: 1 of 2 prompts",
        lambda: compare("dpo", training, eval_ballots=others(3), prompts=asked, out=out, **given),
    )
    assert not out.exists()
    study = compare("dpo", training, eval_ballots=repeated, allow_overlap=True, out=out, **given)
    found = verdict(read_study(out)).caveats
    assert any(caveat.startswith("Not held out: of --eval-data, 5 of 5 prompts") for caveat in found)
    assert "Not held out" in study.report().read_text(encoding="utf-8")
    policy = next((out / "runs").iterdir())
    assert kept_digests(policy) == prompt_digests(ballot.prompt for ballot in training)


def test_evaluate_knows_what_the_policies_were_trained_on(
    run: Path, repeated: Sequence[Ballot], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ballots([*repeated, *others(2)], tmp_path / "asked.jsonl")
    given: dict[str, Any] = {"data": str(tmp_path / "asked.jsonl"), "samples": 0, "max_length": 24, "device": "cpu"}
    refused(f"--data: 5 of 7 prompts are also in what {run}", lambda: evaluate_folders([str(run)], **given))
    evaluate_folders([str(run)], allow_overlap=True, **given)
    assert "Not held out" in capsys.readouterr().out
    write_ballots(others(4), tmp_path / "asked.jsonl")
    evaluate_folders([str(run)], **given)
    assert "Not held out" not in capsys.readouterr().out


@pytest.mark.parametrize("start", ["policy", "adapter"])
def test_a_policy_that_starts_from_a_trained_one_inherits_its_prompts(
    start: str, run: Path, repeated: Sequence[Ballot], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": str(run / start), "beta": 0.1, "out": tmp_path / "second", **QUICK}
    refused(
        f"--eval-data: 5 of 5 prompts are also in what {run / start} learned from",
        lambda: train("dpo", others(4), eval_ballots=repeated, **given),
    )
    train("dpo", others(4), **given)
    kept = kept_digests(tmp_path / "second")
    assert kept is not None and kept > prompt_digests(ballot.prompt for ballot in repeated)


def test_a_reward_model_keeps_what_it_was_trained_on(
    model: str, training: Sequence[Ballot], repeated: Sequence[Ballot], tmp_path: Path
) -> None:
    reward = tmp_path / "reward"
    train("reward", training, model=model, kind="frozen", eval_fraction=0.0, out=reward, **QUICK)
    assert kept_digests(reward) == kept_digests(reward / "reward") == prompt_digests(b.prompt for b in training)
    refused(
        "--eval-data: 5 of 5",
        lambda: train(
            "rloo",
            others(4),
            model=model,
            beta=0.1,
            reward=reward,
            eval_ballots=repeated,
            out=tmp_path / "o",
            max_new_tokens=2,
            **QUICK,
        ),
    )
