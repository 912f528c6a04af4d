"""A preftune command in a process of its own, which says where it is, and can be struck down there.

The process is a fork of one that has imported everything, so that a try takes as long as its work.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn
from unittest.mock import patch

import transformers.models.llama.modeling_llama  # noqa: F401 - with what follows, all that a command imports
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

from preftune.cli import main

STAGES: Mapping[str, Sequence[str]] = {
    "reading": ("preftune.cli.compare.read_ballots", "preftune.cli.train.read_ballots"),
    "loading": ("preftune.study.opening.open_workbench", "preftune.study.single.open_workbench"),
    "reference pass": ("preftune.training.run.fill_store", "preftune.training.votes.fill_store"),
    "reward fit": ("preftune.preference.rewards.fit_reward", "preftune.study.single.fit_reward"),
    "training": ("preftune.training.session.run_loop",),
    "sampling": ("preftune.training.online.sample_responses", "preftune.study.evaluate.sample_responses"),
    "saving a state": ("preftune.training.session.save_state",),
    "saving a policy": ("preftune.model.policy.Policy.save",),
    "evaluation": ("preftune.study.asking.Evaluator.evaluate", "preftune.training.run.measure_held_out"),
    "judging": ("preftune.study.making.judge_study",),
    "report": ("preftune.study.study.write_report",),
}


def function_of(name: str) -> Any:
    """What stands under a dotted name, a method of a class among it."""
    target, _, attribute = name.rpartition(".")
    return getattr(resolve_name(target), attribute)


FUNCTIONS = {name: (stage, function_of(name)) for stage, names in STAGES.items() for name in names}
CRASHED = 70  # what a process of ours exits with that ends in a traceback


@dataclass(frozen=True)
class Mark:
    """A stage that a process went through: when it came to it, and how long it stayed."""

    stage: str
    entered: float
    seconds: float


@dataclass(frozen=True)
class Strike:
    """A signal to a process that has come to a stage for the time `occurrence` (from 0), so many seconds later."""

    stage: str
    occurrence: int
    seconds: float
    signal: int


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal; what it said; the stages that it left; whether it was
    struck before its end."""

    code: int
    said: str
    marks: Sequence[Mark]
    struck: bool


@dataclass
class Attempt:
    """A command under way. `end` waits for it."""

    pid: int
    marks: int
    said: Path

    @classmethod
    def start(cls, arguments: Sequence[str], cache: Path, said: Path, *, largest: int | None = None) -> Attempt:
        """`preftune ARGUMENTS` with its store in `cache`, which writes no file of more than `largest` bytes."""
        sys.stdout.flush()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be(arguments, cache, said, writing, largest)
        os.close(writing)
        return cls(pid, reading, said)

    def end(self, strike: Strike | None = None) -> Ended:
        """Wait for its end, and strike where that is asked for."""
        came, struck = 0, False
        open_since: dict[str, list[float]] = {}
        marks = []
        with os.fdopen(self.marks, encoding="utf-8") as lines:
            for line in lines:
                stage, way, moment = line.rstrip("\n").split("\t")
                if way == "-":
                    start = open_since[stage].pop()
                    marks.append(Mark(stage, start, float(moment) - start))
                    continue
                open_since.setdefault(stage, []).append(float(moment))
                if strike and stage == strike.stage:
                    came += 1
                    if came == strike.occurrence + 1:
                        time.sleep(strike.seconds)
                        os.kill(self.pid, strike.signal)
                        struck = True
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return Ended(code, self.said.read_text(encoding="utf-8", errors="replace"), marks, struck)


def _be(arguments: Sequence[str], cache: Path, said: Path, marks: int, largest: int | None) -> NoReturn:
    """Become the command."""
    code = 0
    try:
        sys.stdout = sys.stderr = said.open("w", encoding="utf-8", buffering=1)
        os.environ["PREFTUNE_CACHE"] = str(cache)
        sys.argv = ["preftune", *arguments]
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        with ExitStack() as stack:
            for name, (stage, function) in FUNCTIONS.items():
                stack.enter_context(patch(name, _marked(function, stage, marks)))
            main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    finally:
        os._exit(code)


def _marked(function: Callable[..., Any], stage: str, marks: int) -> Callable[..., Any]:
    """The function, which says when it is entered and left."""

    def tell(way: str) -> None:
        os.write(marks, f"{stage}\t{way}\t{time.monotonic()}\n".encode())

    def call(*args: Any, **named: Any) -> Any:
        tell("+")
        try:
            return function(*args, **named)
        finally:
            tell("-")

    return call
