"""Runs made by workers, in any order and through any death, are those that one process makes one after the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from running import steps_in, watch_steps
from safetensors.torch import load_file
from studies import QUICK, make_ballots
from studies import WORDS as WORDS

from preftune.errors import Interrupted
from preftune.study import executors, looks, worker
from preftune.study.local_workers import LocalWorkers
from preftune.study.rows import Rows, gather, rows_apart
from preftune.study.study import Study, compare
from preftune.study.tasks import Outcome, Task

SMALL: dict[str, Any] = QUICK | {"epochs": 1.0, "checkpoints": 1, "lora": 2, "samples": 1}


class Backwards:
    """Does the last task first, in this process, which opens the study as a worker does."""

    def __init__(self, call: worker.Call) -> None:
        self.call = worker.cloudpickle.loads(worker.pickled(call))

    def do(self, tasks: Sequence[Task], stores: Sequence[Path]) -> Iterator[Outcome]:
        for task in reversed(tasks):
            yield worker.do_task(self.call, task)

    def stop(self) -> None: ...

    def close(self) -> None:
        worker._desk.clear()


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_open", lambda placement, call: Backwards(call))


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not what is tested here, and takes most of the time."""
    monkeypatch.setattr(Study, "report", lambda self: self.folder)


def assert_same(found: Study, wanted: Study, *, in_order: bool = True) -> None:
    for name in ("results.jsonl", "samples.jsonl"):
        own, other = ((one.folder / name).read_bytes().splitlines() for one in (found, wanted))
        assert own == other if in_order else sorted(own) == sorted(other)
    if in_order:  # of runs that are equally good the first one is told
        assert found.verdict.record() == wanted.verdict.record()
    for path in wanted.folder.glob("runs/*/policy/model.safetensors"):
        own, other = load_file(path), load_file(found.folder / path.relative_to(wanted.folder))
        assert all(torch.equal(own[name], other[name]) for name in own)
    lists = ({path.relative_to(one.folder) for path in one.folder.glob("runs/*/*")} for one in (found, wanted))
    assert next(lists) == next(lists), "what a worker adds is gathered, and its lock is gone"


def both(arms: str, model: str, tmp_path: Path, patch: pytest.MonkeyPatch, **options: Any) -> tuple[Study, Study]:
    """The study by workers and by this process, each with a store of its own."""
    made = []
    for name, workers in (("theirs", 2), ("ours", None)):
        patch.setenv("PREFTUNE_CACHE", str(tmp_path / f"cache-{name}"))
        made.append(compare(arms, make_ballots(), model=model, out=tmp_path / name, workers=workers, **options))
    return made[0], made[1]


# --- the same results -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("backwards")
@pytest.mark.parametrize(
    ("arms", "options"),
    [
        ("dpo,sft", {"betas": [0.1], "seeds": [0, 1], "validation_fraction": 0.2, "micro_tokens": 40, "steps": 2}),
        ("amortized-ipo,rloo,best-of-n", {"betas": [0.5], "kind": "frozen", "rollouts": 2}),
        ("dpo,ipo", {"betas": "auto", "seeds": [0, 1], "steps": 2}),
    ],
)
def test_in_which_order_runs_are_made_changes_nothing(
    arms: str, options: dict[str, Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = both(arms, model, tmp_path, monkeypatch, **SMALL | options)
    assert_same(theirs, ours)
    keys = ("failed", "search", "budgets", "preferences", "calibration", "targets", "machine")
    assert {key: theirs.study.info[key] for key in keys} == {key: ours.study.info[key] for key in keys}


@pytest.mark.usefixtures("backwards")
def test_looks_are_made_by_workers_too(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later ones ask finished runs more."""
    for name, values in (("SEEDS", (1, 2)), ("TIMES", (1, 2)), ("ALPHA", (0.01, 0.04))):
        monkeypatch.setattr(looks, name, values)
    options = SMALL | {"steps": 1, "until": "verdict", "eval_prompts": 3, "betas": None}
    theirs, ours = both("sft,sft[lr=0.001]", model, tmp_path, monkeypatch, **options)
    assert len(theirs.study.info["looks"]["done"]) == 2
    assert_same(theirs, ours)


@pytest.mark.usefixtures("backwards")
def test_a_run_that_fails_has_its_reason_and_one_that_was_stopped_goes_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"model": model, "checkpoints": 2, "epochs": 2.0}
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        real = worker.Runner.run

        def run(self: Any, arm: Any, beta: float, *where: Any) -> None:
            if (arm.name, beta) == ("dpo", 0.1):
                raise RuntimeError("out of memory")
            real(self, arm, beta, *where)

        patch.setattr(worker.Runner, "run", run)
        watch_steps(patch, before=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None)
        with pytest.raises(Interrupted):
            compare("dpo,ipo", make_ballots(), out=tmp_path / "s", workers=2, **options)
        stopped = tmp_path / "s" / "runs" / "ipo-beta0.5-seed0"
        assert steps_in(stopped) == 6 and (stopped / "state").exists()
    with monkeypatch.context() as patch:
        patch.setattr(worker.Runner, "run", run)
        failed = compare("dpo,ipo", make_ballots(), out=tmp_path / "s", workers=2, **options)
    assert failed.failed == {"dpo-beta0.1-seed0": "RuntimeError: out of memory"}
    mended = compare("dpo,ipo", make_ballots(), out=tmp_path / "s", **options)
    assert not mended.failed and not mended.study.unfinished()
    assert_same(mended, compare("dpo,ipo", make_ballots(), out=tmp_path / "whole", **options), in_order=False)


def test_rows_are_gathered_once_and_none_without_its_end(model: str, tmp_path: Path) -> None:
    done = compare("sft", make_ballots(), model=model, out=tmp_path / "s", **SMALL)
    run, own = "sft-seed0", Rows(done.folder, done.folder)
    (row,), samples = own.results(run), own.samples(run, 4)
    apart = rows_apart(tmp_path / "t", run)
    apart.append(samples, row)
    apart.append(samples, row)  # done twice: an interruption came after the row
    assert apart.results(run) == [row] and apart.samples(run, 4) == samples
    assert gather(tmp_path / "t", run) == [row] and gather(tmp_path / "t", run) == []
    apart.append(samples, row)
    assert gather(tmp_path / "t", run) == [], "it is known"
    assert Rows(tmp_path / "t", tmp_path / "t").samples(run, 4) == samples
    assert not (tmp_path / "t" / "runs" / run).exists()


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_is_killed_changes_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes of their own. Its last step is done again."""
    killed = []

    def kill() -> None:
        while not killed:
            for log in (tmp_path / "theirs").glob("runs/*/metrics.jsonl"):
                (child,) = {one.process for one in hands if one.process} or {None}
                if steps_in(log.parent) > 1 and child is not None:
                    child.kill()
                    killed.append(child.pid)
                    return
            time.sleep(0.005)

    hands: list[Any] = []
    real = LocalWorkers.__init__

    def init(self: LocalWorkers, call: Any, workers: int, gpus: Sequence[str]) -> None:
        real(self, call, 1, gpus)
        hands.extend(self.workers)

    monkeypatch.setattr(LocalWorkers, "__init__", init)
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    theirs, ours = both("dpo,ipo", model, tmp_path, monkeypatch, **SMALL | {"betas": [0.1], "steps": 30})
    thread.join()
    assert_same(theirs, ours)
    log = (theirs.folder / "workers" / "worker-1.log").read_text(encoding="utf-8")
    assert log.count("begun") == 3
