"""How well differences of scores, or of log-ratios, agree with votes: accuracy, log-loss, reliability.

Shapes: V votes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from .stats import Estimate, Floats, clustered_mean


@dataclass(frozen=True)
class VoteTable:
    """Held-out votes as a policy sees them, `[V]` each: log-ratio difference a − b in nats, p, weight, prompt."""

    difference: Floats
    p: Floats
    weight: Floats
    prompt: tuple[tuple[int, ...], ...]


def accuracy(table: VoteTable) -> Estimate:
    """Share of the vote weight that agrees with the sign of the difference; a tie on either side counts one half."""
    says_a = np.where(table.difference > 0, 1.0, np.where(table.difference < 0, 0.0, 0.5))
    return clustered_mean(table.p * says_a + (1 - table.p) * (1 - says_a), table.prompt, table.weight)


def log_loss(table: VoteTable) -> Estimate | None:
    """Mean of −p·log σ(cΔ) − (1 − p)·log σ(−cΔ) in nats per vote, c ≥ 0 fitted on the other half of the prompts.

    IPO's margin is no logit and every arm has a scale of its own; a fitted scale makes their log-losses comparable.
    None with fewer than two prompts, where there is no other half.
    """
    losses = scaled_losses(table)
    return None if losses is None else clustered_mean(losses, table.prompt, table.weight)


def scaled_losses(table: VoteTable) -> Floats | None:
    """What `log_loss` is the mean of: the loss of every vote in nats, `[V]`; None where it has none."""
    prompts = sorted(set(table.prompt))
    if len(prompts) < 2:
        return None
    number = {prompt: i for i, prompt in enumerate(prompts)}
    half = np.array([number[prompt] % 2 for prompt in table.prompt])
    losses = np.empty_like(table.difference)
    for side in (0, 1):
        here, there = half == side, half != side
        scale = _fit_scale(table.difference[there], table.p[there], table.weight[there])
        losses[here] = _vote_losses(scale * table.difference[here], table.p[here])
    return losses


def _vote_losses(logits: Floats, p: Floats) -> Floats:
    return p * np.logaddexp(0, -logits) + (1 - p) * np.logaddexp(0, logits)


def _fit_scale(difference: Floats, p: Floats, weight: Floats) -> float:
    spread = float(np.sqrt(np.mean(difference**2)))
    if spread == 0:
        return 0.0

    def objective(scale: float) -> float:
        return float(weight @ _vote_losses(scale * difference / spread, p))

    return float(minimize_scalar(objective, bounds=(0, 100), method="bounded").x) / spread


BINS = 10


def vote_losses(table: VoteTable) -> Floats:
    """−p·log σ(Δ) − (1 − p)·log σ(−Δ) of every vote, in nats, `[V]`."""
    return np.asarray(np.logaddexp(0, table.difference) - table.p * table.difference)


def bt_log_loss(table: VoteTable) -> Estimate:
    """Mean of `vote_losses`: of the probabilities as they are, so that a wrong scale costs."""
    return clustered_mean(vote_losses(table), table.prompt, table.weight)


def reliability(table: VoteTable) -> list[dict[str, float]]:
    """Predicted probability against observed share in ten bins from ½ to 1; empty bins are left out.

    Every vote is told from the side that the score prefers, since which response comes first means nothing. A row has
    the bin's ends, the mean prediction, the share of vote weight that agrees, and that weight.
    """
    prefers_a = table.difference >= 0
    predicted = expit(np.abs(table.difference))
    agrees = np.where(prefers_a, table.p, 1 - table.p)
    edges = np.linspace(0.5, 1, BINS + 1)
    of_bin = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, BINS - 1)
    rows = []
    for i in np.unique(of_bin):
        weight = np.where(of_bin == i, table.weight, 0.0)
        rows.append(
            {
                "from": float(edges[i]),
                "to": float(edges[i + 1]),
                "predicted": float(weight @ predicted / weight.sum()),
                "observed": float(weight @ agrees / weight.sum()),
                "votes": float(weight.sum()),
            }
        )
    return rows


def quality(table: VoteTable) -> dict[str, Any]:
    """Accuracy and log-loss on votes, each with its standard error clustered by prompt."""
    estimates = {"accuracy": accuracy(table), "log_loss": bt_log_loss(table)}
    return {name: {"value": e.value, "se": e.se} for name, e in estimates.items()}
