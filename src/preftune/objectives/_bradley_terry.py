"""Bradley–Terry: the likelihood that reward models, DPO and fitted preferences share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ._label_noise import check_rate


def bradley_terry(
    score_a: Tensor, score_b: Tensor, *, preference: float | Tensor = 1.0, flip_rate: float = 0.0
) -> Tensor:
    """Negative log-likelihood of a vote under Pr(a ≻ b) = σ(score_a − score_b), flipped at a known rate ε.

        loss = −p·log t(Δs) − (1 − p)·log t(−Δs),      t(z) = ε + (1 − 2ε)·σ(z),      Δs = score_a − score_b

    Scores count only by their difference. Without flips the minimum over Δs lies at logit p; for p = 1 there is none:
    the loss falls towards 0 as Δs → ∞. With them it lies where t(Δs) = p, and a vote that contradicts a clear
    difference costs at most −log ε, so that it is taken for a flip and not for news.

    Args:
        score_a, score_b: scores of the two responses, in nats, `[B]`.
        preference: p = Pr(a ≻ b) as voted, a float or `[B]`. Values outside [0, 1] are allowed (see `unbias`).
        flip_rate: ε, the probability that a vote says the opposite of the preference; ValueError unless 0 ≤ ε < ½.

    Returns:
        The loss in nats, `[B]`.

    Source: Bradley and Terry (1952); Rafailov et al., arXiv 2305.18290, eq. 2.
    """
    check_rate(flip_rate)
    difference = score_a - score_b
    return -preference * _log_won(difference, flip_rate) - (1 - preference) * _log_won(-difference, flip_rate)


def _log_won(difference: Tensor, flip_rate: float) -> Tensor:
    """log t: the vote is for a because a is preferred and it was kept, or b is preferred and it was flipped."""
    kept, flipped = difference.new_tensor([1 - flip_rate, flip_rate]).log()
    return torch.logaddexp(kept + logsigmoid(difference), flipped + logsigmoid(-difference))
