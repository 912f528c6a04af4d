"""What the metrics of one run, and its agreement with held-out votes, give reason to worry about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..console import say
from .stats import Estimate, clustered_mean

Metrics = Sequence[Mapping[str, float]]  # one mapping per optimiser step

FEWEST = 4  # steps from which anything is concluded
SAME = 1e-4  # losses this close are the same but for rounding
WORSE = "training makes the policy worse at what it learns from, most often because the learning rate is too high"
UNMOVED = (
    "held-out accuracy is exactly 1/2 without any variation, which never happens by itself: either training has not "
    "moved the policy, or all held-out votes are ties"
)


def run_alarms(metrics: Metrics) -> list[str]:
    """Everything that the metrics of a run give reason to worry about, in plain words; whatever its method."""
    return [*loss_alarms(metrics), *online_alarms(metrics)]


def say_alarms(found: Sequence[str]) -> None:
    """Print them where a run ends."""
    for line in found:
        say(f"worth a second look: {line}")


def last_quarter(metrics: Metrics, name: str) -> Estimate | None:
    """Mean over the last quarter of the optimiser steps, four at least; None if there are not so many."""
    values = [row[name] for row in metrics if math.isfinite(row.get(name, math.nan))]
    last = values[-max(len(values) // 4, FEWEST) :]
    return clustered_mean(last, range(len(last))) if len(last) >= FEWEST else None


# --- learning from votes ----------------------------------------------------------------------------------------------


def loss_alarms(metrics: Metrics) -> list[str]:
    """Whether the policy ends up worse at its own votes than the reference."""
    ends = loss_above_reference(metrics)
    if ends is None:
        return []
    loss, reference = ends
    return [
        f"over the last quarter of training the loss is {loss:.3g}, and the reference's own is {reference:.3g} on "
        f"the same votes: {WORSE}"
    ]


def loss_above_reference(metrics: Metrics) -> tuple[float, float] | None:
    """(loss, the reference's own) over the last quarter, if the first is higher by more than two standard errors.

    The errors are those of the difference, step by step: the two are losses of the same votes.
    """
    rows = [row for row in metrics if "reference_loss" in row]
    difference = last_quarter([{"above": row["loss"] - row["reference_loss"]} for row in rows], "above")
    loss, reference = last_quarter(rows, "loss"), last_quarter(rows, "reference_loss")
    if difference is None or loss is None or reference is None or difference.value <= SAME:
        return None
    return (loss.value, reference.value) if difference.value > 2 * (difference.se or 0.0) else None


def held_out_alarms(accuracy: float | None, se: float | None) -> list[str]:
    """Whether agreement with held-out votes is what only an unmoved policy, or ties alone, would have."""
    return [UNMOVED] if unmoved(accuracy, se) else []


def unmoved(accuracy: float | None, se: float | None) -> bool:
    """Whether agreement with held-out votes is 1/2 without any variance: every margin is 0, or every vote a tie."""
    return accuracy is not None and se is not None and abs(accuracy - 0.5) < 1e-9 and se < 1e-9


# --- learning from samples --------------------------------------------------------------------------------------------


def online_alarms(metrics: Metrics) -> list[str]:
    """Whether ppo's or rloo's samples went wrong; nothing for other methods."""
    if len(metrics) < FEWEST or "k1" not in metrics[0]:
        return []
    quarter = max(1, len(metrics) // 4)

    def early(name: str) -> float:
        return sum(row[name] for row in metrics[:quarter]) / quarter

    def late(name: str) -> float:
        return sum(row[name] for row in metrics[-quarter:]) / quarter

    found = []
    if late("k1") < -0.1 and late("k1") < late("kl") - 1:
        found.append(
            f"the sampled KL is negative ({late('k1'):.2f} nats, {late('kl'):.2f} exactly): samples and log-probs are "
            "not of one policy"
        )
    if late("entropy") < 0.2 * early("entropy"):
        found.append(
            f"entropy fell from {early('entropy'):.2f} to {late('entropy'):.2f} nats per token: the policy "
            "repeats itself"
        )
    gain, longer = late("score") - early("score"), late("length") - early("length")
    slope = _slope([row["length"] for row in metrics], [row["score"] for row in metrics])
    if gain > 0 and longer > 0.2 * early("length") and slope * longer > 0.8 * gain:
        found.append(
            f"the score grew with length ({early('length'):.0f} to {late('length'):.0f} tokens): longer, not better?"
        )
    return found


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = math.fsum((a - mean_x) ** 2 for a in x)
    return math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
