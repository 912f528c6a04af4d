"""What a reader of a study should worry about, from its rows and its runs' metrics."""

from __future__ import annotations

import math

from .alarms import UNMOVED, WORSE, last_quarter, loss_above_reference, unmoved
from .frontiers import PROXY, ROUNDING
from .results import StudyRecord
from .stats import number
from .words import listed, run_names

GROWTH = 1.25  # samples this many times as long as the reference's raise an alarm


def alarms(study: StudyRecord) -> tuple[str, ...]:
    """What a reader should worry about: one sentence for each kind of trouble, with the runs that have it."""
    kinds = {
        "The KL is not a number, so the policy or its evaluation is broken": _no_kl(study),
        "The KL is negative, which no KL can be, so its evaluation is wrong": _negative_kl(study),
        "The loss is not a number": _no_loss(study),
        f"The loss ended above the reference's own on the same votes: {WORSE} (the two over the last quarter of "
        "training)": _loss_rose(study),
        UNMOVED[0].upper() + UNMOVED[1:]: _unmoved(study),
        "Preferred and other responses both became less likely than under the reference, so probability went to "
        "responses that nobody compared (log-ratios in nats over the last quarter of training)": _both_fell(study),
        "Samples grew more than a quarter longer than the reference's, so part of a gain may be length": _longer(study),
        "The reward rose while a second opinion fell, so the reward may be gamed": _second_opinion_fell(study),
        "The learned reward went on rising while gold fell from its best, which is over-optimisation (gold at its "
        "best and at the end)": _over_optimised(study),
    }
    return tuple(f"{trouble}: {listed(cases)}." for trouble, cases in kinds.items() if cases)


def _no_kl(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.results if row.kl is not None and not math.isfinite(row.kl)]
    return [f"{names[row.run]} at step {row.step}" for row in rows]


def _negative_kl(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.results if row.kl is not None and row.kl < -ROUNDING]
    return [f"{names[row.run]} at step {row.step} ({number(row.kl or 0, row.kl or 0)} nats)" for row in rows]


def _no_loss(study: StudyRecord) -> list[str]:
    names = run_names(study)
    first = {
        run: step["step"]
        for run, steps in study.metrics.items()
        for step in reversed(steps)
        if not math.isfinite(step.get("loss", 0.0))
    }
    return [f"{names.get(run, run)} from step {step:.0f} on" for run, step in first.items()]


def _both_fell(study: StudyRecord) -> list[str]:
    names, cases = run_names(study), []
    for run, steps in study.metrics.items():
        preferred, other = (last_quarter(steps, f"log_ratio_{side}") for side in ("preferred", "other"))
        if preferred and other and preferred.interval()[1] < 0 and other.interval()[1] < 0:
            cases.append(f"{names.get(run, run)}: {preferred.value:.2f} and {other.value:.2f}".replace("-", "−"))
    return cases


def _loss_rose(study: StudyRecord) -> list[str]:
    names = run_names(study)
    ends = {run: loss_above_reference(steps) for run, steps in study.metrics.items()}
    return [f"{names.get(run, run)}: {both[0]:.3g} and {both[1]:.3g}" for run, both in ends.items() if both]


def _unmoved(study: StudyRecord) -> list[str]:
    names = run_names(study)
    rows = [row for row in study.finals() if row.step > 0 and unmoved(row.accuracy, row.accuracy_se)]
    return [f"{names[row.run]} at step {row.step}" for row in rows]


def _longer(study: StudyRecord) -> list[str]:
    names, reference = run_names(study), study.reference()
    start = (reference and reference.length) or math.inf
    rows = [row for row in study.finals() if (row.length or 0) > GROWTH * start and (row.gain is None or row.gain > 0)]
    return [f"{names[row.run]}: {row.length:.0f} tokens against {start:.0f}" for row in rows]


def _second_opinion_fell(study: StudyRecord) -> list[str]:
    names, reference = run_names(study), study.reference()
    before = reference.extra if reference else {}
    return [
        f"{names[row.run]}: {name} from {before[name]:.2f} to {value:.2f}".replace("-", "−")
        for row in study.finals()
        for name, value in row.extra.items()
        if name in before and f"{name}_se" in row.extra and f"{name}_se" in before and (row.gain or 0) > 0
        if value - before[name] < -2 * math.hypot(row.extra[f"{name}_se"], before[f"{name}_se"])
    ]


def _over_optimised(study: StudyRecord) -> list[str]:
    """Runs whose gold has fallen from an earlier checkpoint by two errors, the learned reward not having fallen."""
    names, cases = run_names(study), []
    for last in study.finals():
        rows = [row for row in study.trained() if row.run == last.run and row.gain is not None and PROXY in row.extra]
        best = max(rows, key=lambda row: row.gain or 0.0, default=last)
        if best is last or last.gain is None or best.gain is None or PROXY not in last.extra:
            continue
        error = math.hypot(best.gain_se or 0.0, last.gain_se or 0.0)
        if best.gain - last.gain > 2 * error and last.extra[PROXY] >= best.extra[PROXY]:
            cases.append(f"{names[last.run]}: {best.gain:.2f} and {last.gain:.2f}".replace("-", "−"))
    return cases
