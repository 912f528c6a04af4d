"""Workers on this machine: a process for each share of the cores, started again when it is lost."""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..console import say
from .placing import cores, shares
from .tasks import Outcome, Task
from .worker import Call, pickled

COMMAND = [sys.executable, "-c", "from preftune.study.worker import main; main()"]
TRIES = 3  # times that a task is begun whose worker is lost
PATIENCE = 30.0  # seconds for a worker without a task to end


class Lost(Exception):
    """A worker that ended without an answer."""


@dataclass
class Worker:
    """A process on its own cores, started when it is asked for something; it says what it has to say in a log."""

    call: bytes
    cores: tuple[int, ...]
    threads: int
    log: Path
    gpu: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    starting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def start(self) -> None:
        """Start the process, if none is there. It inherits the cores of the thread that this is called in."""
        with self.starting:
            if self.process is None or self.process.poll() is not None:
                self._start()

    def _start(self) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                start_new_session=True,  # signals of the terminal are for whoever started it, who tells it then
            )
        self._send(self.call)

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(self.threads)}
        return {**os.environ, **own, **({} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu})}

    def _send(self, content: bytes) -> None:
        assert self.process is not None and self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the answer will show
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def do(self, task: Task) -> Outcome:
        """What became of a task. Raises Lost when the process ends without saying so."""
        self.start()
        self._send(pickle.dumps(task))
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            code = self.process.wait()
            _close_pipes(self.process)
            self.process = None
            raise Lost(signal.Signals(-code).name if code < 0 else f"exit code {code}")
        return Outcome(**json.loads(line))

    def tell(self, number: int) -> None:
        """Send the process a signal, if it is there."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self) -> None:
        """Tell the process that there is no more to do, and wait for its end."""
        with self.starting:
            process = self.process
        if process is None:
            return
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: its pipes are closed
            process.communicate(timeout=PATIENCE)
        process.kill()
        process.wait()
        _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Of a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe:
                pipe.close()


class LocalWorkers:
    """So many workers on this machine, each with its share of the cores (and one of the GPUs, where there are some).

    Raises UserError for a study that cannot be told to another process.
    """

    def __init__(self, call: Call, workers: int, gpus: Sequence[str]) -> None:
        available, told = cores(), pickled(call)
        if workers > len(available):
            say(f"--workers {workers}: there are {len(available)} cores, which the workers share; fewer may be faster")
        self.workers = [
            Worker(
                told,
                own,
                call.threads,
                call.folder / "workers" / f"worker-{i + 1}.log",
                gpus[i % len(gpus)] if gpus else None,
            )
            for i, own in enumerate(shares(available, workers))
        ]
        self.stopping = False
        self.serving = [threading.Thread(target=worker.start, daemon=True) for worker in self.workers]
        for thread in self.serving:  # they open the study while the reference is computed
            thread.start()

    def do(self, tasks: Sequence[Task], stores: Sequence[Path]) -> Iterator[Outcome]:
        """Outcomes as they come; the stores are those of this machine."""
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        busy = self.workers[: len(tasks)]
        self.serving = [threading.Thread(target=self._serve, args=(one, waiting, done), daemon=True) for one in busy]
        for thread in self.serving:
            thread.start()
        for _ in tasks:
            yield done.get()

    def _serve(self, worker: Worker, waiting: queue.SimpleQueue[Task], done: queue.SimpleQueue[Outcome]) -> None:
        """Have a worker do what waits, until nothing does."""
        with suppress(queue.Empty):
            while not self.stopping:
                done.put(self._attempt(worker, waiting.get_nowait()))

    def _attempt(self, worker: Worker, task: Task) -> Outcome:
        """Have a worker do a task, again if it is lost."""
        why = ""
        for _ in range(TRIES):
            if self.stopping:
                break
            try:
                return worker.do(task)
            except Lost as lost:
                why = str(lost)
                if not self.stopping:
                    say(f"{task.name}: its worker was lost ({why})")
        return Outcome(task.name, f"its worker was lost {TRIES} times (the last time: {why}); see {worker.log}")

    def stop(self) -> None:
        """Have the workers save what they are at, and wait for them; a KeyboardInterrupt ends them at once."""
        self.stopping = True
        try:
            for worker in self.workers:
                worker.tell(signal.SIGTERM)
            for thread in self.serving:
                thread.join()
        except KeyboardInterrupt:
            for worker in self.workers:
                worker.tell(getattr(signal, "SIGKILL", signal.SIGTERM))
            raise

    def close(self) -> None:
        """End them."""
        self.stopping = True
        for worker in self.workers:
            worker.end()
