"""The executor that makes the runs of a study, where it was settled that they are made (`placing`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import torch

from ..judges import REWARD, Jury
from .opening import Opened
from .placing import LOCAL, RAY, Placement
from .tasks import Executor
from .worker import Call


@contextmanager
def open_executor(
    placement: Placement, opening: partial[Opened], jury: Jury, folder: Path, digests: frozenset[str]
) -> Iterator[Executor | None]:
    """Whoever makes the runs, ended afterwards; None: this process. Raises UserError where Ray does not answer.

    `opening` is how this process opened the study. Workers ask no judge: of the `jury` they know what its reward model
    is fitted on, and the gold reward.
    """
    if placement.here:
        yield None
        return
    known = replace(jury, specs=tuple(spec for spec in jury.specs if spec.kind == REWARD))
    alike = partial(opening, jury=known, allow_overlap=True, test_judges=False)
    call = Call(uuid4().hex, alike, Path.cwd(), folder, digests, placement.threads or 1)
    executor = _open(placement, call)
    try:
        yield executor
    finally:
        executor.close()


def _open(placement: Placement, call: Call) -> Executor:
    if placement.executor == LOCAL:
        from .local_workers import LocalWorkers

        return LocalWorkers(call, placement.workers, gpus())
    if placement.executor == RAY:
        from .ray_workers import RayWorkers

        return RayWorkers(call, placement.address, placement.resources)
    from .slurm_workers import SlurmWorkers

    return SlurmWorkers(call, placement.resources)


def gpus() -> list[str]:
    """The GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return names.split(",")[: torch.cuda.device_count()]
