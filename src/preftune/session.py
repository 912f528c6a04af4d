"""A training that can be stopped and gone on with: the loop, its log, its saved state and the signals that stop it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import AdamW

from .console import bar, say
from .engine import load_state, save_state, state_record
from .errors import Interrupted, UserError
from .loop import Step, linear_schedule, run_loop
from .methods import Terms
from .settings import Settings

SAVE_EVERY = 600.0  # seconds between saved states, so that little is lost when the machine goes down


@dataclass(frozen=True)
class Session:
    """Where a training keeps its log and state, and what it is: `identity` must agree for it to be gone on with.

    Raises UserError, naming what differs, when the state in the folder was made with something else.
    """

    folder: Path
    identity: Mapping[str, Any]
    resume: bool

    def __post_init__(self) -> None:
        record = self.record() or self.identity
        for name, value in self.identity.items():
            if record.get(name) != value:
                is_content = name in ("model", "reference", "data", "reward")
                shown = f"another {name}" if is_content else f"{name} {record.get(name)!r}, now {value!r}"
                raise UserError(
                    f"{self.folder}: cannot resume: it was started with {shown}; use the same, or a new --out"
                )

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "metrics.jsonl"

    def record(self) -> dict[str, Any] | None:
        """What the saved state says of itself; None if there is none to go on from."""
        return state_record(self.state) if self.resume else None


def run_session(
    session: Session,
    steps_after: Callable[[int], Iterable[Step]],
    loss_of: Callable[[Any], Terms],
    *,
    parameters: Mapping[str, nn.Parameter],
    settings: Settings,
    total: int,
    tokens_of: Callable[[Any], int],
    description: str,
    at_checkpoint: Callable[[int], None] = lambda step: None,
    checkpoints: int = 1,
    kept: Callable[[], Mapping[str, Any]] = dict,
    eps: float = 1e-8,
) -> None:
    """Run all steps, or those after a saved state, logging each to `metrics.jsonl`.

    `steps_after(done)` gives the steps that are left; steps may be made while the loop runs. The state is saved, and a
    request to stop obeyed, after a step that is `whole`. `kept()` is saved with it, for what a method carries on from
    step to step. `at_checkpoint(step)` runs at `checkpoints` evenly spaced whole steps. Raises Interrupted after a
    request to stop.
    """
    optimizer = AdamW(
        parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=eps, fused=True
    )
    done = 0
    if session.record() is not None:
        done = load_state(session.state, parameters, optimizer)["step"]
    scheduler = linear_schedule(optimizer, warmup=settings.warmup, steps=total, done=done)
    session.folder.mkdir(parents=True, exist_ok=True)
    _keep_metrics(session.log, done)
    marks = checkpoint_steps(total, checkpoints)
    passed = sum(mark <= done for mark in marks)
    last_saved = time.monotonic()

    with stop_requests() as stopping, bar() as progress, session.log.open("a", encoding="utf-8") as log:
        task = progress.add_task(description, total=total, completed=done)

        def after_step(step: Step, metrics: Mapping[str, float]) -> None:
            nonlocal last_saved, passed
            log.write(json.dumps({"step": step.number, **metrics}) + "\n")
            log.flush()
            progress.update(task, completed=step.number, description=f"{description}  loss {metrics['loss']:.4f}")
            if not step.whole:
                return
            if passed < len(marks) and marks[passed] <= step.number:
                passed = sum(mark <= step.number for mark in marks)
                at_checkpoint(step.number)
            if stopping() or time.monotonic() - last_saved > SAVE_EVERY:
                record = {"step": step.number, **session.identity, "kept": dict(kept())}
                save_state(session.state, parameters, optimizer, record)
                last_saved = time.monotonic()
            if stopping() and step.number < total:
                raise Interrupted(f"{session.folder}: stopped after step {step.number} of {total}; the state is saved")

        run_loop(
            steps_after(done),
            loss_of,
            optimizer=optimizer,
            scheduler=scheduler,
            parameters=list(parameters.values()),
            clip_norm=settings.clip_norm,
            tokens_of=tokens_of,
            after_step=after_step,
        )


def checkpoint_steps(total: int, checkpoints: int) -> list[int]:
    """`checkpoints` evenly spaced steps, the last one at the end."""
    return sorted({max(1, round(total * i / checkpoints)) for i in range(1, checkpoints + 1)})


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that the loop asks after each step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        say("stopping after this step (again to stop at once, losing what is not saved)")

    handled = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, ask) for number in handled]
    except ValueError:  # not in the main thread: signals stay as they are
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


def _keep_metrics(path: Path, done: int) -> None:
    """Drop what was logged after the saved state: those steps are run again."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() and done else []
    path.write_text("".join(rows[:done]), encoding="utf-8")
