"""A training that can be stopped and gone on with: the loop, its log and its saved state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torch import nn
from torch.optim import AdamW

from ..console import bar
from ..errors import Interrupted, NotFinite, UserError
from ..evidence import loss_alarms, read_metrics, record_line, say_alarms, write_json
from ..files import write_whole
from ..methods import Terms
from ..model import check_state, load_state, ranks, save_state, state_record
from ..stopping import StopRequests, stop_requests
from .folders import FAILED
from .loop import Step, linear_schedule, run_loop
from .settings import Settings


@dataclass(frozen=True)
class Session:
    """Where a training keeps its log and state, and what it is: `identity` must agree for it to be gone on with.

    `lacks(record)` says what else speaks against a saved state. Raises UserError, naming what differs, when the state
    in the folder was made with something else.
    """

    folder: Path
    identity: Mapping[str, Any]
    resume: bool
    lacks: Callable[[Mapping[str, Any]], str] = lambda record: ""

    def __post_init__(self) -> None:
        if self.resume:
            ranks().led(lambda: check_state(self.state, self._lacks))
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

    def _lacks(self, record: Mapping[str, Any]) -> str:
        """What speaks against a state, such as steps that are not in the log; "" if nothing does."""
        rows = _whole_rows(self.log)
        if len(rows) < record["step"]:
            return f"{self.log.name} has only {len(rows)} of its steps"
        return self.lacks(record)

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
    step to step. `at_checkpoint(step)` runs at `checkpoints` evenly spaced whole steps, and the state is saved after
    it; a request to stop interrupts it, and it runs again when the training is gone on with. Raises Interrupted after a
    request to stop, and NotFinite, which marks the folder with `failed.json`, for a loss, a gradient or samples that
    are not finite.
    """
    groups = ranks().groups(list(parameters.values()))
    optimizer = AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, eps=eps, fused=True)
    marks = checkpoint_steps(total, checkpoints)
    record = load_state(session.state, parameters, optimizer) if session.record() is not None else {"step": 0}
    done = record["step"]
    scheduler = linear_schedule(optimizer, warmup=settings.warmup, steps=total, done=done)
    leads = ranks().leads
    if leads:
        session.folder.mkdir(parents=True, exist_ok=True)
        _keep_metrics(session.log, done)

    with (
        stop_requests(hand_on=True) as stopping,
        marked(session.folder / FAILED) if leads else nullcontext(),
        bar() as progress,
        (session.log if leads else Path(os.devnull)).open("a", encoding="utf-8") as log,
    ):
        stopping.held = True  # until whoever asked for this training has kept what came of it
        task = progress.add_task(description, total=total, completed=done)
        every = settings.save_every
        passed = record.get("passed", sum(mark <= done for mark in marks))
        ongoing = _Ongoing(session, parameters, optimizer, kept, stopping, total, marks, at_checkpoint, passed, every)

        def after_step(step: Step, metrics: Mapping[str, float]) -> None:
            log.write(record_line({"step": step.number, **metrics}))
            log.flush()
            progress.update(task, completed=step.number, description=f"{description}  loss {metrics['loss']:.4f}")
            if step.number == total // 2 and leads:
                say_alarms(loss_alarms(read_metrics(session.log)), " at half time, of the steps so far")
            if step.whole:
                ongoing.evaluate(step.number)
                ongoing.save_at_times(step.number)

        ongoing.evaluate(done)
        run_loop(
            ongoing.obeying(steps_after(done), done),
            loss_of,
            optimizer=optimizer,
            scheduler=scheduler,
            parameters=list(parameters.values()),
            clip_norm=settings.clip_norm,
            tokens_of=tokens_of,
            after_step=after_step,
        )


@contextmanager
def marked(mark: Path) -> Iterator[None]:
    """A training whose numbers are no longer finite leaves a mark that says why, for as long as it is not mended."""
    mark.unlink(missing_ok=True)
    try:
        yield
    except NotFinite as error:
        write_json(mark, {"reason": str(error)})
        raise


@dataclass
class _Ongoing:
    """A training between two of its steps: there it is evaluated, saved and stopped.

    `marks` are the steps to evaluate at, of which the first `passed` are over.
    """

    session: Session
    parameters: Mapping[str, nn.Parameter]
    optimizer: AdamW
    kept: Callable[[], Mapping[str, Any]]
    stopping: StopRequests
    total: int
    marks: Sequence[int]
    at_checkpoint: Callable[[int], None]
    passed: int
    save_every: float  # minutes, so that little is lost when the machine goes down
    saved: float = field(default_factory=time.monotonic)

    def obeying(self, steps: Iterable[Step], done: int) -> Iterator[Step]:
        """The steps, until a request to stop comes. Making one, which may sample, is cut short."""
        left, number, whole = iter(steps), done, True
        while True:
            if ranks().any(self.stopping()) and whole:
                self.stop(number)
            try:
                with self.interruptible() if whole else nullcontext():
                    step = next(left, None)
            except KeyboardInterrupt:
                self.stop(number)
            if step is None:
                return
            yield step
            number, whole = step.number, step.whole

    def interruptible(self) -> AbstractContextManager[None]:
        """As of a request to stop, where it comes to one process; several obey it together, between two steps."""
        return self.stopping.interruptible() if ranks().world == 1 else nullcontext()

    def evaluate(self, step: int) -> None:
        """What is to be done at this step, unless it is over."""
        if self.passed == len(self.marks) or self.marks[self.passed] > step:
            return
        try:
            with self.interruptible():
                self.at_checkpoint(step)
        except KeyboardInterrupt:
            self.stop(step)
        self.passed = sum(mark <= step for mark in self.marks)
        if step:
            self.save(step)

    def save_at_times(self, step: int) -> None:
        """Save if the last saved state is old."""
        if ranks().any(time.monotonic() - self.saved >= 60 * self.save_every):
            self.save(step)

    def save(self, step: int) -> None:
        """Save the state after this step."""
        if ranks().leads:
            with self.session.log.open("rb") as log:
                os.fsync(log.fileno())  # no state without its steps
        record = {"step": step, "passed": self.passed, **self.session.identity, "kept": dict(self.kept())}
        save_state(self.session.state, self.parameters, self.optimizer, record)
        self.saved = time.monotonic()

    def stop(self, step: int) -> NoReturn:
        """Save what there is to save, and stop."""
        if not step:
            raise Interrupted(f"{self.session.folder}: stopped before the first step")
        self.save(step)
        raise Interrupted(f"{self.session.folder}: stopped after step {step} of {self.total}; the state is saved")


def checkpoint_steps(total: int, checkpoints: int) -> list[int]:
    """`checkpoints` evenly spaced steps, the last one at the end."""
    return sorted({max(1, round(total * i / checkpoints)) for i in range(1, checkpoints + 1)})


def _keep_metrics(path: Path, done: int) -> None:
    """Drop what was logged after the saved state: those steps are run again."""
    write_whole(path, b"".join(_whole_rows(path)[:done]))


def _whole_rows(path: Path) -> list[bytes]:
    """The lines of a log; one that an interruption has cut is none."""
    return [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")] if path.exists() else []
