"""Two processes train what one trains: losses, votes, weights, and the order of the data where a run goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import PowerCut, metrics_of, run, watch_steps
from safetensors.torch import load_file
from two_ranks import WORLD, environment, run_cases

from preftune import Ballot, Vote
from preftune.data.tokens import TokenBallot, TokenSet
from preftune.errors import UserError
from preftune.launch import Launch
from preftune.model.distributed import ManyRanks
from preftune.model.engine import OneRank, as_ranks
from preftune.model.layout import Layout
from preftune.study.settling import settle_run
from preftune.training.arms import make_recipe
from preftune.training.loop import plan_steps
from preftune.training.preparing import prepare_training
from preftune.training.settings import Settings

HELD_OUT = [Ballot(f"w{n} w4", (f"w{n + 2} w1", f"w{n + 6}"), (Vote(0, 1, 1),)) for n in range(5)]
STEPS, CUT, SAVED = 5, 4, 2  # a run that is cut short after a step; its last state is of another
TRAININGS: dict[str, dict[str, Any]] = {
    "ipo, all weights cut": {"method": "ipo", "parallel": "fsdp", "eval_ballots": HELD_OUT},
    "dpo, all weights copied": {"method": "dpo", "parallel": "ddp", "reduction": "mean"},
    "dpo, adapter": {"method": "dpo", "lora": 3, "parallel": "auto", "eval_ballots": HELD_OUT},
    "ipo, adapter in a cut base": {"method": "ipo", "lora": 3, "parallel": "fsdp", "grad_checkpointing": True},
    "sft": {"method": "sft", "beta": None, "batch_size": 4, "weight_decay": 0.1},
    "amortized-ipo": {"method": "amortized-ipo", "gamma": 0.5, "pairs": "votes", "stop_gradient": False},
    "reward": {"method": "reward", "beta": None, "lora": 3, "kind": "lora", "eval_ballots": HELD_OUT},
}
RESUMED = {"all weights": {"parallel": "fsdp"}, "adapter": {"lora": 3}}


def cut_short(out: Path, how: dict[str, Any], leave: Callable[[], None]) -> None:
    """A run that ends without a word after some steps."""
    from preftune.training import session

    real = session.save_state

    def save(folder: Path, parameters: Any, optimizer: Any, record: Any) -> None:
        if record["step"] <= SAVED or leave is ask_the_second_to_stop:
            real(folder, parameters, optimizer, record)

    def die(step: int) -> None:
        if step == CUT:
            leave()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "save_state", save)
        watch_steps(patch, after=die)
        run(**how, out=out, steps=STEPS, save_every=0)


def power_cut() -> None:
    raise PowerCut


def refuse_on_the_second() -> None:
    if os.environ["RANK"] == "1":
        raise UserError("the disk of the second is full")


def vanish_on_the_second() -> None:
    if os.environ["RANK"] == "1":
        os._exit(9)


def ask_the_second_to_stop() -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)


ENDINGS = {"error": refuse_on_the_second, "death": vanish_on_the_second, "stop": ask_the_second_to_stop}


def alone(how: dict[str, Any]) -> dict[str, Any]:
    """The same for one process."""
    return {name: value for name, value in how.items() if name != "parallel"} | {"steps": STEPS}


@pytest.fixture(scope="module")
def both(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every run of this file by one process and by two: the folders, and what the two raised."""
    folder = tmp_path_factory.mktemp("ranks")
    one, two = folder / "one", folder / "two"
    cases: dict[str, Callable[[], Any]] = {}
    for name, how in TRAININGS.items():
        run(model, one / name, **alone(how))
        cases[name] = partial(run, model, two / name, **how, steps=STEPS)
    for name, how in RESUMED.items():
        run(model, one / name, **alone(how))
        wider, fewer = (two / f"{name}, {what}" for what in ("1 to 2", "2 to 1"))
        with pytest.raises(PowerCut):
            cut_short(wider, {"model": model, **how, "parallel": "auto"}, power_cut)
        cases[wider.name] = partial(run, model, wider, **how, steps=STEPS, resume=True)
        cases[fewer.name] = partial(cut_short, fewer, {"model": model, **how}, power_cut)
    said = run_cases(cases, folder)
    for name, how in ENDINGS.items():  # each ends its processes
        said |= run_cases({name: partial(cut_short, two / name, {"model": model}, how)}, folder)
    for name in RESUMED:
        run(model, two / f"{name}, 2 to 1", **alone(RESUMED[name]), resume=True)
    for name in ENDINGS:
        run(model, two / name, steps=STEPS, resume=True)
    return {"one": one, "two": two, "said": said}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What a run left: a policy or a reward model, and the adapter beside it."""
    files = sorted(path for path in folder.rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}/{n}": value for path in files for n, value in load_file(path).items()}


def assert_same(found: Path, wanted: Path) -> None:
    if (wanted / "metrics.jsonl").exists():
        for mine, its in zip(metrics_of(found), metrics_of(wanted), strict=True):
            assert mine.keys() == its.keys()
            assert mine == pytest.approx(its, abs=1e-5, rel=1e-5)
    weights, expected = weights_of(found), weights_of(wanted)
    assert weights.keys() == expected.keys() and weights
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-5, msg=name)
    assert not (found / "state").exists()
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in wanted.iterdir())


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_what_one_trains(both: dict[str, Any], name: str) -> None:
    assert both["said"][name] == ["", ""]
    assert_same(both["two"] / name, both["one"] / name)
    mine, its = (json.loads((both[side] / name / "run.json").read_text()) for side in ("two", "one"))
    assert mine.get("budget") == its.get("budget")
    assert mine["data"] == its["data"]
    for what in ("accuracy", "log_loss"):
        assert mine.get("held_out", {}).get(what) == pytest.approx(its.get("held_out", {}).get(what), abs=1e-5)


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("how", ["1 to 2", "2 to 1"])
def test_as_many_processes_as_there_are_go_on_from_a_state(both: dict[str, Any], name: str, how: str) -> None:
    assert_same(both["two"] / f"{name}, {how}", both["one"] / name)


def test_what_ends_one_process_ends_all_and_is_told_once(both: dict[str, Any]) -> None:
    assert both["said"]["error"] == ["SystemExit: 2", "UserError: the disk of the second is full"]
    told, gone = both["said"]["death"]
    assert gone == "gone" and told.startswith("UserError: a process of this run has gone")
    followed, said = sorted(both["said"]["stop"], reverse=True)
    assert followed == "SystemExit: 130" and f"stopped after step {CUT} of {STEPS}; the state is saved" in said


@pytest.mark.parametrize("name", ENDINGS)
def test_a_run_that_lost_a_process_goes_on_from_its_state(both: dict[str, Any], name: str) -> None:
    assert_same(both["two"] / name, both["one"] / "all weights")


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("ppo", {}, "ppo: samples from a policy that one process has whole"),
        ("amortized-ipo", {"kind": "full"}, "--kind full: several processes train one model"),
        ("dpo", {"compile": True}, "--compile: not tried yet with several processes"),
    ],
)
def test_what_several_processes_cannot_train_is_said_before_anything_is_loaded(
    method: str, options: dict[str, Any], said: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(1, 29500).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        settle_run(method, out=out, beta=0.1, **options)


def test_parallel_is_of_several_processes() -> None:
    with pytest.raises(UserError, match="--parallel fsdp: there is one process; start several with torchrun"):
        Settings(parallel="fsdp")


# --- the plan of all ranks, without any -------------------------------------------------------------------------------


@pytest.mark.parametrize(("ballots", "batch_size", "flag"), [(1, 8, "--data"), (8, 1, "--batch-size")])
def test_there_is_a_ballot_for_every_process(ballots: int, batch_size: int, flag: str) -> None:
    recipe = make_recipe("dpo", {"batch_size": batch_size})
    tokens = TokenSet(ballots=(TokenBallot((1,), ((2,), (3,)), (Vote(0, 1, 1),)),) * ballots, skipped={}, shortened={})
    with as_ranks(rank_of(0, 2)), pytest.raises(UserError, match=f"{flag}: 1 ballots for 2 processes"):
        prepare_training(recipe, tokens, Layout("branch", ""), 0)


def rank_of(number: int, world: int) -> OneRank:
    return OneRank() if world == 1 else ManyRanks(Launch(number, world, number, world))


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=14),
    world=st.integers(1, 5),
    batch_size=st.integers(1, 12),
    micro_tokens=st.integers(1, 100),
)
def test_every_ballot_is_one_rank_s_and_all_have_as_many_micro_batches(
    sizes: list[int], world: int, batch_size: int, micro_tokens: int
) -> None:
    masses = [size / 7 for size in sizes]
    how: dict[str, Any] = {"batch_size": batch_size, "micro_tokens": micro_tokens, "seed": 0, "epochs": 2}
    plan, alone = (plan_steps(sizes, masses, **how, world=count) for count in (world, 1))
    for step, same in zip(plan, alone, strict=True):
        shares = [rank_of(number, world).own(step.micro_batches) for number in range(world)]
        assert len({len(share) for share in shares}) == 1
        counted = [index for share in shares for group, counts in share if counts for index in group]
        assert sorted(counted) == sorted(index for group in same.micro_batches for index in group)
        assert step.mass == same.mass == pytest.approx(sum(masses[index] for index in counted))
        for group in step.micro_batches:
            assert len(group) == 1 or sum(sizes[index] for index in group) <= micro_tokens
        fillers = sum(not counts for share in shares for _, counts in share)
        assert fillers == 0 or all(len(group) == 1 for group in step.micro_batches)


def test_two_ranks_share_a_batch_that_would_fit_into_one_pass() -> None:
    sizes = [9, 8, 5, 5, 5, 4]
    (step,) = plan_steps(sizes, [1.0] * 6, batch_size=6, micro_tokens=100, seed=0, world=WORLD)
    assert sorted(sum(sizes[i] for i in group) for group in step.micro_batches) == [18, 18]
