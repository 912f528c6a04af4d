"""What the metrics of one run, and its agreement with held-out votes, give reason to worry about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..console import say
from .stats import Estimate, clustered_mean

Metrics = Sequence[Mapping[str, float]]  # one mapping per optimiser step

FEWEST = 4  # steps from which anything is concluded
SAME = 1e-4  # losses this close are the same but for rounding
CHANCE_LOSS = math.log(2)  # of a vote, if every margin is 0
CERTAIN = 0.995  # the level of every interval: chance goes past a given side of it in 1 of 400 runs
GROWN = 3.0  # a gradient this many times as long as before; that of an adapter doubles at times while all is well
TOO_HIGH = "most often because the learning rate is too high"
WORSE = f"training makes the policy worse at what it learns from, {TOO_HIGH}"
GREW = f"training does not settle, {TOO_HIGH}"
AGAINST = "the policy does the opposite of the votes that it learns from, as with a loss of the wrong sign"
FLIPPED = "the policy prefers what people do not, as when votes were read the wrong way round"
HARMFUL = "margins are large where they are wrong"
UNMOVED = (
    "held-out accuracy is exactly 1/2 without any variation, which never happens by itself: either training has not "
    "moved the policy, or all held-out votes are ties"
)


def run_alarms(metrics: Metrics) -> list[str]:
    """Everything that the metrics of a run give reason to worry about, in plain words; whatever its method."""
    return [*loss_alarms(metrics), *gradient_alarms(metrics), *accuracy_alarms(metrics), *online_alarms(metrics)]


def say_alarms(found: Sequence[str], when: str = "") -> None:
    """Print them where a run ends, or at the time that `when` tells."""
    for line in found:
        say(f"worth a second look{when}: {line}")


def last_quarter(metrics: Metrics, name: str) -> Estimate | None:
    """Mean over the last quarter of the optimiser steps, four at least; None if there are not so many."""
    return _mean(_quarter_to(_finite(metrics, name), 4))


def after_start(metrics: Metrics, name: str) -> Estimate | None:
    """Mean over the optimiser steps after the first quarter, four at least; None if there are not so many."""
    return _mean(_later(_finite(metrics, name)))


def _later(values: Sequence[float]) -> Sequence[float]:
    return values[-max(len(values) - len(values) // 4, FEWEST) :]


def _finite(metrics: Metrics, name: str) -> list[float]:
    return [row[name] for row in metrics if math.isfinite(row.get(name, math.nan))]


def _quarter_to(values: Sequence[float], number: int) -> Sequence[float]:
    """What ends with quarter `number`: a quarter of the values, or the last four before there."""
    end = number * len(values) // 4
    return values[max(end - max(len(values) // 4, FEWEST), 0) : end]


def _mean(values: Sequence[float]) -> Estimate | None:
    return clustered_mean(values, range(len(values))) if len(values) >= FEWEST else None


# --- learning from votes ----------------------------------------------------------------------------------------------


def loss_alarms(metrics: Metrics) -> list[str]:
    """Whether the policy ends up worse at its own votes than the reference."""
    ends = loss_above_reference(metrics)
    if ends is None:
        return []
    loss, reference = ends
    return [
        f"after the first quarter of training the loss is {loss:.3g}, and the reference's own is {reference:.3g} on "
        f"the same votes: {WORSE}"
    ]


def loss_above_reference(metrics: Metrics) -> tuple[float, float] | None:
    """(loss, the reference's own) after the first quarter, if the first is certain to be higher, and is at the end too.

    The error is that of the difference, step by step: the two are losses of the same votes. The last quarter alone has
    too few steps to be certain of much; but a loss that came down again there raises no alarm. A loss above the
    reference's at every step, and twice as high on average, needs no error: where it falls from very high, the error
    of its mean is as large as the mean.
    """
    rows = [row for row in metrics if "reference_loss" in row]
    above = [{"above": row["loss"] - row["reference_loss"]} for row in rows]
    difference, end = after_start(above, "above"), last_quarter(above, "above")
    loss, reference = after_start(rows, "loss"), after_start(rows, "reference_loss")
    if difference is None or end is None or loss is None or reference is None:
        return None
    every_step = min(_later(_finite(above, "above"))) > 0 and difference.value > abs(reference.value)
    certain = difference.interval(CERTAIN)[0] > 0 or every_step
    return (loss.value, reference.value) if certain and min(difference.value, end.value) > SAME else None


def gradient_alarms(metrics: Metrics) -> list[str]:
    """Whether the gradient grows while the learning rate falls."""
    ends = gradient_grew(metrics)
    return [f"the gradient norm grew from {ends[0]:.3g} to {ends[1]:.3g} in the second half: {GREW}"] if ends else []


def gradient_grew(metrics: Metrics) -> tuple[float, float] | None:
    """Gradient norms (geometric means) of the second and the last quarter, if the last is certainly `GROWN` times it.

    The first quarter has the warm-up, in which the gradient of an adapter grows as it leaves 0.
    """
    if metrics and "k1" in metrics[0]:
        return None  # of a policy and a critic in turn, on other samples each time
    norms = [math.log(norm) for norm in _finite(metrics, "grad_norm") if norm > 0]
    before, after = _mean(_quarter_to(norms, 2)), _mean(_quarter_to(norms, 4))
    if before is None or after is None or len(norms) < 4 * FEWEST:
        return None
    growth = _difference(after, before)
    grew = growth.interval(CERTAIN)[0] > 0 and growth.value > math.log(GROWN)
    return (math.exp(before.value), math.exp(after.value)) if grew else None


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b of independent means, with Welch's degrees of freedom."""
    variance_a, variance_b = (a.se or 0.0) ** 2, (b.se or 0.0) ** 2
    variance = variance_a + variance_b
    df = variance**2 / (variance_a**2 / a.df + variance_b**2 / b.df) if variance else a.df
    return Estimate(a.value - b.value, math.sqrt(variance), df)


def accuracy_alarms(metrics: Metrics) -> list[str]:
    """Whether the policy ends up disagreeing with the votes that it learns from."""
    found = accuracy_below_half(metrics)
    if found is None:
        return []
    return [f"after the first quarter of training, accuracy on the training votes is {found:.2f}, below 1/2: {AGAINST}"]


def accuracy_below_half(metrics: Metrics) -> float | None:
    """Accuracy on training votes after the first quarter, if it is certain to be below 1/2, and is at the end too."""
    later, end = after_start(metrics, "accuracy"), last_quarter(metrics, "accuracy")
    if later is None or end is None:
        return None
    return later.value if later.interval(CERTAIN)[1] < 0.5 and end.value < 0.5 else None


# --- held-out votes ---------------------------------------------------------------------------------------------------


def held_out_alarms(accuracy: Estimate | None, log_loss: Estimate | None = None, votes: int = 0) -> list[str]:
    """Whether agreement with held-out votes is worse than that of the reference, or what only an unmoved policy has."""
    found = [UNMOVED] if accuracy and unmoved(accuracy.value, accuracy.se) else []
    if accuracy and below_half(accuracy, votes):
        found.append(f"held-out accuracy is {accuracy}, below 1/2: {FLIPPED}")
    if log_loss and above_chance(log_loss):
        found.append(f"held-out log-loss is {log_loss}, above ln 2 = {CHANCE_LOSS:.3f}: {HARMFUL}")
    return found


def unmoved(accuracy: float | None, se: float | None) -> bool:
    """Whether agreement with held-out votes is 1/2 without any variance: every margin is 0, or every vote a tie."""
    return accuracy is not None and se is not None and abs(accuracy - 0.5) < 1e-9 and se < 1e-9


def below_half(accuracy: Estimate, votes: int = 0) -> bool:
    """Whether held-out accuracy is certain to be below 1/2.

    Its error is taken to be at least that of so many coins: where all of a few votes are missed, its own is 0.
    """
    least = 0.5 / math.sqrt(votes) if votes else 0.0
    if accuracy.se is None or not max(accuracy.se, least):
        return False
    return Estimate(accuracy.value, max(accuracy.se, least), accuracy.df).interval(CERTAIN)[1] < 0.5


def above_chance(log_loss: Estimate) -> bool:
    """Whether held-out log-loss is certain to be above ln 2, which a margin of 0 has.

    The margin has a scale of at least 0 that was fitted on the other half of the prompts. So this catches margins that
    are right mostly and badly wrong at times, where the halves do not agree on a scale. It cannot catch margins that
    are wrong throughout, whose scale is 0 and whose loss is ln 2; `below_half` does.
    """
    return log_loss.value > CHANCE_LOSS + SAME and log_loss.interval(CERTAIN)[0] > CHANCE_LOSS


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
