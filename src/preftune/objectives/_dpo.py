"""Direct preference optimisation: the policy is the reward."""

from __future__ import annotations

from torch import Tensor

from ._bradley_terry import bradley_terry


def dpo(log_ratio_a: Tensor, log_ratio_b: Tensor, *, beta: float, preference: float | Tensor = 1.0) -> Tensor:
    """Bradley–Terry loss with the implicit score β·log π/π_ref.

        loss = −p·log σ(h) − (1 − p)·log σ(−h),      h = β·(log_ratio_a − log_ratio_b)

    At π = π_ref the loss is ln 2 and its derivative in h is ½ − p. For p = 1 it has no minimum, for any β.

    Args:
        log_ratio_a, log_ratio_b: log π/π_ref of the two responses, in nats, `[B]`.
        beta: strength of the KL term, positive.
        preference: p = Pr(a ≻ b), a float or `[B]`.

    Returns:
        The loss in nats, `[B]`.

    Source: Rafailov et al., arXiv 2305.18290, eq. 7 (p = 1).
    """
    return bradley_terry(beta * log_ratio_a, beta * log_ratio_b, preference=preference)
