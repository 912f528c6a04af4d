"""The runs of a study are exchangeable: of one seed they share their votes and what is fitted to them, no more."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from running import watch_steps
from safetensors.torch import load_file
from studies import QUICK, make_ballots

from preftune.data.tokens import tokenize
from preftune.errors import Interrupted, UserError
from preftune.evidence.results import REFERENCE, read_results, read_samples, read_study
from preftune.evidence.rows import write_json
from preftune.model.workbench import open_workbench
from preftune.study import runs
from preftune.study.naming import run_seed
from preftune.study.study import Study, compare
from preftune.training.arms import make_recipe
from preftune.training.preparing import prepare, replanned

WORDS = list("abcdefgh")
LORA: dict[str, Any] = QUICK | {"lora": 2, "checkpoints": 1, "samples": 1}


def watch_runs(patch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    """Keep what each run trains on, by its name; nothing is trained."""

    def train_any(bench: Any, training: Any, reward: Any, *, description: str, **given: Any) -> Any:
        found[description] = training
        raise RuntimeError("not in this test")

    patch.setattr(runs, "train_any", train_any)


def order_of(training: Any) -> list[tuple[int, ...]]:
    return [tuple(sorted(i for group in step.micro_batches for i in group)) for step in training.plan]


def weights(study: Study, name: str) -> Mapping[str, torch.Tensor]:
    return load_file(study.folder / "runs" / name / "policy" / "model.safetensors")


def assert_same_run(found: Study, wanted: Study, name: str) -> None:
    own, other = weights(found, name), weights(wanted, name)
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
    rows = [[vars(row) for row in study.results if row.run == name] for study in (found, wanted)]
    assert rows[0] == rows[1] and rows[0]


# --- what is a run's own ----------------------------------------------------------------------------------------------


def test_the_seed_of_a_run_is_a_function_of_seed_arm_and_beta_that_never_changes() -> None:
    assert run_seed(0, "dpo", 0.1) == 1910738388
    keys = [(s, arm, b) for s in range(20) for arm in ("dpo", "ipo", "ipo[lr=1e-05]") for b in (None, 0.1, 0.5, 1.0)]
    seeds = [run_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and all(0 <= seed < 2**31 for seed in seeds)
    assert run_seed(0, "dpo", 1) == run_seed(0, "dpo", 1.0)


@pytest.mark.parametrize("arm", ["dpo", "sft", "rloo", "ppo"])
def test_a_training_replanned_is_the_one_prepared_with_that_seed(arm: str, model: str) -> None:
    bench, ballots = open_workbench(model, device="cpu"), make_ballots(15)
    recipe = make_recipe(arm, {"batch_size": 3, "epochs": 2.5, "max_length": 128, "micro_tokens": 30})
    tokens = tokenize(ballots, bench.base.form, max_length=128)
    one, other = (prepare(recipe, ballots, tokens, bench, seed) for seed in (0, 1))
    assert one.plan != other.plan and replanned(one, bench.layout, 1) == other


@pytest.mark.parametrize("arms", ["dpo,ipo,gpo,sft", "rloo,ppo", "amortized-ipo"])
def test_runs_of_one_seed_see_the_same_votes_in_orders_of_their_own(
    arms: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {}
    watch_runs(monkeypatch, found)
    noisy = QUICK | {"label_noise": [0.3], "seeds": [0, 1], "kind": None if "amortized" not in arms else "frozen"}
    compare(arms, make_ballots(), model=model, out=tmp_path / "s", **noisy)
    one = {name: training for name, training in found.items() if name.endswith("seed0")}
    other = {name: training for name, training in found.items() if name.endswith("seed1")}
    orders = {name: order_of(training) for name, training in found.items()}
    assert len(one) == len(other) >= 2
    assert all(orders[a] != orders[b] for a, b in combinations(orders, 2))
    content = {"ballots", "prompts"} & vars(next(iter(one.values()))).keys()
    for name in content:
        # sft keeps the preferred responses alone
        own = [getattr(training, name) for run, training in one.items() if not run.startswith("sft")]
        assert all(kept == own[0] for kept in own)
        others = [getattr(training, name) for run, training in other.items() if not run.startswith("sft")]
        assert (others[0] == own[0]) is (name == "prompts"), "votes are flipped by the seed"


def test_what_two_runs_learn_from_is_their_own_and_what_they_are_asked_is_shared(model: str, tmp_path: Path) -> None:
    """Policies that do not move: they answer alike when they are evaluated, and sample otherwise when they train."""
    still = LORA | {"lr": 1e-38, "kind": "lora", "rollouts": 2, "steps": 3}
    study = compare("rloo,ppo", make_ballots(), model=model, out=tmp_path / "s", **still)
    answers: dict[str, list[tuple[int, str]]] = {}
    for sample in read_samples(study.folder / "samples.jsonl"):
        answers.setdefault(sample.run, []).append((sample.prompt_id, sample.response))
    assert len(answers) == 5 and all(own == answers[REFERENCE] for own in answers.values())
    scores = {
        run: tuple(row["score"] for row in rows) for run, rows in study.study.metrics.items() if "rewards" not in run
    }
    assert len(scores) == 4 == len(set(scores.values()))


def test_adapters_start_where_no_other_runs_does(model: str, tmp_path: Path) -> None:
    study = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "s", **LORA | {"lr": 1e-38, "steps": 1})
    starts = [load_file(path) for path in study.folder.glob("runs/*/adapter/adapter_model.safetensors")]
    names = [name for name in starts[0] if "lora_A" in name]
    assert len(starts) == 4 and names
    assert not any(torch.equal(a[name], b[name]) for a, b in combinations(starts, 2) for name in names)


def test_the_first_run_starts_at_exactly_0_and_the_others_within_rounding(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference log-probs of the others were computed in micro-batches of the first."""
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    study = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "s", **LORA | {"micro_tokens": 40})
    first = {run: (rows[0]["log_ratio_preferred"], rows[0]["margin"]) for run, rows in study.study.metrics.items()}
    assert first.pop("dpo-beta0.1-seed0") == (0, 0)
    assert len(first) == 3 and all(max(map(abs, values)) < 1e-4 for values in first.values())


# --- and what is not --------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_whatever_else_is_compared_and_in_which_order(model: str, tmp_path: Path) -> None:
    wide = LORA | {"betas": [0.5, 0.1], "seeds": [1, 0]}
    many = compare("ipo[lr=1e-3],dpo,ipo", make_ballots(), model=model, out=tmp_path / "many", **wide)
    alone = compare("ipo", make_ballots(), model=model, out=tmp_path / "one", **LORA | {"betas": [0.1], "seeds": [1]})
    assert_same_run(alone, many, "ipo-beta0.1-seed1")
    small = LORA | {"betas": [0.5], "seeds": [0]}
    compare("ipo", make_ballots(), model=model, out=tmp_path / "grown", **small)
    grown = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "grown", **wide)
    for name in ("ipo-beta0.5-seed0", "ipo-beta0.1-seed1", "dpo-beta0.1-seed0"):
        assert_same_run(grown, many, name)


@pytest.mark.parametrize("arms", ["dpo", "ppo"])
def test_a_study_stopped_within_a_run_ends_in_the_same_bits(arms: str, model: str, tmp_path: Path) -> None:
    options = LORA | ({"kind": "lora", "rollouts": 2} if arms == "ppo" else {})
    whole = compare(arms, make_ballots(), model=model, out=tmp_path / "whole", **options)
    with pytest.MonkeyPatch.context() as patch:
        made: list[int] = []

        def ask(step: int) -> None:
            made.append(step)
            if made.count(4) == 2:  # in the second run; in ppo's case the reward model came first
                os.kill(os.getpid(), signal.SIGTERM)

        watch_steps(patch, before=ask)
        with pytest.raises(Interrupted):
            compare(arms, make_ballots(), model=model, out=tmp_path / "parts", **options)
    parts = compare(arms, make_ballots(), model=model, out=tmp_path / "parts", **options)
    for beta in (0.1, 0.5):
        assert_same_run(parts, whole, f"{arms}-beta{beta}-seed0")


def test_a_folder_whose_runs_share_their_order_is_read_and_not_gone_on_with(model: str, tmp_path: Path) -> None:
    folder, small = tmp_path / "s", LORA | {"betas": [0.1], "samples": 0}
    study = compare("dpo", make_ballots(), model=model, out=folder, **small)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert info.pop("runs") == "exchangeable" == study.study.info["runs"]
    write_json(folder / "study.json", info)
    assert read_study(folder).info["runs"] == "" and study.report().exists()
    before = read_results(folder / "results.jsonl")
    with pytest.raises(UserError, match=r"share the order of their data, as versions before 0\.3") as caught:
        compare("dpo,ipo", make_ballots(), model=model, out=folder, **small)
    assert "\n" not in str(caught.value) and read_results(folder / "results.jsonl") == before
