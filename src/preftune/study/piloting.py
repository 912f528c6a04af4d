"""An arm's learning rate from its pilots: made here, or by workers, arm beside arm and the rates of a round beside each
other. Who chooses then finds them made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import say
from ..errors import UserError
from ..evidence import write_json
from ..training import Arm, Training, held_out_reference, reference_values
from .handing import outcomes
from .pilots import (
    RESPONSES,
    SAMPLED,
    Criterion,
    Fresh,
    Job,
    criterion_of,
    folder_of,
    job_of,
    make_pilot,
    rates_left,
    tried_at,
)
from .rates import Tried, choose_rate, lowest
from .runs import Runner
from .tasks import Task


def settle_rates(runner: Runner, info: dict[str, Any], fresh: Fresh) -> Runner:
    """The runner with every arm's chosen rate in its plan and trainings; arms without one get their pilots first.

    `info` is what `study.json` holds: what came of the pilots is written there as soon as an arm has its rate, and
    what is there is not chosen again. Raises UserError if all pilots of an arm are out, Interrupted after a request to
    stop.
    """
    left = [arm for arm in runner.plan.piloted if arm.name not in info["pilots"]]
    pilots_ahead(runner, left, fresh)
    for arm in left:
        info["pilots"][arm.name] = pilot_arm(runner, arm, fresh)
        write_json(runner.folder / "study.json", info)
    return runner.at_rates({arm: told["lr"] for arm, told in info["pilots"].items()})


def pilot_arm(runner: Runner, arm: Arm, fresh: Fresh) -> dict[str, Any]:
    """Make the pilots of an arm, choose its rate, and say why."""
    job = job_of(runner, arm, fresh)
    records: dict[float, Mapping[str, Any]] = {}
    tried: list[Tried] = []
    while rates := rates_left(job, tried):
        for lr in rates:
            records[lr] = make_pilot(job, lr)
            tried.append(tried_at(lr, records[lr]))
    choice = choose_rate(tried)
    if choice is None:
        for lr in records:  # so that they are made again once what was wrong is mended
            shutil.rmtree(folder_of(job, lr))
        told = "; ".join(f"{lr:g}: {record['out']}" for lr, record in sorted(records.items()))
        raise UserError(f"--lr auto: no pilot of {arm.name} came to anything ({told}); give the arm its own lr")
    reason = choice[1] + caveat(criterion_of(arm), tried)
    say(f"{arm.name}: learning rate {choice[0]:g}, {reason}")
    shown = ("lr", "value", "se", "loss", "out", "steps")
    rows = [
        {name: record[name] for name in shown if name in record} | {"chosen": lr == choice[0]}
        for lr, record in sorted(records.items())
    ]
    shared = {"criterion": criterion_of(arm).words, "beta": job.beta, "seed": job.seed, "noise": job.noise}
    return {"lr": choice[0], "reason": reason, **shared, "tried": rows}


def caveat(criterion: Criterion, tried: Sequence[Tried]) -> str:
    """A clause where the best pilot is not better than the reference by a standard error: then the choice is luck."""
    best = lowest(tried)
    if best is None or criterion.start is None or best.mean.value + (best.mean.se or 0.0) < criterion.start:
        return ""
    return "; no pilot is better than the reference by a standard error, more validation prompts would tell"


# --- by workers -------------------------------------------------------------------------------------------------------


def pilots_ahead(runner: Runner, arms: Sequence[Arm], fresh: Fresh) -> None:
    """Have workers make the pilots of some arms, if there are workers; one that they cannot make is made here."""
    if runner.executor is None:
        return
    jobs: list[Job] = []
    for arm in arms:
        jobs.append(job_of(runner, arm, fresh))
        _fill_reference(jobs[-1])
    tried: dict[str, list[Tried]] = {arm.name: [] for arm in arms}
    while some := [(job, lr) for job in jobs for lr in rates_left(job, tried[job.arm.name])]:
        for _ in outcomes(runner, runner.executor, [_task_of(job, lr) for job, lr in some]):
            runner.when_done()
        for job, lr in some:
            tried[job.arm.name].append(tried_at(lr, make_pilot(job, lr)))


def _task_of(job: Job, lr: float) -> Task:
    """A pilot as a worker is asked for it."""
    prompts = len(job.runner.questions.prompts)
    return Task(folder_of(job, lr).name, job.arm.name, job.beta, job.seed, job.noise, prompts, pilot=lr)


def _fill_reference(job: Job) -> None:
    """Store what pilots read of the reference, as the first one would: they see the votes in the same order."""
    criterion, bench = criterion_of(job.arm), job.runner.bench
    if criterion is SAMPLED:
        return
    training = job.at(rates_left(job, ())[0])
    if isinstance(training, Training):
        reference_values(bench, training)
    ballots = job.preferred if criterion is RESPONSES else job.ballots
    held_out_reference(bench, ballots, job.measuring()["micro_tokens"])
