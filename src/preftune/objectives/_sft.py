"""Supervised fine-tuning on the preferred responses."""

from __future__ import annotations

from torch import Tensor


def sft(log_prob: Tensor, *, weight: float | Tensor = 1.0) -> Tensor:
    """Weighted negative log-likelihood of responses.

        loss = −weight·log π(y|x)

    Args:
        log_prob: log π(y|x) summed over the response's tokens, in nats, `[B]`.
        weight: how much each response counts, a float or `[B]`.

    Returns:
        The loss in nats, `[B]`.
    """
    return -weight * log_prob
