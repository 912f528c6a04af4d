"""Generalised preference optimisation: one convex function of the margin, of which DPO's and IPO's losses are two."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus


def gpo(
    log_ratio_a: Tensor,
    log_ratio_b: Tensor,
    *,
    beta: float,
    preference: float | Tensor = 1.0,
    convex: str = "logistic",
) -> Tensor:
    """A convex function of the margin, from the side of the preferred response.

        loss = p·f(h) + (1 − p)·f(−h),      h = β·(log_ratio_a − log_ratio_b)

    | `convex`    | f(h)         | the minimiser h, 0 < p < 1 |                                        |
    |-------------|--------------|----------------------------|----------------------------------------|
    | logistic    | log(1 + e⁻ʰ) | logit p                    | this is `dpo`                          |
    | squared     | (h − 1)²     | 2p − 1                     | this is `ipo` at β/2, times 4, plus 4p(1 − p) |
    | hinge       | max(0, 1 − h)| sign(2p − 1), p ≠ ½        | SLiC's, with a reference               |
    | exponential | e⁻ʰ          | ½ logit p                  |                                        |

    At a hard label, p = 1, logistic and exponential have no minimum, and hinge is flat from h = 1 on.

    Args:
        log_ratio_a, log_ratio_b: log π/π_ref of the two responses, in nats, `[B]`.
        beta: strength of the KL term, positive.
        preference: p = Pr(a ≻ b), a float or `[B]`.
        convex: the name of f.

    Returns:
        The loss, `[B]`.

    Raises:
        KeyError: for an unknown name.

    Source: Tang et al., arXiv 2402.05749, eq. 4 and table 1; the two sides are weighted here by a soft preference.
    """
    f = CONVEX[convex]
    margin = beta * (log_ratio_a - log_ratio_b)
    return preference * f(margin) + (1 - preference) * f(-margin)


def logistic(h: Tensor) -> Tensor:
    """log(1 + e⁻ʰ)."""
    return softplus(-h)


def squared(h: Tensor) -> Tensor:
    """(h − 1)²."""
    return (h - 1) ** 2


def hinge(h: Tensor) -> Tensor:
    """max(0, 1 − h)."""
    return (1 - h).relu()


def exponential(h: Tensor) -> Tensor:
    """e⁻ʰ."""
    return (-h).exp()


CONVEX = {"logistic": logistic, "squared": squared, "hinge": hinge, "exponential": exponential}
