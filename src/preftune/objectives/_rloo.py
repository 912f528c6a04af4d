"""REINFORCE with a leave-one-out baseline: several responses to a prompt judge one another, no critic."""

from __future__ import annotations

from torch import Tensor


def leave_one_out(reward_PK: Tensor) -> Tensor:
    """The advantage of each response over the others to the same prompt.

        A_i = R_i − mean_{j≠i} R_j

    Args:
        reward_PK: R, score minus β times the log-ratio of the whole response, `[P, K]`, K ≥ 2.

    Returns:
        `[P, K]`; each row sums to 0.

    Raises:
        ValueError: with one response to a prompt, which has nothing to be compared with.

    Source: Ahmadian et al., arXiv 2402.14740, eq. 8; Kool et al. (2019).
    """
    responses = reward_PK.shape[1]
    if responses < 2:
        raise ValueError("leave-one-out needs at least two responses to a prompt")
    return (reward_PK - reward_PK.mean(1, keepdim=True)) * (responses / (responses - 1))


def rloo(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """Policy-gradient loss of each response.

        loss = −A·log π(y|x)

    Args:
        log_prob: log π(y|x) summed over the response, in nats, `[B]`.
        advantage: its leave-one-out advantage, a constant, `[B]`.

    Returns:
        The loss, `[B]`.

    Source: Ahmadian et al., arXiv 2402.14740, section 3.3.
    """
    return -advantage.detach() * log_prob
