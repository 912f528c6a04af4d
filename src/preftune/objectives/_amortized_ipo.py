"""Amortized IPO: IPO with a learned preference as the target."""

from __future__ import annotations

from torch import Tensor


def amortized_ipo(
    log_ratio_a: Tensor,
    log_ratio_b: Tensor,
    preference_logit: Tensor,
    *,
    beta: float,
    centre: float = 0.5,
    stop_gradient: bool = True,
) -> Tensor:
    """Squared distance of the margin from a centred, predicted preference.

        loss = (h − (sg[σ(preference_logit)] − c))²,      h = β·(log_ratio_a − log_ratio_b),      c = ½

    `sg` stops the gradient: the policy must not drag the preference model towards itself. No label enters, so the
    loss applies to labelled and unlabelled pairs alike. Unchanged by swapping a and b, which negates the logit.

    Args:
        log_ratio_a, log_ratio_b: log π/π_ref of the two responses, in nats, `[B]`.
        preference_logit: logit of the predicted Pr(a ≻ b), `[B]`; antisymmetric in (a, b).
        beta: strength of the KL term, positive.
        centre: c. With 0, and a the winner of every pair, this is the form without −½ (an ablation): it rests at
            h = 2p − 1 for a true preference p, which is the optimum of β/2.
        stop_gradient: without it (an ablation) the preference is trained by this loss too, and follows the policy.

    Returns:
        The loss, `[B]`.

    Source: this project; with exact logits it equals `ipo` with the soft preference.
    """
    margin = beta * (log_ratio_a - log_ratio_b)
    predicted = preference_logit.detach() if stop_gradient else preference_logit
    return (margin - (predicted.sigmoid() - centre)) ** 2
