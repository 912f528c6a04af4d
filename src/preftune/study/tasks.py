"""What a worker is asked for, and what comes back.

The folder of a run is the protocol: its worker leaves there all that the run is, and whoever is asked for it again goes
on from what lies there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """A run, or where there is a rate in `pilot` a pilot at it; `rates` are those that were chosen for arms so far.

    Policies are asked the first `prompts` of the study's; `grows`: these may be more than a finished run was asked.
    """

    name: str
    arm: str
    beta: float | None
    seed: int
    noise: float
    prompts: int
    grows: bool = False
    rates: tuple[tuple[str, float], ...] = ()
    pilot: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task: why it failed, or nothing."""

    name: str
    reason: str = ""


class Executor(Protocol):
    """Who does tasks in other processes. One whose process was lost is done again, a few times."""

    def do(self, tasks: Sequence[Task], stores: Sequence[Path]) -> Iterator[Outcome]:
        """Outcomes as they come; the tasks do not depend on each other, and find in `stores` what they share."""
        ...

    def stop(self) -> None:
        """Have the workers save what they are at, and wait for them."""
        ...

    def close(self) -> None:
        """End them: there are no more tasks."""
        ...
