"""PPO and RLOO with the real training code, in worlds so small that the best policy is known: π* ∝ π_ref·e^{r/β}."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import watch_steps
from safetensors.torch import load_file
from tiny import tiny_llama
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from preftune.data.ballots import Ballot, Vote
from preftune.data.branches import BranchBatch
from preftune.demo.experiment import ONLINE
from preftune.errors import Interrupted, UserError
from preftune.lab import optima
from preftune.lab.worlds import Floats
from preftune.study.single import train
from preftune.training import online
from preftune.training.arms import parse_arm
from preftune.training.settings import Settings

EOS = 0
PROMPTS = ("a b", "b a", "a a b")  # not one token repeated: a model without absolute positions cannot count it


@dataclass(frozen=True)
class KnownReward:
    """r(x, y), a number drawn for every prompt and response: what a reward model that knows the truth would say."""

    sha256: str = "known"

    def of(self, prompt: Sequence[int], response: Sequence[int]) -> float:
        return float(np.random.default_rng([7, *prompt, 99, *response]).normal())

    def scores(self, batch: BranchBatch) -> Tensor:
        ids = batch.ids_RT[0].tolist()
        found = []
        for start, middle, stop in batch.plan.spans:
            inside = (batch.source_N >= start) & (batch.source_N < stop)
            for branch in batch.branch_N[inside].unique().tolist():
                found.append(self.of(ids[start:middle], batch.target_N[batch.branch_N == branch].tolist()))
        return torch.tensor(found)


def ballots() -> list[Ballot]:
    return [Ballot(prompt, ("a", "b"), (Vote(0, 1, 1),)) for prompt in PROMPTS]


def responses(vocabulary: int, length: int) -> list[tuple[int, ...]]:
    """Everything that can be sampled: end-of-text ends a response, and so does the length."""
    words = range(1, vocabulary)
    open_ends = [body for body in product(words, repeat=length)]
    return [(*body, EOS) for n in range(length) for body in product(words, repeat=n)] + open_ends


@torch.no_grad()
def enumerated(folder: str | Path, prompt: Sequence[int], possible: Sequence[tuple[int, ...]]) -> Floats:
    """π(y|x) of every response, each from a plain forward pass of its own."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    logprobs = []
    for response in possible:
        logits = model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
        steps = logits[len(prompt) - 1 : -1]
        logprobs.append(float(steps.gather(1, torch.tensor(response)[:, None]).sum()))
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-5), "these are all responses there are"
    return np.exp(logprobs)


def regrets(run: Path, model: str, beta: float, vocabulary: int, length: int) -> Floats:
    """β·KL(π ‖ π*) of every prompt, in nats."""
    possible, found = responses(vocabulary, length), []
    for prompt in PROMPTS:
        ids = AutoTokenizer.from_pretrained(model)(prompt)["input_ids"]
        reference, policy = enumerated(model, ids, possible), enumerated(run / "policy", ids, possible)
        truth = np.array([KnownReward().of(ids, response) for response in possible])
        found.append(optima.regret(policy, optima.tilt(reference, truth, beta), beta))
    return np.array(found)


EXACT = {"end_penalty": 0.0, "clip_norm": 1e9, "warmup": 0.02, "device": "cpu", "batch_size": 3}


def exact(method: str) -> dict[str, Any]:
    """Nothing that moves the optimum: ppo takes rewards as they are."""
    return EXACT | ({"whiten": False} if method == "ppo" else {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "beta", "lora"), [("ppo", 0.5, 0), ("ppo", 1.0, 0), ("ppo", 0.5, 8), ("rloo", 0.5, 0), ("rloo", 1.0, 0)]
)
def test_one_token_responses_reach_the_optimum(method: str, beta: float, lora: int, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", ["a", "b", "c", "d", "e"])
    options = exact(method) | {"rollouts": 48, "max_new_tokens": 1, "lr": 1e-2, "steps": 30 if method == "ppo" else 100}
    out = tmp_path / "run"
    train(method, ballots(), model=model, beta=beta, out=out, reward=KnownReward(), lora=lora, **options)
    assert regrets(out, model, beta, vocabulary=8, length=1).max() <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("ppo", 120), ("rloo", 300)])
def test_responses_of_several_tokens_reach_the_optimum(method: str, steps: int, tmp_path: Path) -> None:
    """Up to three tokens of a vocabulary of four: 40 responses, some of which end and some of which are cut."""
    model = tiny_llama(tmp_path / "model", ["a"])
    options = exact(method) | {"rollouts": 64, "max_new_tokens": 3, "lr": 5e-3, "steps": steps}
    out = tmp_path / "run"
    train(method, ballots(), model=model, beta=1.0, out=out, reward=KnownReward(), **options)
    assert regrets(out, model, 1.0, vocabulary=4, length=3).mean() <= 0.01


# --- what is promised of every run ------------------------------------------------------------------------------------

SHORT = {"rollouts": 4, "max_new_tokens": 3, "lr": 3e-3, "steps": 4, "batch_size": 2, "device": "cpu", "warmup": 0.1}
WORDS = ["a", "b", "c", "d", "e"]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "policy" / "model.safetensors")


def ask_to_stop(patch: pytest.MonkeyPatch, *, at: int) -> None:
    """Have somebody ask when that step is made."""
    watch_steps(patch, before=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == at else None)


@pytest.mark.parametrize(
    ("method", "options"), [("ppo", {}), ("ppo", {"lora": 4}), ("rloo", {}), ("ppo", {"kl_target": 0.5})]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    method: str, options: dict[str, object], model: str, tmp_path: Path
) -> None:
    """Rollouts, critic, moments and a moving β included; the stop comes between two steps on the same samples."""
    settings = {**SHORT, **options, "model": model, "beta": 0.5, "reward": KnownReward()}
    whole = train(method, ballots(), out=tmp_path / "whole", **settings)
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, at=6 if method == "ppo" else 3)
        with pytest.raises(Interrupted, match="the state is saved"):
            train(method, ballots(), out=tmp_path / "parts", **settings)
    resumed = train(method, ballots(), out=tmp_path / "parts", resume=True, **settings)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(first[name], second[name]) for name in first)

    def told(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in metrics]

    assert told(whole.metrics) == told(resumed.metrics)


def test_a_resumed_run_must_have_the_same_reward(model: str, tmp_path: Path) -> None:
    settings = {**SHORT, "model": model, "beta": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        ask_to_stop(patch, at=1)
        with pytest.raises(Interrupted):
            train("rloo", ballots(), out=tmp_path / "run", reward=KnownReward(), **settings)
    with pytest.raises(UserError, match="another reward"):
        train("rloo", ballots(), out=tmp_path / "run", reward=KnownReward("other"), resume=True, **settings)


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_micro_batches_do_not_change_the_gradient(method: str, model: str, tmp_path: Path) -> None:
    settings = {**SHORT, "model": model, "beta": 0.5, "reward": KnownReward(), "batch_size": 3, "steps": 2}
    for name, size in (("one", 4096), ("many", 1)):
        train(method, ballots(), out=tmp_path / name, micro_tokens=size, **settings)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert all(torch.allclose(one[name], many[name], atol=2e-5) for name in one)


@pytest.mark.parametrize("lora", [0, 4])
def test_policy_and_critic_both_learn_and_the_reference_does_not(lora: int, model: str, tmp_path: Path) -> None:
    found = {}
    real = online.run_session

    def watched(*args: object, parameters: Mapping[str, Tensor], **named: object) -> None:
        before = {name: value.detach().clone() for name, value in parameters.items()}
        real(*args, parameters=parameters, **named)
        found.update({name: not torch.equal(value, before[name]) for name, value in parameters.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online, "run_session", watched)
        train("ppo", ballots(), model=model, beta=0.5, out=tmp_path / "run", reward=KnownReward(), lora=lora, **SHORT)
    critic = {name: moved for name, moved in found.items() if "critic" in name or ".value." in name}
    policy = {name: moved for name, moved in found.items() if name not in critic}
    trunk = {name: moved for name, moved in critic.items() if "head" not in name}
    assert any(policy.values())
    assert any(trunk.values())
    assert critic["critic.head.weight"]
    if lora:
        assert all(".lora_" in name for name in {**policy, **trunk})
        assert {name.split(".")[-2] for name in policy} == {"default"}


def test_metrics_say_what_the_samples_were(model: str, tmp_path: Path) -> None:
    options = SHORT | {"batch_size": 3}
    run = train("ppo", ballots(), model=model, beta=0.5, out=tmp_path / "run", reward=KnownReward(), **options)
    assert len(run.metrics) == 16
    for row in run.metrics:
        assert {"score", "kl", "k1", "entropy", "length", "ended", "clip_fraction", "explained_variance"} <= set(row)
        assert 1 <= row["length"] <= 3
        assert 0 <= row["ended"] <= 1
        assert row["kl"] >= 0
        assert 0 < row["entropy"] <= np.log(8) + 1e-6
    assert run.metrics[0]["kl"] == 0
    assert run.metrics[0]["k1"] == 0
    budget = run.record["budget"]
    assert budget["votes_seen"] == 0
    assert budget["tokens_sampled"] == round(sum(row["length"] * 12 for row in run.metrics[::4]))


def test_the_exact_kl_is_the_mean_of_k1(model: str, tmp_path: Path) -> None:
    """Both estimate KL(π ‖ π_ref) on the same samples; the exact one has less noise."""
    options = SHORT | {"rollouts": 200, "steps": 8, "lr": 1e-2}
    run = train("rloo", ballots(), model=model, beta=0.2, out=tmp_path / "run", reward=KnownReward(), **options)
    late = run.metrics[3:]
    assert np.mean([row["kl"] for row in late]) > 0.05
    assert np.mean([row["k1"] for row in late]) == pytest.approx(np.mean([row["kl"] for row in late]), rel=0.25)


def test_a_missing_end_costs_what_it_is_said_to(model: str, tmp_path: Path) -> None:
    """With no reward but the penalty, responses learn to end."""

    @dataclass(frozen=True)
    class Nothing:
        sha256: str = "nothing"

        def scores(self, batch: BranchBatch) -> Tensor:
            return torch.zeros(batch.branches)

    options = SHORT | {"rollouts": 32, "steps": 25, "lr": 1e-2, "end_penalty": 3.0}
    run = train("rloo", ballots(), model=model, beta=0.05, out=tmp_path / "run", reward=Nothing(), **options)
    assert run.metrics[-1]["ended"] > run.metrics[0]["ended"] + 0.2


# --- mistakes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    sha256: str = "broken"

    def scores(self, batch: BranchBatch) -> Tensor:
        return torch.full((batch.branches,), float("nan"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": Broken()}, "score of a response is nan"),
        ({"rollouts": 1}, "compares at least 2"),
        ({"max_new_tokens": 2000}, "must leave room for a prompt"),
        ({"max_new_tokens": 500}, "the model reads 128"),
        ({"reward": "no-such-folder"}, "no reward model there"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_before_anything_is_sampled(
    options: dict[str, object], message: str, model: str, tmp_path: Path
) -> None:
    settings = {**SHORT, "reward": KnownReward(), **options}
    with pytest.raises(UserError, match=message) as error:
        train("rloo", ballots(), model=model, beta=0.5, out=tmp_path / "run", **settings)
    assert "\n" not in str(error.value)


def test_best_of_n_is_nothing_to_train(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trains nothing"):
        train("best-of-n", ballots(), model=model, out=tmp_path / "run")


def test_an_arm_may_say_how_much_it_samples() -> None:
    options = parse_arm("ppo[rollouts=8,inner-epochs=2]").recipe(Settings(), {"rollouts": 3, "whiten": False}).options
    assert (options.rollouts, options.inner_epochs, options.whiten) == (8, 2, False)
    assert [parse_arm(arm).method.name for arm in ONLINE.values()] == list(ONLINE)
