"""Bradley–Terry: the likelihood that reward models and DPO share."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(score_a: Tensor, score_b: Tensor, *, preference: float | Tensor = 1.0) -> Tensor:
    """Negative log-likelihood of a preference under Pr(a ≻ b) = σ(score_a − score_b).

        loss = −p·log σ(Δs) − (1 − p)·log σ(−Δs),      Δs = score_a − score_b

    Scores count only by their difference. The minimum over Δs lies at logit p; for p = 1 there is none: the loss
    falls towards 0 as Δs → ∞.

    Args:
        score_a, score_b: scores of the two responses, in nats, `[B]`.
        preference: p = Pr(a ≻ b), a float or `[B]`. Values outside [0, 1] are allowed (see `unbias`).

    Returns:
        The loss in nats, `[B]`.

    Source: Bradley and Terry (1952); Rafailov et al., arXiv 2305.18290, eq. 2.
    """
    difference = score_a - score_b
    return -preference * logsigmoid(difference) - (1 - preference) * logsigmoid(-difference)
