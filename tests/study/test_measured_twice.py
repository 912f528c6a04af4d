"""What a study says of its policies, another process says too, from the saved folders and with nothing stored.

And what is stored as the reference's is what a fresh base model says, whatever was done before.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import watch_steps
from tiny import tiny_llama
from transformers import AutoModelForCausalLM

from preftune.data.ballots import Ballot, Vote, split_by_prompt
from preftune.data.reading import read_ballots, write_ballots
from preftune.data.tokens import TokenBallot, tokenize
from preftune.data.votes import score_table
from preftune.errors import UserError
from preftune.evidence.agreement import quality
from preftune.judges.judge import Judge
from preftune.model.doctor import check_stores
from preftune.model.loading import load_base
from preftune.model.rewards import score_ballots
from preftune.model.stores import Store, cache_folder, read_key, response_keys, stores_folder
from preftune.model.workbench import open_workbench
from preftune.study.policies import evaluate_folders
from preftune.study.single import train
from preftune.study.study import compare
from preftune.training.run import open_reward

WORDS = list("abcdefghij")
ARMS = "dpo,ipo,amortized-ipo,sft,ppo,rloo"
TRAINED = {
    **{"lr": 3e-3, "batch_size": 8, "steps": 6, "max_length": 24, "device": "cpu", "micro_tokens": 64},
}
SAMPLED = {"max_new_tokens": 5, "rollouts": 3, "inner_epochs": 2}  # and what ppo and rloo read beside it
VALIDATION = 0.2


def score(response: str) -> float:
    return response.count("a") - response.count("b") + 0.1 * response.count("c")


JUDGE = Judge("gold", "letters", lambda prompts, responses: [score(text) for text in responses])


def make_ballots(count: int, seed: int) -> list[Ballot]:
    """Three responses to each of `count` distinct prompts, all pairs voted on by the letters that they hold."""
    rng = random.Random(seed)
    prompts = rng.sample([f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS], count)
    ballots = []
    for prompt in prompts:
        responses = tuple({" ".join(rng.choices(WORDS, k=rng.randint(2, 4))): None for _ in range(4)})[:3]
        pairs = [(i, j) for i in range(3) for j in range(i)]
        votes = tuple(Vote(i, j, 1 / (1 + math.exp(score(responses[j]) - score(responses[i])))) for i, j in pairs)
        ballots.append(Ballot(prompt, responses, votes))
    return ballots


AGAIN = """
import json, sys
from pathlib import Path
sys.path[:0] = {tests!r}
from test_measured_twice import measure_again
print(json.dumps(measure_again(*{arguments!r})))
"""


def in_another_process(cache: Path, *arguments: object) -> Any:
    """`measure_again` in a process with nothing stored."""
    script = AGAIN.format(tests=[str(Path(__file__).parents[1]), str(Path(__file__).parent)], arguments=arguments)
    environment = os.environ | {"PREFTUNE_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def measure_again(study: str, model: str, held_out: str, validation: str) -> dict[str, Any]:
    """What `evaluate` says of every policy of a folder, by run; and of the reward model of its first seed."""
    folders = sorted(str(path.parent) for path in Path(study).glob("runs/*/run.json"))
    reward = Path(study) / "rewards" / "seed0"
    shared = {"reference": model, "samples": 2, "max_new_tokens": 5, "max_length": 24, "device": "cpu"}
    shared |= {"micro_tokens": 64, "judge": JUDGE, "reward": str(reward) if reward.exists() else None}
    on_prompts = evaluate_folders(folders, data=held_out, **shared)
    on_validation = evaluate_folders(folders, data=validation, **shared | {"samples": 0})
    found = {}
    for row, other in zip(on_prompts, on_validation, strict=True):
        names = ("kl", "length", "reward", "gain", "win_rate", "accuracy", "log_loss")
        found[row.run] = {name: getattr(row, name) for name in names}
        found[row.run] |= {"validation": other.log_loss, "proxy": row.extra.get("proxy")}
    return found | ({"reward model": reward_again(reward, model, held_out)} if reward.exists() else {})


def reward_again(folder: Path, model: str, held_out: str) -> dict[str, Any]:
    """Accuracy and log-loss of a reward model, read from its folder, on held-out votes."""
    bench = open_workbench(model, device="cpu")
    ballots = tokenize(read_ballots(held_out), bench.base.form, max_length=24).ballots
    reward = open_reward(folder, bench)
    scores = score_ballots(reward.scores, ballots, bench, 64)
    return quality(score_table(np.concatenate(scores), ballots))


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "kind"), [(0, "frozen"), (0, "full"), (4, "lora")])
def test_a_study_and_a_fresh_process_measure_the_same(lora: int, kind: str, model: str, tmp_path: Path) -> None:
    ballots, held_out = make_ballots(30, 1), make_ballots(16, 3)
    study = compare(
        ARMS,
        ballots,
        model=model,
        betas=[0.3],
        eval_ballots=held_out,
        validation_fraction=VALIDATION,
        samples=2,
        checkpoints=2,
        judge=JUDGE,
        kind=kind,
        lora=lora,
        out=tmp_path / "study",
        **TRAINED,
        **SAMPLED,
    )
    assert not study.failed
    validation = split_by_prompt(ballots, VALIDATION, seed=1)[1]
    write_ballots(held_out, tmp_path / "held-out.jsonl")
    write_ballots(validation, tmp_path / "validation.jsonl")
    files = (str(tmp_path / name) for name in ("held-out.jsonl", "validation.jsonl"))
    again = in_another_process(tmp_path / "fresh", str(tmp_path / "study"), model, *files)
    info = json.loads((tmp_path / "study" / "rewards" / "seed0" / "reward" / "reward.json").read_text())["info"]
    for name, estimate in again.pop("reward model").items():
        assert estimate["value"] == pytest.approx(info["held_out"][name]["value"], abs=1e-5), name
    finals = study.study.finals()
    assert {row.method for row in finals} == set(ARMS.split(","))
    for row in finals:
        told = {name: getattr(row, name) for name in again[row.run] if name != "proxy"} | {"proxy": row.extra["proxy"]}
        assert told == {name: pytest.approx(value, abs=1e-5) for name, value in again[row.run].items()}, row.run
        assert row.accuracy == pytest.approx(again[row.run]["accuracy"], abs=1e-12), row.run
    assert len({row.accuracy for row in finals}) > 2 and all((row.kl or 0) > 1e-3 for row in finals)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_a_run_and_a_fresh_process_measure_the_same(method: str, lora: int, model: str, tmp_path: Path) -> None:
    held_out = make_ballots(16, 3)
    out = tmp_path / "runs" / "one"
    own = {**TRAINED, **(SAMPLED if method == "ppo" else {})}
    run = train(method, make_ballots(30, 1), model=model, beta=0.3, eval_ballots=held_out, lora=lora, out=out, **own)
    write_ballots(held_out, tmp_path / "held-out.jsonl")
    files = (str(tmp_path / "held-out.jsonl"),) * 2
    again = in_another_process(tmp_path / "fresh", str(tmp_path), model, *files)["one"]
    assert run.record["held_out"]["accuracy"]["value"] == again["accuracy"]
    assert run.record["held_out"]["log_loss"]["value"] == pytest.approx(again["log_loss"], abs=1e-5)


def plain_logprobs(model: str, ballots: Sequence[TokenBallot]) -> dict[bytes, float]:
    """log π_ref of every response by a fresh model, one plain sequence after the other, in float64."""
    fresh = AutoModelForCausalLM.from_pretrained(model).double()
    found = {}
    for ballot in ballots:
        for key, response in zip(response_keys(ballot), ballot.responses, strict=True):
            with torch.no_grad():
                logits = fresh(torch.tensor([ballot.prompt + response])).logits[0].log_softmax(-1)
            rows = range(len(ballot.prompt) - 1, len(ballot.prompt) + len(response) - 1)
            found[key] = float(logits[rows, response].sum())
    return found


def differences_of(model: str) -> list[float]:
    """Every log-prob of the tests' ballots that is stored, less what a fresh model says."""
    form = load_base(model, device=torch.device("cpu")).form
    ballots = [ballot for seed in range(3, 13) for count in (6, 12) for ballot in make_ballots(count, seed)]
    fresh = plain_logprobs(model, tokenize(ballots, form, max_length=24).ballots)
    found = []
    for path in stores_folder().glob("*.sqlite"):
        key = read_key(path)
        assert key is not None
        found += [value - fresh[name] for name, value in Store(path.parent, key).logprobs(list(fresh)).items()]
    return found


COMMANDS = {
    "train dpo": lambda model, out: train("dpo", make_ballots(12, 3), model=model, beta=0.3, out=out, **TRAINED),
    "train dpo, adapter": lambda model, out: train(
        "dpo", make_ballots(12, 4), model=model, beta=0.3, lora=4, eval_fraction=0.3, out=out, **TRAINED
    ),
    "train ppo, adapter": lambda model, out: train(
        "ppo", make_ballots(12, 5), model=model, beta=0.3, lora=4, eval_fraction=0.3, out=out, **TRAINED, **SAMPLED
    ),
    "train amortized-ipo, adapter": lambda model, out: train(
        "amortized-ipo",
        make_ballots(12, 6),
        model=model,
        beta=0.3,
        lora=4,
        extra_responses=2,
        max_new_tokens=5,
        out=out,
        **TRAINED,
    ),
    "train reward, adapter": lambda model, out: train(
        "reward", make_ballots(12, 7), model=model, lora=4, out=out, steps=3, device="cpu"
    ),
    "compare, adapters": lambda model, out: compare(
        "dpo,sft,rloo,best-of-n",
        make_ballots(12, 8),
        model=model,
        betas=[0.3],
        eval_ballots=make_ballots(6, 9),
        validation_fraction=0.2,
        lora=4,
        kind="lora",
        checkpoints=2,
        out=out,
        rollouts=3,
        max_new_tokens=5,
        **TRAINED,
    ),
    "a study whose first run fails": lambda model, out: failing_study(model, out),
    "a run that fails": lambda model, out: failing_run(model, out),
}


class Broken(Exception):
    """What stops a run half-way below."""


def break_once(patch: pytest.MonkeyPatch, step: int) -> None:
    """The first training that makes this step dies of it."""
    broken: list[int] = []

    def after(number: int) -> None:
        if number == step and not broken:
            broken.append(number)
            raise Broken("half-way")

    watch_steps(patch, after=after)


def failing_run(model: str, out: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Broken):
        break_once(patch, 2)
        train("ipo", make_ballots(12, 10), model=model, beta=0.3, lora=4, eval_fraction=0.3, out=out, **TRAINED)


def failing_study(model: str, out: Path) -> None:
    """The first run fails after its first checkpoint, the second is made in the same process, on the same base."""
    with pytest.MonkeyPatch.context() as patch:
        break_once(patch, 4)
        study = compare(
            "dpo,ipo",
            make_ballots(12, 11),
            model=model,
            betas=[0.3],
            eval_ballots=make_ballots(6, 12),
            lora=4,
            checkpoints=2,
            max_new_tokens=5,
            out=out,
            **TRAINED,
        )
    assert study.failed == {"dpo-beta0.3-seed0": "Broken: half-way"}
    assert [row.run for row in study.study.finals() if row.step == TRAINED["steps"]] == ["ipo-beta0.3-seed0"]


@pytest.mark.slow
@pytest.mark.parametrize("order", [0, 1])
def test_what_is_stored_is_the_references_whatever_was_done(
    order: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    names = list(COMMANDS)
    random.Random(order).shuffle(names)
    for number, name in enumerate(names):
        COMMANDS[name](model, tmp_path / f"out{number}")
    differences = differences_of(model)
    assert len(differences) > 200 and max(map(abs, differences)) < 2e-5
    checked = check_stores(device="cpu")
    assert checked and not any(one.wrong or one.unchecked for one in checked)
    assert sum(one.checked for one in checked) >= 32


def test_the_doctor_finds_what_is_wrong_and_says_what_it_cannot_check(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    gone = tiny_llama(tmp_path / "gone", WORDS, seed=1)
    for start in (model, gone):
        name = Path(start).name
        train("dpo", make_ballots(12, 3), model=start, beta=0.3, out=tmp_path / f"run-{name}", **TRAINED)
    (Path(gone) / "config.json").unlink()
    (stores_folder() / "strange.sqlite").write_text("no database")
    checked = {one.path.stem: one for one in check_stores(device="cpu")}
    assert checked["strange"].unchecked == "no store of this version"
    unchecked = next(one for one in checked.values() if one.model == gone)
    assert "no model there" in unchecked.unchecked and not unchecked.checked
    right = next(one for one in checked.values() if one.model == model)
    assert right.checked >= 10 and not right.wrong and right.worst < 1e-4

    key = read_key(right.path)
    assert key is not None
    store = Store(right.path.parent, key)
    with store._open() as database:
        database.execute("UPDATE logprobs SET value = value + 0.07")
    again = next(one for one in check_stores(device="cpu") if one.model == model)
    assert again.wrong == again.checked and again.worst == pytest.approx(0.07, abs=1e-4)
    with pytest.raises(UserError, match=r"log-ratio of -0\.07 nats.*doctor --stores"):
        train("dpo", make_ballots(12, 3), model=model, beta=0.3, out=tmp_path / "poisoned", **TRAINED)
    assert not (tmp_path / "poisoned" / "run.json").exists()
    assert cache_folder() in right.path.parents
