"""Amortized IPO: IPO with a learned preference as the target."""

from torch import Tensor

from ._ipo import ipo


def amortized_ipo(log_ratio_a: Tensor, log_ratio_b: Tensor, preference_logit: Tensor, *, beta: float) -> Tensor:
    """Squared distance of the margin from a centred, predicted preference.

        loss = (h − (sg[σ(preference_logit)] − ½))²,      h = β·(log_ratio_a − log_ratio_b)

    `sg` stops the gradient: the policy must not drag the preference model towards itself. No label enters, so the
    loss applies to labelled and unlabelled pairs alike.

    Args:
        log_ratio_a, log_ratio_b: log π/π_ref of the two responses, in nats, `[B]`.
        preference_logit: logit of the predicted Pr(a ≻ b), `[B]`; antisymmetric in (a, b).
        beta: strength of the KL term, positive.

    Returns:
        The loss, `[B]`.

    Source: this project; with exact logits it equals `ipo` with the soft preference.
    """
    return ipo(log_ratio_a, log_ratio_b, beta=beta, preference=preference_logit.detach().sigmoid())
