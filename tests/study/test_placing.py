"""Where runs are made: what is refused before anything is loaded, cores shared out, workers that die, stop and fail.

The workers here speak the protocol and do no work.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import UserError
from preftune.study import local_workers, placing
from preftune.study.local_workers import LocalWorkers
from preftune.study.placing import Placement, cores, parse_resources, settle_placement, shares
from preftune.study.tasks import Outcome, Task
from preftune.study.timing import by_the_clock, makespan
from preftune.study.worker import Call

# --- what a person says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"executor": "rai"}, "--executor rai: unknown; did you mean 'ray'?"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"executor": "ray", "workers": 2}, "--workers 2: ray makes as many runs at once as it has room for"),
        ({"address": "host:1"}, "--address host:1: is where Ray runs; add --executor ray"),
        ({"executor": "slurm", "address": "host:1"}, "--address host:1: is where Ray runs"),
        ({"workers": 2, "resources": "gpu=1"}, "--resources gpu=1: are for --executor ray or slurm"),
        ({"executor": "ray", "resources": "gpus=1"}, "--resources gpus=1: unknown; did you mean 'gpu'?"),
        ({"executor": "ray", "resources": "hours=1"}, "--resources hours=1: unknown"),
        ({"executor": "ray", "resources": "gpu"}, "--resources gpu: write gpu=N, in GPUs"),
        ({"executor": "ray", "resources": "cpu=0.5"}, "--resources cpu=0.5: must be a whole number above 0"),
        ({"executor": "slurm", "resources": "gpu=0.5"}, "--resources gpu=0.5: must be a whole number above 0"),
        ({"executor": "ray", "resources": "memory=-1"}, "--resources memory=-1: must be a number above 0"),
        ({"executor": "ray", "address": "host:one"}, "--address host:one: write HOST:PORT"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "find_spec", lambda name: name)
    with pytest.raises(UserError) as caught:
        settle_placement(**given)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_a_library_that_is_missing_is_named_with_what_installs_it(
    executor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"--executor {executor}: needs \w+: pip install 'preftune\[{executor}\]'"):
        settle_placement(executor)


def test_what_a_run_is_given() -> None:
    assert parse_resources("gpu=1, cpu=4,memory=16", "ray") == {"gpu": 1.0, "cpu": 4.0, "memory": 16.0}
    assert parse_resources("hours=2.5", "slurm") == {"hours": 2.5}
    assert Placement().here and Placement().threads is None and not Placement(workers=2).here
    assert Placement("ray", resources={"cpu": 4.0}).threads == 4


# --- cores and time ---------------------------------------------------------------------------------------------------


@given(count=st.integers(1, 40), workers=st.integers(1, 50))
def test_workers_have_as_many_cores_each_and_none_of_anothers(count: int, workers: int) -> None:
    found = shares(list(range(count)), workers)
    assert len(found) == workers and len({len(own) for own in found}) == 1
    used = [core for own in found for core in own]
    if workers <= count:
        assert len(set(used)) == len(used) > count - workers
    else:
        assert set(used) == set(range(count)), "they share all of them"


def test_the_threads_of_a_run_are_its_share_unless_fewer_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "cores", lambda: list(range(8)))
    for told, threads in (("", 4), ("2", 2), ("16", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        assert Placement(workers=2).threads == threads


@given(runs=st.lists(st.floats(0.1, 9), max_size=12), workers=st.integers(1, 5))
def test_runs_side_by_side_end_between_a_fair_share_and_one_more_run(runs: list[float], workers: int) -> None:
    end, fair = makespan(runs, workers), sum(runs) / workers
    assert max([fair, *runs]) <= end + 1e-9 and end <= fair + max(runs, default=0.0) + 1e-9
    parts = {"reference": 3.0, "reward models": 1.0, "training": sum(runs), "evaluation": 0.0, "pilots": 6.0}
    assert by_the_clock(parts, runs, 2, 1) == pytest.approx(sum(parts.values()))
    assert by_the_clock(parts, runs, 2, 2) == pytest.approx(4 + 3 + makespan(runs, 2))


# --- workers ----------------------------------------------------------------------------------------------------------

SPEAKS = """
import json, os, pickle, signal, sys, time
tasks = sys.stdin.buffer
call = pickle.load(tasks)
while True:
    try:
        task = pickle.load(tasks)
    except EOFError:
        sys.exit()
    name = task["name"] if isinstance(task, dict) else task.name
    mark = os.path.join(call, name)
    open(mark, "a").write(".")
    times = os.path.getsize(mark)
    if name.startswith("dies") and times <= int(name[-1]):
        os.kill(os.getpid(), signal.SIGKILL)
    while name.startswith("waits"):
        time.sleep(0.01)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    why = "wrong" if name.startswith("fails") else ""
    print(json.dumps({"name": name, "reason": why or f"{os.environ['OMP_NUM_THREADS']} on {cores}"}), flush=True)
"""


def hands(folder: Path, workers: int, patch: pytest.MonkeyPatch) -> LocalWorkers:
    patch.setattr(local_workers, "COMMAND", [sys.executable, "-c", SPEAKS])
    patch.setattr(local_workers, "pickled", lambda call: local_workers.pickle.dumps(str(folder)))
    return LocalWorkers(Call("", lambda: None, folder, folder, frozenset(), 1), workers, [])  # type: ignore[arg-type]


def task(name: str) -> Task:
    return Task(name, "dpo", 0.1, 0, 0.0, 4)


def test_a_worker_that_dies_is_started_again_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["well", "dies-2", "fails", "dies-9", "again"]
    found = hands(tmp_path, 2, monkeypatch)
    outcomes = {one.name: one.reason for one in found.do([task(name) for name in names], [])}
    found.close()
    assert outcomes["fails"] == "wrong" and set(outcomes) == set(names)
    assert outcomes["dies-9"].startswith("its worker was lost 3 times (the last time: SIGKILL); see ")
    assert {name: (tmp_path / name).stat().st_size for name in names} == {
        "well": 1,
        "dies-2": 3,
        "fails": 1,
        "dies-9": 3,
        "again": 1,
    }
    if hasattr(os, "sched_getaffinity"):
        each = [f"1 on {sorted(own)}" for own in shares(cores(), 2)]
        assert {outcomes[name] for name in ("well", "dies-2", "again")} <= set(each)
    assert all(one.process is None or one.process.poll() is not None for one in found.workers)


def test_workers_that_are_stopped_are_gone_and_nothing_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hands(tmp_path, 2, monkeypatch)
    coming = found.do([task(name) for name in ("waits-1", "waits-2", "waits-3")], [])
    taken: list[Outcome] = []
    thread = threading.Thread(target=lambda: taken.extend(coming), daemon=True)  # which waits for ever
    thread.start()
    while sum((tmp_path / f"waits-{i}").exists() for i in (1, 2)) < 2:
        time.sleep(0.01)
    found.stop()
    assert not (tmp_path / "waits-3").exists() and (tmp_path / "waits-1").stat().st_size == 1
    found.close()
    assert all(one.process is None for one in found.workers) and not taken[2:]
