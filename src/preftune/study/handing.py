"""Runs that do not depend on each other, made here one after the other or handed out to workers: with the same results.

What runs share is computed here first, in the order in which they would be made one by one: whatever they read of the
store then is the same, whoever makes them, and whichever is ready first. A worker leaves its rows beside its run
(`rows`), and they are gathered in that order too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from ..console import bar, say
from ..errors import Interrupted
from ..methods import Selection
from ..stopping import stop_requests
from ..training import FAILED, Arm, Training, held_out_reference, reference_values, replanned
from .asking import describe_result
from .mending import is_finished
from .naming import run_name, run_seed
from .rows import gather, rows_apart
from .runs import Identity, Runner, mark_failed
from .tasks import Executor, Outcome, Task


def attempt_all(runner: Runner, runs: Sequence[Identity]) -> dict[str, str]:
    """Do some runs, none of which depends on another; returns why some of them failed, by run.

    One that fails is marked with its reason, and tried again when the study goes on; the others are done.
    """
    if runner.executor is not None:
        reasons = _hand_out(runner, runner.executor, runs)
    else:
        reasons = {run_name(*run): _attempt(runner, run) for run in runs}
    return {name: reason for name, reason in reasons.items() if reason}


def _attempt(runner: Runner, run: Identity) -> str:
    """Do one run here; a worker may have begun it."""
    _gather(runner, run_name(*run))
    return runner.attempt(*run)


def kl_of_runs(runner: Runner, some: Sequence[tuple[str, float]]) -> list[float | None]:
    """Do the runs of some arms, each at a β, at the first seed without label noise: KL at the end of each in nats, None
    if it failed."""
    arms, seed = {arm.name: arm for arm in runner.plan.arms}, runner.plan.seeds[0]
    runs: list[Identity] = [(arms[name], beta, seed, 0.0) for name, beta in some]
    failed = attempt_all(runner, runs)
    return [None if (name := run_name(*run)) in failed else _kl_of(runner, name) for run in runs]


def _kl_of(runner: Runner, name: str) -> float | None:
    kl = max(runner.evaluator.rows(name).results(name), key=lambda row: row.step).kl
    return kl if kl is not None and math.isfinite(kl) else None


# --- by others --------------------------------------------------------------------------------------------------------


def _hand_out(runner: Runner, executor: Executor, runs: Sequence[Identity]) -> dict[str, str]:
    """Do what the runs share, and have others make them."""
    left = [run for run in runs if runner.grows or not _is_done(runner, *run)]
    for run in left:
        fill_reference(runner, *run)
    tasks = [_task_of(runner, *run) for run in left]
    waiting = {task.name for task in tasks}
    ordered = deque(run_name(*run) for run in runs)
    reasons = {}
    _gather_first(runner, ordered, waiting)
    for outcome in outcomes(runner, executor, tasks):
        reasons[outcome.name] = outcome.reason
        waiting.discard(outcome.name)
        _tell(runner, outcome)
        _gather_first(runner, ordered, waiting)
        runner.when_done()
    return reasons


def _tell(runner: Runner, outcome: Outcome) -> None:
    """Say what became of a run, and mark one whose worker could not."""
    say(f"{outcome.name}: {f'failed ({outcome.reason}); the study goes on' if outcome.reason else 'done'}")
    mark = runner.folder / "runs" / outcome.name / FAILED
    if outcome.reason and not mark.exists():
        mark_failed(mark, outcome.reason, "")


def _gather_first(runner: Runner, ordered: deque[str], waiting: Collection[str]) -> None:
    """Gather the runs from the first one on, up to one that is still waited for."""
    while ordered and ordered[0] not in waiting:
        _gather(runner, ordered.popleft())


def outcomes(runner: Runner, executor: Executor, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """What becomes of the tasks, as they are done. Raises Interrupted after a request to stop, when all have saved."""
    stores = dict.fromkeys((runner.bench.store.path, runner.bench.start_store.path))
    coming = executor.do(tasks, [path for path in stores if path.exists()])
    with stop_requests() as stopping, bar(transient=True) as progress:
        stopping.held = True
        for _ in progress.track(tasks, description="runs by workers"):
            try:
                with stopping.interruptible():
                    outcome = next(coming)
            except KeyboardInterrupt:
                say("stopping the workers, which save what they are at (again to stop at once)")
                executor.stop()
                raise Interrupted(f"{runner.folder}: stopped; what its workers were at is saved") from None
            yield outcome


def _gather(runner: Runner, name: str) -> None:
    """Take what a worker left of a run into the study's files."""
    for row in gather(runner.folder, name):
        say(f"{name}, step {row.step}: {describe_result(row)}")


def _task_of(runner: Runner, arm: Arm, beta: float | None, seed: int, noise: float) -> Task:
    """A run as a worker is asked for it."""
    name, rates = run_name(arm, beta, seed, noise), tuple(runner.plan.rates.items())
    return Task(name, arm.name, beta, seed, noise, len(runner.questions.prompts), runner.grows, rates)


def _is_done(runner: Runner, arm: Arm, beta: float | None, seed: int, noise: float) -> bool:
    """Whether there is nothing left of a run."""
    name = run_name(arm, beta, seed, noise)
    steps = {row.step for row in rows_apart(runner.folder, name).results(name)}
    if isinstance(arm.method, Selection):
        return steps >= set(arm.method.sizes)
    return is_finished(runner.folder / "runs" / name, steps)


def fill_reference(runner: Runner, arm: Arm, beta: float | None, seed: int, noise: float) -> None:
    """Store what a run reads of the reference, as it would itself: then the order of runs does not matter."""
    if isinstance(arm.method, Selection):
        return
    own_seed = run_seed(seed, arm.name, beta)
    training = replanned(runner.training_of(arm, seed, noise), runner.bench.layout, own_seed)
    if isinstance(training, Training):
        reference_values(runner.bench, training)
    for ballots in (runner.questions.ballots, runner.data.votes[seed, noise].validation):
        if ballots:
            held_out_reference(runner.bench, ballots, training.recipe.settings.pass_tokens)
