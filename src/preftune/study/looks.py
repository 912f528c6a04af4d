"""Predeclared looks (`until="verdict"`): after so many seeds, on so many prompts, each with its share of the 5%.

A study that grows until it finds a difference finds one too often. So all looks are fixed before the first run, and at
look k arms are told apart at α_k, where Σ α_k = .05: whichever look it ends at, arms that are equal are told apart in
5% of studies at most. What ends a study are told-apart arms, the last look, or hours; what each look adds depends on
none of its results.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..console import say
from ..errors import UserError
from ..evidence import Comparison, read_info, write_json

VERDICT = "verdict"
SEEDS = (3, 6, 12)
ALPHA = (0.005, 0.014, 0.031)
TIMES = (1, 2, 4)  # the evaluation prompts of the first look, as far as there are so many


@dataclass(frozen=True)
class Look:
    """So many seeds of every run, evaluated on so many prompts, and how often equal arms may be told apart here."""

    seeds: int
    prompts: int
    alpha: float


def schedule(first: int, available: int) -> tuple[Look, ...]:
    """The looks of a study with so many evaluation prompts at the first one, of those that are held out for it."""
    return tuple(
        Look(seeds, min(times * first, available), alpha)
        for seeds, times, alpha in zip(SEEDS, TIMES, ALPHA, strict=True)
    )


def every_seed(until: str | None, seeds: Sequence[int] | None) -> Sequence[int]:
    """The seeds that a study has at most: those given, or those of its last look."""
    if until:
        return range(SEEDS[-1])
    return (0,) if seeds is None else seeds


def reserved(prompts: int, until: str | None, folder: Path) -> int:
    """How many evaluation prompts are held out at most, of which the first look has `prompts`.

    Also where a study in the folder had looks and is grown by hand.
    """
    had = (folder / "study.json").exists() and read_info(folder)["looks"]
    return prompts * TIMES[-1] if until or had else prompts


def check_until(
    until: str | None, hours: float | None, seeds: Sequence[int] | None, samples: int, arms: int, scored: bool
) -> None:
    """Raises UserError for what contradicts looks, or what no look could ever answer."""
    if until not in (None, VERDICT):
        raise UserError(f"--until {until}: must be {VERDICT}")
    if hours is not None and until is None:
        raise UserError(f"--hours {hours:g}: says when a study stops that goes on; add --until {VERDICT}")
    if hours is not None and not 0 < hours < math.inf:
        raise UserError(f"--hours {hours:g}: must be greater than 0")
    if until is None:
        return
    if seeds is not None:
        told = ", ".join(map(str, SEEDS))
        raise UserError(f"--seeds: --until {VERDICT} has looks of its own, after {told} seeds; leave one of them out")
    if arms < 2:
        raise UserError(f"--until {VERDICT}: there is one arm, and so no verdict; add another to --methods")
    if samples < 1 or not scored:
        raise UserError(
            f"--until {VERDICT}: nothing scores the responses, so that no look could tell arms apart; "
            "name a --judge, and give --samples 1 or more"
        )


def why_ended(
    looks: Sequence[Look], done: int, pairs: Sequence[Comparison], hours: float | None, used: float, more: float
) -> str:
    """Why no look follows the last one of those done, in words; "" if one does.

    `used` are the hours so far, `more` those that the next look would take.
    """
    if pairs and all(pair.distinct for pair in pairs):
        return "every pair of arms was told apart"
    if done == len(looks):
        return "it is the last one declared"
    if hours is not None and used + more > hours:
        return f"{used:.2g} of {hours:g} hours are used, and look {done + 1} would take about {more:.2g} more"
    return ""


@dataclass(frozen=True)
class Clock:
    """The time that a study has taken, also before it was interrupted: kept in a file, saved after every run."""

    path: Path
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, folder: Path, before: float, started: float) -> Clock:
        """The clock of a study's folder; `before` is what `study.json` knows."""
        path = folder / "clock.json"
        return cls(path, max(before, _kept_seconds(path)), started)

    def seconds(self) -> float:
        """Seconds so far."""
        return round(self.before + time.monotonic() - self.started, 1)

    def save(self) -> None:
        """Keep what is used."""
        write_json(self.path, {"seconds": self.seconds()})


def _kept_seconds(path: Path) -> float:
    """What a clock's file says; a broken one counts for nothing, and `study.json` for what it knows."""
    if not path.exists():
        return 0.0
    try:
        kept = float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        kept = math.nan
    if 0 <= kept < math.inf:
        return kept
    say(f"{path}: cannot be read; the time that study.json knows of counts")
    return 0.0
