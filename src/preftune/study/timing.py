"""How long what is left of a study takes by the clock, with so many runs at a time."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def by_the_clock(seconds: Mapping[str, float], runs: Sequence[float], chains: int, workers: int) -> float:
    """Seconds from now to the end: what is shared comes first, and then whoever is free takes the next of the `runs`.

    `seconds` are those of all work, by part. What neither is shared nor a run (pilots, a search for β) is work on
    `chains` of arms, of which each waits for itself alone.
    """
    shared = seconds["reference"] + seconds["reward models"]
    beside = sum(seconds.values()) - shared - seconds["training"] - seconds["evaluation"]
    return shared + beside / max(1, min(workers, chains)) + makespan(runs, workers)


def makespan(runs: Sequence[float], workers: int) -> float:
    """When the last of the runs is done, begun in their order by whoever is free."""
    free = [0.0] * workers
    for run in runs:
        heapq.heapreplace(free, free[0] + run)
    return max(free)
