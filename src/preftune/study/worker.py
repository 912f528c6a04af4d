"""A process that makes runs of a study for another one: it opens the study as that one did, and does task after task.

Nothing is shared but the study's folder and what is stored of the reference. What comes over the pipe is unpickled: it
is from its own parent, as `multiprocessing` has it.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle

from ..console import say
from ..errors import Interrupted, UserError
from ..files import write_whole
from ..model import stores_folder, with_threads
from ..stopping import SIGNALS
from ..training import versions
from .opening import Opened
from .pilots import job_of, make_pilot
from .rewards import StudyReward, fit_rewards
from .runs import Runner, reason_of
from .tasks import Outcome, Task


@dataclass(frozen=True)
class Call:
    """A study as a worker opens it: by `opening`, in the folder `here`; `digests` are of the prompts that it trains on.

    `versions` are those of whoever calls: with others, results would be others.
    """

    name: str
    opening: Callable[[], Opened]
    here: Path
    folder: Path
    digests: frozenset[str]
    threads: int
    versions: Mapping[str, str] = field(default_factory=versions)


def pickled(call: Call) -> bytes:
    """A call as another process takes it. Raises UserError for a judge that cannot be told to one."""
    try:
        told: bytes = cloudpickle.dumps(call)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise UserError(f"judge: cannot be told to another process ({error}); use one worker") from None
    return told


class Desk:
    """A study that is open, with what was found for it so far."""

    def __init__(self, call: Call) -> None:
        if dict(call.versions) != versions():
            raise UserError(f"this worker has {versions()}, who started it {dict(call.versions)}; make them alike")
        opened, self.call = call.opening(), call
        data, questions, trainings = opened.data, opened.questions, dict(opened.trainings)
        self.runner = Runner(
            call.folder, opened.bench, opened.plan, data, questions, trainings, {}, call.digests, apart=True
        )
        self.fresh = opened.fresh
        self._rewards: dict[tuple[int, float, int], StudyReward] = {}

    def do(self, task: Task) -> Outcome:
        """Do a task, unless it is done; raises Interrupted after a request to stop."""
        if self.runner.plan.rates != dict(task.rates):
            self.runner = self.runner.at_rates(dict(task.rates))
        arm = next(arm for arm in self.runner.plan.arms if arm.name == task.arm)
        runner = replace(self.runner, questions=self.runner.questions.part(0, task.prompts), grows=task.grows)
        runner = replace(runner, rewards=self._rewards_of(runner, task))
        if task.pilot is not None:
            make_pilot(job_of(runner, arm, self.fresh), task.pilot)
            return Outcome(task.name)
        return Outcome(task.name, runner.attempt(arm, task.beta, task.seed, task.noise))

    def _rewards_of(self, runner: Runner, task: Task) -> Mapping[tuple[int, float], StudyReward]:
        """The reward model of the task's votes, where the study has one: it lies in its folder already."""
        if not runner.plan.needs_reward:
            return {}
        key = (task.seed, task.noise, task.prompts)
        if key not in self._rewards:
            self._rewards.clear()  # one at a time: it may be a whole model
            plan = replace(runner.plan, seeds=(task.seed,), noises=(task.noise,))
            fitted = fit_rewards(runner.folder, runner.bench, plan, runner.data, runner.questions, runner.digests)
            self._rewards[key] = fitted[task.seed, task.noise]
        return {(task.seed, task.noise): self._rewards[key]}


_desk: list[Desk] = []  # the study that this process has open


def do_task(call: Call, task: Task, stores: Sequence[Path] = ()) -> Outcome:
    """Do a task of a study in this process, which keeps the study open; its reason, if it could not be done.

    `stores` are read from copies of its own. Raises Interrupted or KeyboardInterrupt after a request to stop.
    """
    try:
        os.chdir(call.here)
        if stores:
            copy_stores(stores)
        with with_threads(call.threads):
            if not _desk or _desk[0].call.name != call.name:
                _desk.clear()
                _desk.append(Desk(call))
            say(f"{task.name}: begun")
            return _desk[0].do(task)
    except Interrupted:
        raise
    except Exception as error:
        return Outcome(task.name, reason_of(error))


def publish(stores: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of the stores for workers elsewhere, whole whenever they are read."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / path.name for path in stores]
    for path, copy in zip(stores, copies, strict=True):
        write_whole(copy, path.read_bytes())
    return copies


_own_cache: list[str] = []


def copy_stores(stores: Sequence[Path]) -> None:
    """Have a copy of each where this process alone reads and writes: SQLite and network file systems do not agree."""
    if not _own_cache:
        _own_cache.append(tempfile.mkdtemp(prefix="preftune-worker-"))
    os.environ["PREFTUNE_CACHE"] = _own_cache[0]
    stores_folder().mkdir(parents=True, exist_ok=True)
    for path in stores:
        shutil.copyfile(path, stores_folder() / path.name)


# --- as a process of its own ------------------------------------------------------------------------------------------


def main() -> None:
    """Read a call and then tasks from standard input, and write an outcome a line to standard output.

    When the input ends, so does this; a run that it is at then, or at a signal, saves its state first.
    """
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks, busy), daemon=True).start()
    try:
        call = tasks.get()
        while (task := tasks.get()) is not None:
            busy.set()
            outcome = do_task(call, task)
            busy.clear()
            print(json.dumps(asdict(outcome)), file=replies, flush=True)
    except (Interrupted, KeyboardInterrupt) as stop:
        say(str(stop) or "stopped")
        sys.exit(130)


def _listen(source: BinaryIO, tasks: queue.SimpleQueue[Any], busy: threading.Event) -> None:
    """Hand on what is asked for. Where whoever asks has gone, what is being done is stopped."""
    try:
        while True:
            tasks.put(pickle.load(source))
    except (EOFError, pickle.UnpicklingError):
        tasks.put(None)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
