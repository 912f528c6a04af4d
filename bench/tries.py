"""A command on tiny models that nobody disturbed, and what is compared with it: the ground of `bench.faults`."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.attempts import CRASHED, Attempt, Ended, Mark, Strike
from bench.commands import Command, differences, left_by

GENTLE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED, REFUSED = 130, 2


@dataclass(frozen=True)
class Undisturbed:
    """A command, what is added to it, what it leaves when nobody disturbs it, and the stages that it goes through."""

    command: Command
    inputs: Sequence[str]
    work: Path
    left: Mapping[str, Any]
    marks: Sequence[Mark]

    def start(
        self,
        work: Path,
        *,
        on: bool = False,
        out: Path | None = None,
        cache: Path | None = None,
        said: Path | None = None,
        largest: int | None = None,
    ) -> Attempt:
        """The command under way, by default in a folder and with a store of its own; `on`: as it is gone on with."""
        arguments = [*self.command.arguments, *self.inputs, "--out", str(out or work / "out")]
        arguments += self.command.to_go_on if on else ()
        return Attempt.start(arguments, cache or work / "cache", said or work / "said", largest=largest)


@dataclass
class Try:
    """What became of a command that was disturbed."""

    command: str
    seed: int
    strikes: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def undisturbed(command: Command, inputs: Sequence[str], work: Path) -> Undisturbed:
    """Run it once."""
    work.mkdir()
    ended = Undisturbed(command, inputs, work, {}, ()).start(work).end()
    if ended.code:
        raise SystemExit(f"{command.name}: exit code {ended.code}\n{ended.said}")
    return Undisturbed(command, inputs, work, left_by(work / "out"), ended.marks)


def drawn_strike(rng: random.Random, marks: Sequence[Mark]) -> Strike:
    """A moment of an undisturbed command, every stage of it as likely as another, and a signal."""
    stage = rng.choice(sorted({mark.stage for mark in marks}))
    times = sorted((mark for mark in marks if mark.stage == stage), key=lambda mark: mark.entered)
    place = rng.randrange(len(times))
    number = signal.SIGKILL if rng.random() < 2 / 3 else rng.choice(GENTLE)
    return Strike(stage, place, rng.random() * times[place].seconds, number)


@dataclass(frozen=True)
class Cut:
    """A file that was cut, and what it held."""

    path: Path
    held: bytes
    length: int


def cut_some_file(rng: random.Random, folder: Path) -> Cut | None:
    """Cut a file at a random length; None if there is none."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    if not files:
        return None
    chosen = rng.choice(files)
    cut = Cut(chosen, chosen.read_bytes(), rng.randrange(chosen.stat().st_size))
    os.truncate(chosen, cut.length)
    return cut


def problem_of(ended: Ended) -> str:
    """What is wrong with how a process ended that was struck or not; "" if nothing is."""
    if "Traceback (most recent call last)" in ended.said or ended.code == CRASHED:
        return "a traceback: " + ended.said.strip().splitlines()[-1][:300]
    allowed = (0, STOPPED, -signal.SIGKILL) if ended.struck else (0,)
    return "" if ended.code in allowed else f"exit code {ended.code}: {ended.said.strip().splitlines()[-1][:300]}"


def kill(whole: Undisturbed, seed: int, work: Path) -> Try:
    """Strike a command so many times at most, go on until it is done, and compare."""
    rng = random.Random(seed)
    found, cutting = Try(whole.command.name, seed), rng.random() < 1 / 4
    wanted = rng.randint(1, 3)
    cut: Cut | None = None
    while True:
        strike = drawn_strike(rng, whole.marks) if len(found.strikes) < wanted else None
        ended = whole.start(work, on=(work / "out").exists()).end(strike)
        if cut and ended.code == REFUSED and str(cut.path) in ended.said:  # a file that nothing can be made of again
            found.refused.append(ended.said.strip().splitlines()[-1])
            cut.path.write_bytes(cut.held)
            cut = None
            continue
        if problem := problem_of(ended):
            found.wrong.append(problem)
            return found
        found.told += [line for line in ended.said.splitlines() if "set aside" in line or "broken" in line]
        if ended.code == 0:
            break
        assert strike
        found.strikes.append(f"{signal.Signals(strike.signal).name} in {strike.stage}")
        cut = cut_some_file(rng, work / "out") if cutting else None
        found.cut += [f"{cut.path.relative_to(work / 'out')} at {cut.length}"] if cut else []
    found.wrong += differences(work / "out", whole.left)
    return found
