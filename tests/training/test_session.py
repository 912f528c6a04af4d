"""An interrupted run that goes on ends in the weights and metrics of an uninterrupted one, bit for bit."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from running import STEPS, PowerCut, assert_equal_runs, contents, metrics_of, run, steps_in, watch_steps
from tiny import WORDS, tiny_llama
from torch import nn

from preftune.errors import Interrupted, UserError
from preftune.methods import METHODS, flag, names_of
from preftune.model import engine
from preftune.model.engine import load_state, remove_state, save_state, state_record
from preftune.training import session
from preftune.training.arms import make_recipe
from preftune.training.settings import Settings


def run_until(monkeypatch: pytest.MonkeyPatch, step: int, *, saved: int, **how: Any) -> None:
    """A run that dies at `step`, its last state being of the step `saved`."""
    real = session.save_state

    def save(folder: Path, parameters: Any, optimizer: Any, record: Mapping[str, Any]) -> None:
        if record["step"] <= saved:
            real(folder, parameters, optimizer, record)

    def die(number: int) -> None:
        if number == step:
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(session, "save_state", save)
        watch_steps(patch, after=die)
        run(**how, save_every=0)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ipo", {}),
        ("dpo", {"lora": 3, "weight_decay": 0.1}),
        ("sft", {"warmup": 0.9}),
        ("dpo", {"precision": "bf16"}),
        ("amortized-ipo", {"extra_responses": 2, "max_new_tokens": 3}),
        ("amortized-ipo", {"gamma": 0.5, "pairs": "votes", "stop_gradient": False}),
        ("amortized-ipo", {"head": "general", "estimate_flips": True, "lora": 3}),
    ],
)
def test_a_run_that_died_twice_ends_like_one_that_did_not(
    method: str, options: dict[str, Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"model": model, "method": method, **options}
    run(out=tmp_path / "whole", **how)
    out = tmp_path / "out"
    run_until(monkeypatch, 5, saved=3, out=out, **how)
    assert len(metrics_of(out)) == 5
    run_until(monkeypatch, 7, saved=7, out=out, resume=True, **how)
    run(out=out, resume=True, **how)
    assert_equal_runs(out, tmp_path / "whole")


def test_a_run_that_died_before_its_first_state_starts_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path / "whole")
    run_until(monkeypatch, 2, saved=0, model=model, out=tmp_path / "out")
    run(model, tmp_path / "out", resume=True)
    assert_equal_runs(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_goes_on_later(
    number: signal.Signals, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(step: int) -> None:
        if step == 4:
            os.kill(os.getpid(), number)

    out = tmp_path / "out"
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"{out}: stopped after step 4 of {STEPS}"):
        watch_steps(patch, before=before)
        run(model, out)
    assert signal.getsignal(number) is handler
    assert len(metrics_of(out)) == 4
    assert not (out / "policy").exists()
    run(model, out, resume=True)
    run(model, tmp_path / "whole")
    assert_equal_runs(out, tmp_path / "whole")


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import running
from preftune.training import run
score, out, asked = run.response_logprobs, Path({out!r}), Path({asked!r})

def slow(*args, **named):  # however long the parent takes, it asks before the run is over
    started = time.monotonic()
    while running.steps_in(out) >= 3 and not asked.exists() and time.monotonic() < started + 120:
        time.sleep(0.01)
    return score(*args, **named)

run.response_logprobs = slow
running.run({model!r}, out, steps=40)
"""


@pytest.mark.slow
def test_another_process_that_was_asked_to_stop_saves_its_state_and_can_be_gone_on_with(
    model: str, tmp_path: Path
) -> None:
    whole, out, asked = tmp_path / "whole", tmp_path / "out", tmp_path / "asked"
    script = CHILD.format(tests=str(Path(__file__).parents[1]), model=model, out=str(out), asked=str(asked))
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    try:
        while child.poll() is None and steps_in(out) < 3:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        asked.touch()
        errors = child.communicate(timeout=120)[1]
    finally:
        child.kill()
    done = len(metrics_of(out))
    assert f"Interrupted: {out}: stopped after step {done} of 40" in errors.replace("\n", " ")
    assert 3 <= done < 40
    assert not (out / "policy").exists()

    run(model, out, steps=40, resume=True)
    run(model, whole, steps=40)
    assert_equal_runs(out, whole)


# --- what may not be resumed -----------------------------------------------------------------------------------------


def test_a_run_is_resumed_only_as_what_it_was(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tiny_llama(tmp_path / "other", WORDS, seed=1)
    out = tmp_path / "out"
    run_until(monkeypatch, 3, saved=3, model=model, out=out)
    before = contents(out)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"beta": 0.4}, r"beta 0\.3, now 0\.4"),
        ({"lr": 1e-3}, r"lr 0\.005, now 0\.001"),
        ({"seed": 1}, "seed 0, now 1"),
        ({"steps": 13}, "steps 12, now 13"),
        ({"lora": 2}, "lora 0, now 2"),
        ({"reduction": "mean"}, "reduction 'sum', now 'mean'"),
        ({"method": "dpo"}, "method 'ipo', now 'dpo'"),
        ({"eval_fraction": 0.3}, "another data"),
        ({"model": other}, "another model"),
        ({"reference": other}, "another reference"),
    ]
    for change, reason in changes:
        with pytest.raises(UserError, match=f"cannot resume.*{reason}"):
            run(**{"model": model, "out": out, "resume": True, **change})
        assert contents(out) == before


LIKELIHOOD = {"label_smoothing": 0.1, "flip_rate": 0.1}
SAMPLING = {"rollouts": 9, "end_penalty": 2.0, "kl_target": 1.0, "max_new_tokens": 9}
PREFERENCE = {"pairs": "votes", "target": "winner-loser", "gamma": 0.5, "stop_gradient": False}
OF_METHOD = {
    "sft": {},
    "dpo": {"reduction": "mean", **LIKELIHOOD},
    "ipo": {"reduction": "mean", **LIKELIHOOD},
    "gpo": {"reduction": "mean", "convex": "hinge", **LIKELIHOOD},
    "amortized-ipo": {"reduction": "mean", **LIKELIHOOD, **PREFERENCE},
    "reward": LIKELIHOOD,
    "ppo": {**SAMPLING, "inner_epochs": 9, "whiten": False, **LIKELIHOOD},
    "rloo": {**SAMPLING, **LIKELIHOOD},
}


@pytest.mark.parametrize("method", OF_METHOD)
def test_a_run_depends_on_its_methods_options_and_never_on_how_the_work_is_cut(method: str) -> None:
    shared = {"lr": 1.0, "steps": 3, "batch_size": 5, "max_length": 9, "lora": 2, "precision": "bf16", "warmup": 0.3}
    cut = {"micro_tokens": 5, "compile": True, "device": "cuda"}
    plain, changed = make_recipe(method, {}), make_recipe(method, {**shared, **OF_METHOD[method], **cut})
    assert {name for name, value in changed.counting().items() if plain.counting()[name] != value} == {
        *shared,
        *OF_METHOD[method],
    }
    assert changed.counting().keys() == plain.counting().keys()
    assert {field.name for field in fields(Settings)} - plain.counting().keys() == {
        *("micro_tokens", "grad_checkpointing", "compile", "device", "save_every", "parallel")
    }


@pytest.mark.parametrize("method", OF_METHOD)
def test_an_option_of_another_method_is_refused_by_the_names_of_those_that_have_it(method: str) -> None:
    everything = {name: value for options in OF_METHOD.values() for name, value in options.items()}
    for name, value in everything.items():
        if name in OF_METHOD[method] or name in names_of(METHODS[method].options):
            continue
        with pytest.raises(UserError, match=f"--{flag(name)}: is an option of .*, not of {method}") as error:
            make_recipe(method, {name: value})
        owners = {one for one, own in METHODS.items() if name in names_of(own.options)}
        assert owners == {
            word for word in re.findall(r"[\w-]+", str(error.value).split(", not of")[0]) if word in METHODS
        }


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("ipo", {"micro_tokens": 200}),
        ("ipo", {"micro_tokens": 8}),
        ("gpo", {"micro_tokens": 200}),
        ("dpo", {"grad_checkpointing": True}),
        ("sft", {"beta": 0.7, "micro_tokens": 200}),
        ("amortized-ipo", {"micro_tokens": 200}),
        ("amortized-ipo", {"micro_tokens": 200, "kind": "full"}),
        ("ppo", {"micro_tokens": 200, "kind": "frozen"}),
        ("rloo", {"micro_tokens": 200, "kind": "frozen"}),
        ("reward", {"micro_tokens": 200}),
    ],
)
def test_what_a_method_does_not_read_may_change_when_it_is_gone_on_with(
    method: str, change: dict[str, Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then ends where an uninterrupted run ends, but for the rounding that another cut of the work brings."""
    how: dict[str, Any] = {"model": model, "method": method, "lr": 1e-3}
    how |= {"kind": change["kind"]} if "kind" in change else {}
    how |= {"beta": None} if method == "reward" else {}
    how |= {"max_new_tokens": 3, "rollouts": 2, "steps": 4} if method in ("ppo", "rloo") else {}
    how |= {"inner_epochs": 2} if method == "ppo" else {}
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(out=whole, **how)
    stop = 4 if method == "ppo" else 3
    run_until(monkeypatch, stop, saved=stop, out=out, **how)
    run(out=out, resume=True, **how | change)
    for found, wanted in zip(metrics_of(out), metrics_of(whole), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_a_state_of_a_version_that_kept_all_settings_is_gone_on_with(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path / "whole")
    out = tmp_path / "out"
    run_until(monkeypatch, 5, saved=5, model=model, out=out)
    path = out / "state" / "record.json"
    record = json.loads(path.read_text())
    everything = asdict(Settings(micro_tokens=4096, device="cuda")) | asdict(METHODS["ppo"].options(rollouts=9))
    path.write_text(json.dumps({**everything, "device": "any", **record}))
    run(model, out, resume=True)
    assert_equal_runs(out, tmp_path / "whole")


def test_a_finished_run_is_neither_resumed_nor_written_over(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(model, out, steps=2)
    before = contents(out)
    with pytest.raises(UserError, match="a finished run"):
        run(model, out, steps=2)
    with pytest.raises(UserError, match="a finished run"):
        run(model, out, beta=0.9, steps=2, resume=True)
    assert contents(out) == before


# --- the state on disk -----------------------------------------------------------------------------------------------


def trained(device: str = "cpu", steps: int = 3) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(0)
    parameters = {
        "a": nn.Parameter(torch.randn(3, 2, device=device)),
        "b.c": nn.Parameter(torch.randn(4, device=device)),
    }
    optimizer = torch.optim.AdamW(parameters.values(), fused=device == "cpu")
    for _ in range(steps):
        sum((p**2).sum() for p in parameters.values()).backward()
        optimizer.step()
    return parameters, optimizer


def test_weights_and_moments_come_back_bit_for_bit(tmp_path: Path) -> None:
    parameters, optimizer = trained()
    save_state(tmp_path / "state", parameters, optimizer, {"step": 3})
    fresh, empty = trained(steps=0)
    assert load_state(tmp_path / "state", fresh, empty) == {"step": 3}
    for name, parameter in parameters.items():
        assert torch.equal(fresh[name], parameter)
        moments = empty.state[fresh[name]]
        assert moments.keys() == optimizer.state[parameter].keys()
        assert all(torch.equal(moments[key], value) for key, value in optimizer.state[parameter].items())


def test_moments_and_step_count_come_back_on_the_device_of_their_parameter(tmp_path: Path) -> None:
    """The fused AdamW keeps its step count there too; `meta` stands for a GPU."""
    save_state(tmp_path / "state", *trained(), {"step": 3})
    fresh, empty = trained("meta", steps=0)
    load_state(tmp_path / "state", fresh, empty)
    assert {value.device.type for moments in empty.state.values() for value in moments.values()} == {"meta"}


def test_an_interrupted_save_leaves_the_state_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, optimizer = trained()
    folder = tmp_path / "state"
    save_state(folder, parameters, optimizer, {"step": 3})
    for broken in ("save_file", "os.replace", "json.dumps"):
        with monkeypatch.context() as patch, pytest.raises(PowerCut):
            patch.setattr(f"preftune.model.engine.{broken}", _cut_at(2 if broken != "json.dumps" else 1, broken))
            save_state(folder, parameters, optimizer, {"step": 4})
        assert state_record(folder) == {"step": 3}
        fresh, empty = trained(steps=0)
        assert load_state(folder, fresh, empty) == {"step": 3}
        assert torch.equal(fresh["a"], parameters["a"])
    remove_state(folder)
    assert list(tmp_path.iterdir()) == []


def _cut_at(call: int, name: str) -> Any:
    """The function of that name in the engine, until its `call`-th call."""
    head, _, tail = name.partition(".")
    real = getattr(engine, head)
    real = getattr(real, tail) if tail else real
    calls: list[int] = []

    def cut(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise PowerCut
        return real(*args, **named)

    return cut
