"""What a reader of a study should worry about, from its rows and its runs' metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .alarms import (
    AGAINST,
    CHANCE_LOSS,
    FLIPPED,
    GREW,
    HARMFUL,
    UNMOVED,
    WORSE,
    above_chance,
    accuracy_below_half,
    below_half,
    gradient_grew,
    loss_above_reference,
    unmoved,
)
from .frontiers import PROXY, ROUNDING
from .results import Result, StudyRecord
from .stats import Estimate, number
from .words import listed, run_names

GROWTH = 1.25  # samples this many times as long as the reference's raise an alarm


@dataclass(frozen=True)
class _Kind:
    """A kind of trouble: in a sentence, in a few words, and what is to be told of each run that has it, by run id."""

    trouble: str
    brief: str
    cases: Mapping[str, str]


def alarms(study: StudyRecord) -> tuple[str, ...]:
    """What a reader should worry about: one sentence for each kind of trouble, with the runs that have it."""
    names = run_names(study)
    return tuple(
        f"{kind.trouble}: {listed([names.get(run, run) + told for run, told in kind.cases.items()])}."
        for kind in _kinds(study)
        if kind.cases
    )


def alarmed_arms(study: StudyRecord) -> dict[str, tuple[str, ...]]:
    """What is wrong with runs of each arm that has an alarm, in a few words each, such as "its loss ended above the
    reference's own"; in the order of `alarms`."""
    arm_of = {row.run: row.arm for row in study.trained()}
    found: dict[str, dict[str, None]] = {}
    for kind in _kinds(study):
        for run in kind.cases:
            if run in arm_of:
                found.setdefault(arm_of[run], {})[kind.brief] = None
    return {arm: tuple(reasons) for arm, reasons in found.items()}


def _kinds(study: StudyRecord) -> list[_Kind]:
    return [
        _Kind(
            "The KL is not a number, so the policy or its evaluation is broken", "its KL is no number", _no_kl(study)
        ),
        _Kind(
            "The KL is negative, which no KL can be, so its evaluation is wrong",
            "its KL is negative",
            _negative_kl(study),
        ),
        _Kind("The loss is not a number", "its loss is no number", _no_loss(study)),
        _Kind(
            f"The loss ended above the reference's own on the same votes: {WORSE} (the two after the first "
            "quarter of training)",
            "its loss ended above the reference's own",
            _loss_rose(study),
        ),
        _Kind(
            f"The gradient norm grew: {GREW} (second and last quarter of training)",
            "its gradient grew",
            _gradient_grew(study),
        ),
        _Kind(
            f"Accuracy on the training votes ended below 1/2: {AGAINST} (after the first quarter of training)",
            "it ended disagreeing with its training votes",
            _disagrees(study),
        ),
        _Kind(UNMOVED[0].upper() + UNMOVED[1:], "it did not move, or was held against ties alone", _unmoved(study)),
        _Kind(f"Held-out accuracy is below 1/2: {FLIPPED}", "it disagrees with held-out votes", _below_half(study)),
        _Kind(
            f"Held-out log-loss is above ln 2 = {CHANCE_LOSS:.3f}, which a margin of 0 has: {HARMFUL}",
            "its margins do worse on held-out votes than none",
            _above_chance(study),
        ),
        _Kind(
            "Samples grew more than a quarter longer than the reference's, so part of a gain may be length",
            "its samples grew longer",
            _longer(study),
        ),
        _Kind(
            "The reward rose while a second opinion fell, so the reward may be gamed",
            "a second opinion of its samples fell",
            _second_opinion_fell(study),
        ),
        _Kind(
            "The learned reward went on rising while gold fell from its best, which is over-optimisation (gold at its "
            "best and at the end)",
            "it over-optimised its learned reward",
            _over_optimised(study),
        ),
    ]


def _steps_of(rows: Iterable[Result], told: Callable[[Result], str] = lambda row: "") -> dict[str, str]:
    """The steps of the rows of each run, and what is told of them."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        cases.setdefault(row.run, []).append(f"step {row.step}{told(row)}")
    return {run: f" at {' and '.join(steps)}" for run, steps in cases.items()}


def _no_kl(study: StudyRecord) -> dict[str, str]:
    return _steps_of(row for row in study.results if row.kl is not None and not math.isfinite(row.kl))


def _negative_kl(study: StudyRecord) -> dict[str, str]:
    rows = (row for row in study.results if row.kl is not None and row.kl < -ROUNDING)
    return _steps_of(rows, lambda row: f" ({number(row.kl or 0, row.kl or 0)} nats)")


def _no_loss(study: StudyRecord) -> dict[str, str]:
    first = {
        run: step["step"]
        for run, steps in study.metrics.items()
        for step in reversed(steps)
        if not math.isfinite(step.get("loss", 0.0))
    }
    return {run: f" from step {step:.0f} on" for run, step in first.items()}


def _loss_rose(study: StudyRecord) -> dict[str, str]:
    ends = {run: loss_above_reference(steps) for run, steps in study.metrics.items()}
    return {run: f": {both[0]:.3g} and {both[1]:.3g}" for run, both in ends.items() if both}


def _gradient_grew(study: StudyRecord) -> dict[str, str]:
    ends = {run: gradient_grew(steps) for run, steps in study.metrics.items()}
    return {run: f": {both[0]:.3g} and {both[1]:.3g}" for run, both in ends.items() if both}


def _disagrees(study: StudyRecord) -> dict[str, str]:
    ends = {run: accuracy_below_half(steps) for run, steps in study.metrics.items()}
    return {run: f": {value:.2f}" for run, value in ends.items() if value is not None}


def _unmoved(study: StudyRecord) -> dict[str, str]:
    return _steps_of(row for row in study.finals() if row.step > 0 and unmoved(row.accuracy, row.accuracy_se))


def _below_half(study: StudyRecord) -> dict[str, str]:
    votes = study.info["data"].get("votes_eval", 0)
    ends = {row.run: Estimate(row.accuracy, row.accuracy_se) for row in study.finals() if row.accuracy is not None}
    return {run: f": {end}" for run, end in ends.items() if below_half(end, votes)}


def _above_chance(study: StudyRecord) -> dict[str, str]:
    ends = {row.run: Estimate(row.log_loss, row.log_loss_se) for row in study.finals() if row.log_loss is not None}
    return {run: f": {end}" for run, end in ends.items() if above_chance(end)}


def _longer(study: StudyRecord) -> dict[str, str]:
    reference = study.reference()
    start = (reference and reference.length) or math.inf
    rows = [row for row in study.finals() if (row.length or 0) > GROWTH * start and (row.gain is None or row.gain > 0)]
    return {row.run: f": {row.length:.0f} tokens against {start:.0f}" for row in rows}


def _second_opinion_fell(study: StudyRecord) -> dict[str, str]:
    reference = study.reference()
    before = reference.extra if reference else {}
    cases: dict[str, list[str]] = {}
    for row in study.finals():
        for name, value in row.extra.items():
            known = name in before and f"{name}_se" in row.extra and f"{name}_se" in before and (row.gain or 0) > 0
            if known and value - before[name] < -2 * math.hypot(row.extra[f"{name}_se"], before[f"{name}_se"]):
                told = f"{name} from {before[name]:.2f} to {value:.2f}".replace("-", "−")
                cases.setdefault(row.run, []).append(told)
    return {run: f": {', '.join(told)}" for run, told in cases.items()}


def _over_optimised(study: StudyRecord) -> dict[str, str]:
    """Runs whose gold has fallen from an earlier checkpoint by two errors, the learned reward not having fallen."""
    cases = {}
    for last in study.finals():
        rows = [row for row in study.trained() if row.run == last.run and row.gain is not None and PROXY in row.extra]
        best = max(rows, key=lambda row: row.gain or 0.0, default=last)
        if best is last or last.gain is None or best.gain is None or PROXY not in last.extra:
            continue
        error = math.hypot(best.gain_se or 0.0, last.gain_se or 0.0)
        if best.gain - last.gain > 2 * error and last.extra[PROXY] >= best.extra[PROXY]:
            cases[last.run] = f": {best.gain:.2f} and {last.gain:.2f}".replace("-", "−")
    return cases
