"""Where the runs of a study are made, settled before anything is loaded. No torch.

In this process, by workers beside it, each with its share of the cores, by Ray, or by Slurm.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..errors import UserError, nearest

LOCAL, RAY, SLURM = "local", "ray", "slurm"
EXECUTORS = (LOCAL, RAY, SLURM)
PACKAGES = {RAY: "ray", SLURM: "submitit"}
RESOURCES = {"cpu": "cores", "gpu": "GPUs", "memory": "GiB", "hours": "hours"}  # of one run, and their units
OF_SLURM = ("hours",)
DEFAULTS = {RAY: {"cpu": 1.0}, SLURM: {"cpu": 1.0, "hours": 24.0}}  # submitit's own limit is five minutes
ANSWERS_WITHIN = 5.0  # seconds
CLIENT_PORT, PORT = 10001, 6379  # of Ray, where an address names none


@dataclass(frozen=True)
class Placement:
    """Where runs are made: by so many `workers` on this machine, where one is this process itself, or by an executor
    that gives each run its `resources`."""

    executor: str = LOCAL
    workers: int = 1
    address: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    @property
    def here(self) -> bool:
        """Whether this process makes the runs."""
        return self.executor == LOCAL and self.workers == 1

    @property
    def threads(self) -> int | None:
        """Of a run: those of its share of the cores, or fewer where `OMP_NUM_THREADS` says so; None: nobody shares."""
        if self.here:
            return None
        if self.executor != LOCAL:
            return int(self.resources["cpu"])
        share, told = len(shares(cores(), self.workers)[0]), os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(told)) if told.isdigit() and int(told) else share


def settle_placement(
    executor: str = LOCAL,
    workers: int | None = None,
    address: str | None = None,
    resources: str | None = None,
) -> Placement:
    """Check where runs are to be made. Raises UserError for what contradicts itself, a library that is missing, and an
    address that nobody answers at."""
    if executor not in EXECUTORS:
        raise UserError(f"--executor {executor}: unknown{nearest(executor, EXECUTORS)}")
    if workers is not None and executor != LOCAL:
        raise UserError(f"--workers {workers}: {executor} makes as many runs at once as it has room for; leave it out")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1")
    if address is not None and executor != RAY:
        raise UserError(f"--address {address}: is where Ray runs; add --executor ray, or leave it out")
    if executor == LOCAL and resources is not None:
        raise UserError(f"--resources {resources}: are for --executor ray or slurm; workers here share the cores")
    if executor == LOCAL:
        return Placement(LOCAL, workers or 1)
    given = {**DEFAULTS[executor], **parse_resources(resources or "", executor)}
    if find_spec(PACKAGES[executor]) is None:
        raise UserError(f"--executor {executor}: needs {PACKAGES[executor]}: pip install 'preftune[{executor}]'")
    if address is not None:
        check_answers(address)
    if executor == SLURM and shutil.which("sbatch") is None:
        raise UserError("--executor slurm: there is no sbatch here; run it where jobs are submitted")
    return Placement(executor, 1, address, given)


def parse_resources(text: str, executor: str) -> dict[str, float]:
    """What each run is given, from `gpu=1,cpu=4`. Raises UserError for what is no resource, or no amount of it."""
    found: dict[str, float] = {}
    known = [name for name in RESOURCES if executor == SLURM or name not in OF_SLURM]
    for part in filter(None, text.split(",")):
        name, _, amount = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise UserError(f"--resources {part}: unknown{nearest(name, known)}")
        try:
            found[name] = float(amount)
        except ValueError:
            raise UserError(f"--resources {part}: write {name}=N, in {RESOURCES[name]}") from None
        whole = name == "cpu" or (name == "gpu" and executor == SLURM)
        if not 0 < found[name] < math.inf or (whole and found[name] % 1):
            raise UserError(f"--resources {part}: must be {'a whole number' if whole else 'a number'} above 0")
    return found


def check_answers(address: str) -> None:
    """Raises UserError if nobody answers at an address of Ray's: HOST:PORT, ray://HOST:PORT, or auto."""
    place = address.removeprefix("ray://")
    if place == "auto":
        return
    host, _, port = place.rpartition(":") if ":" in place else (place, "", "")
    if port and not port.isdigit():
        raise UserError(f"--address {address}: write HOST:PORT, ray://HOST:PORT or auto")
    number = int(port) if port else CLIENT_PORT if address.startswith("ray://") else PORT
    try:
        socket.create_connection((host, number), timeout=ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--address {address}: nobody answers there ({why}); is Ray running?") from None


# --- cores ------------------------------------------------------------------------------------------------------------


def cores() -> list[int]:
    """The cores that this process may use, those that are threads of one beside each other."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0), key=_place)
    return list(range(os.cpu_count() or 1))


def _place(core: int) -> tuple[int, int, int]:
    """(package, physical core, number); what the system does not tell is its number."""
    folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        package, physical = (int((folder / name).read_text()) for name in ("physical_package_id", "core_id"))
    except (OSError, ValueError):
        package, physical = 0, core
    return package, physical, core


def shares(available: list[int], workers: int) -> list[tuple[int, ...]]:
    """The cores of each worker: as many for each, apart from each other, unless there are more workers than cores."""
    each = len(available) // workers
    if not each:
        return [(available[i % len(available)],) for i in range(workers)]
    return [tuple(available[i * each : (i + 1) * each]) for i in range(workers)]
