"""Jobs of Slurm, by submitit: one for each run, which go on when whoever submitted them has gone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import submitit

from ..console import say
from ..errors import Interrupted
from .tasks import Outcome, Task
from .worker import Call, do_task, pickled, publish

TRIES = 3  # times that a run is submitted whose job is lost
PAUSE = 1.0  # seconds between two looks at the queue


class Once:
    """A task as a job of its own; submitit asks for a checkpoint when the job's time is over or it is preempted."""

    def __init__(self, call: Path, task: Task, stores: Sequence[Path]) -> None:
        self.call, self.task, self.stores = call, task, stores

    def __call__(self) -> str:
        """Why the task failed, if it did."""
        return do_task(cloudpickle.loads(self.call.read_bytes()), self.task, self.stores).reason

    def checkpoint(self) -> Any:
        """The same again: it goes on from the state that the run saved last."""
        return submitit.helpers.DelayedSubmission(self)


class SlurmWorkers:
    """A queue of Slurm (or `cluster`, another one of submitit's), each job with the resources of a run.

    Jobs and what they are told lie in a new folder in that of the study: nothing is unpickled that was there before.
    """

    def __init__(self, call: Call, resources: Mapping[str, float], cluster: str = "slurm") -> None:
        self.folder = (call.folder / "workers" / f"slurm-{uuid4().hex[:8]}").absolute()
        self.folder.mkdir(parents=True)
        self.call = self.folder / "call.pkl"
        self.call.write_bytes(pickled(call))
        self.executor = submitit.AutoExecutor(folder=self.folder, cluster=cluster)
        options: dict[str, Any] = {"name": "preftune", "cpus_per_task": int(resources["cpu"])}
        options |= {"gpus_per_node": int(resources["gpu"])} if "gpu" in resources else {}
        options |= {"mem_gb": resources["memory"]} if "memory" in resources else {}
        options |= {"timeout_min": max(1, round(60 * resources["hours"]))}
        self.executor.update_parameters(**options)
        self.jobs: dict[Any, Task] = {}

    def do(self, tasks: Sequence[Task], stores: Sequence[Path]) -> Iterator[Outcome]:
        """Outcomes as they come."""
        copies = publish(stores, self.folder / "stores")
        tries = dict.fromkeys(tasks, 0)
        waiting = list(tasks)
        while waiting or self.jobs:
            for task in waiting:
                tries[task] += 1
                self.jobs[self.executor.submit(Once(self.call, task, copies))] = task
            waiting = []
            for job in [job for job in self.jobs if job.done()]:
                task, (reason, lost) = self.jobs.pop(job), _result(job)
                if lost and tries[task] < TRIES:
                    say(f"{task.name}: job {job.job_id} was lost; it is submitted again")
                    waiting.append(task)
                else:
                    yield Outcome(task.name, reason)
            time.sleep(0 if waiting else PAUSE)

    def stop(self) -> None:
        """Cancel the jobs, of which those that run save first, and wait until they are gone."""
        for job in self.jobs:
            job.cancel()
        while not all(job.done() for job in self.jobs):
            time.sleep(PAUSE)

    def close(self) -> None:
        """Jobs that were left go on: the folders of their runs are what they write to."""


def _result(job: Any) -> tuple[str, bool]:
    """(why a task failed, whether its job was lost)."""
    try:
        return job.result(), False
    except submitit.core.utils.UncompletedJobError:
        return f"its job was lost {TRIES} times; see {job.paths.stderr}", True
    except (submitit.core.utils.FailedJobError, Interrupted) as error:
        return f"its job failed ({' '.join(str(error).split()):.200}); see {job.paths.stderr}", False
