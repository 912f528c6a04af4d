"""Identity preference optimisation: regress the margin on the preference."""

from __future__ import annotations

from torch import Tensor


def ipo(log_ratio_a: Tensor, log_ratio_b: Tensor, *, beta: float, preference: float | Tensor = 1.0) -> Tensor:
    """Squared distance of the margin from the centred preference.

        loss = (h − (p − ½))²,      h = β·(log_ratio_a − log_ratio_b)

    The paper writes (Δlog-ratio − 1/(2τ))² with τ = β and p = 1: this loss divided by β². The minimiser is the same,
    the gradient is β² times the paper's, so learning rates do not carry over between the two forms.

    Args:
        log_ratio_a, log_ratio_b: log π/π_ref of the two responses, in nats, `[B]`. Whether they are sums over tokens
            (the paper) or means is decided where they are made.
        beta: strength of the KL term, positive.
        preference: p = Pr(a ≻ b), a float or `[B]`. A tie, p = ½, pulls the margin to 0.

    Returns:
        The loss (h is in units of the preference), `[B]`.

    Source: Azar et al., arXiv 2310.12036, eq. 17, symmetrised for soft preferences.
    """
    margin = beta * (log_ratio_a - log_ratio_b)
    return (margin - (preference - 0.5)) ** 2


def ipo_target(preference: float, *, beta: float) -> float:
    """The log-ratio difference at which the IPO loss of one vote vanishes: (p − ½)/β, in nats.

    Per sequence when log-ratios are sums over tokens, per token when they are means.
    """
    return (preference - 0.5) / beta
