"""How this process was started: alone, or as one of several by torchrun, which says so in the environment. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import UserError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HOW = "start with torchrun --nproc-per-node N -m preftune train ..., or unset it to run one process"


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is: over all machines, and on this one."""

    rank: int
    world: int
    local_rank: int
    local_world: int


def launched() -> Launch | None:
    """How this process was started; None if it is the only one of its run.

    Raises UserError for an environment that says it in part, or says what cannot be.
    """
    given = {name: os.environ[name] for name in NEEDED if os.environ.get(name)}
    if "RANK" not in given and given.get("WORLD_SIZE", "1") == "1":
        return None
    if lacking := [name for name in NEEDED if name not in given]:
        there = next(name for name in ("RANK", "WORLD_SIZE") if name in given)
        raise UserError(f"{there}={given[there]} is set in the environment and {lacking[0]} is not; {HOW}")
    launch = Launch(*(_number(name, given[name]) for name in NEEDED[:4]))
    places = (("RANK", launch.rank, launch.world), ("LOCAL_RANK", launch.local_rank, launch.local_world))
    for name, place, size in places:
        if place >= size:
            raise UserError(f"{name}={place} in the environment: there are {size} processes, counted from 0; {HOW}")
    return None if launch.world == 1 else launch


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}={text} in the environment: must be a whole number; {HOW}")
    return int(text)
