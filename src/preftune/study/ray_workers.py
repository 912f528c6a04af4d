"""Workers of Ray: a task for each run, with the resources that it needs, wherever the cluster has room."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from ..errors import Interrupted, UserError
from .tasks import Outcome, Task
from .worker import Call, do_task, pickled, publish

LOST = 3  # times that a run is begun again whose worker is lost


class RayWorkers:
    """A cluster at an address, the one that `RAY_ADDRESS` names, or one on this machine for as long as this is open.

    Runs find the study's folder, its model and preftune under the same paths as here. Raises UserError where nobody
    answers.
    """

    def __init__(self, call: Call, address: str | None, resources: Mapping[str, float]) -> None:
        pickled(call)  # so that what cannot be told to others is said in one line
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except Exception as error:  # Ray raises plain ones, too
            why = " ".join(str(error).split())
            raise UserError(f"--executor ray: cannot start at {address or 'this machine'} ({why:.200})") from None
        self.call, self.stores = ray.put(call), call.folder / "workers" / "stores"
        options: dict[str, Any] = {"num_cpus": resources["cpu"], "num_gpus": resources.get("gpu", 0)}
        options |= {"memory": resources["memory"] * 2**30} if "memory" in resources else {}
        self.remote = ray.remote(max_retries=LOST, retry_exceptions=False, **options)(_do_task)
        self.coming: list[Any] = []

    def do(self, tasks: Sequence[Task], stores: Sequence[Path]) -> Iterator[Outcome]:
        """Outcomes as they come."""
        copies = [str(path.absolute()) for path in publish(stores, self.stores)]
        named = {self.remote.remote(self.call, asdict(task), copies): task for task in tasks}
        self.coming = list(named)
        while self.coming:
            (ready,), self.coming = ray.wait(self.coming, num_returns=1)
            yield _outcome(ready, named[ready])

    def stop(self) -> None:
        """Interrupt what is being done, which saves, and wait for it; what has not begun does not begin."""
        for ref in self.coming:
            ray.cancel(ref)
        ray.wait(self.coming, num_returns=len(self.coming))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        ray.shutdown()


def _do_task(call: Call, task: Mapping[str, Any], stores: Sequence[str]) -> str:
    """A task in a worker of Ray: why it failed, if it did. That it was stopped is no reason to try again."""
    try:
        return do_task(call, Task(**task), [Path(path) for path in stores]).reason
    except (Interrupted, KeyboardInterrupt) as stop:
        return str(stop) or "stopped"


def _outcome(ref: Any, task: Task) -> Outcome:
    try:
        return Outcome(task.name, ray.get(ref))
    except TaskCancelledError:
        return Outcome(task.name, "stopped")
    except RayTaskError as error:
        return Outcome(task.name, f"its worker cannot do it ({' '.join(str(error.cause).split()):.200})")
    except RayError as error:
        why = " ".join(str(error).split())
        return Outcome(task.name, f"its worker was lost {LOST + 1} times ({type(error).__name__}: {why:.150})")
