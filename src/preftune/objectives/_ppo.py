"""Proximal policy optimisation: advantages of sampled tokens, and the clipped losses of policy and critic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def token_rewards(logprob_BT: Tensor, reference_BT: Tensor, score_B: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """The reward of each sampled token: a KL penalty at every token, the score at the last one.

        r_t = −β·(logprob_t − reference_t) + [t is the last]·score

    Its sum over a response is score − β·log π(y|x)/π_ref(y|x), whose mean under π is the objective E[s] − β·KL.

    Args:
        logprob_BT, reference_BT: log π and log π_ref of each token, in nats, `[B, T]`.
        score_B: what the reward model says of each response, in nats, `[B]`.
        mask_BT: 1 on the tokens of a response, which come first, 0 behind them.
        beta: strength of the KL term.

    Returns:
        `[B, T]`, 0 behind the response.

    Source: Ziegler et al., arXiv 1909.08593, eq. 2; Ouyang et al., arXiv 2203.02155, section 3.5.
    """
    reward_BT = -beta * (logprob_BT - reference_BT) * mask_BT
    last_B = mask_BT.sum(1).long() - 1
    return reward_BT.scatter_add(1, last_B[:, None], score_B[:, None].to(reward_BT.dtype))


def gae(reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, *, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimates.

        δ_t = r_t + γ·V_{t+1} − V_t,      A_t = δ_t + γλ·A_{t+1},      V = 0 and A = 0 behind the last token

    With λ = 1 it is the return minus the value, with λ = 0 the error δ_t of one step.

    Args:
        reward_BT: rewards, `[B, T]`.
        value_BT: the critic's value of the state before each token, `[B, T]`.
        mask_BT: 1 on the tokens of a response, which come first, 0 behind them.

    Returns:
        `[B, T]`, 0 behind the response.

    Source: Schulman et al., arXiv 1506.02438, eqs. 11–16.
    """
    value_BT, reward_BT = value_BT * mask_BT, reward_BT * mask_BT
    delta_BT = reward_BT + gamma * pad(value_BT[:, 1:], (0, 1)) - value_BT
    advantages, advantage_B = [], torch.tensor(0.0)
    for delta_B in reversed(delta_BT.unbind(1)):
        advantage_B = delta_B + gamma * lam * advantage_B
        advantages.append(advantage_B)
    return torch.stack(advantages[::-1], 1)


def whiten(values: Tensor, *, shift: bool = True) -> Tensor:
    """Values scaled to standard deviation 1 and, with `shift`, moved to mean 0. Fewer than two stay as they are.

    Without the shift only the scale changes: rewards keep their sign and which response is better.
    """
    if values.numel() < 2:
        return values
    centred = values - values.mean() if shift else values
    return centred / (values.std() + 1e-8)


def ppo_policy(logprob: Tensor, old_logprob: Tensor, advantage: Tensor, *, clip: float = 0.2) -> Tensor:
    """Clipped policy loss of each token.

        loss = max(−A·ρ, −A·clamp(ρ, 1 − clip, 1 + clip)),      ρ = exp(logprob − old_logprob)

    At ρ = 1 its gradient is that of −A·logprob. A token whose ratio has left the interval in the direction that its
    advantage asks for has no gradient.

    Args:
        logprob, old_logprob: log-probabilities of sampled tokens, now and when they were sampled, in nats, `[N]`.
        advantage: how much better than expected each of them was, `[N]`.

    Returns:
        The loss, `[N]`.

    Source: Schulman et al., arXiv 1707.06347, eq. 7.
    """
    ratio = (logprob - old_logprob).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def ppo_value(value: Tensor, old_value: Tensor, target: Tensor, *, clip: float = 0.2) -> Tensor:
    """Clipped squared error of the critic.

        loss = ½·max((V − R)², (V_old + clamp(V − V_old, −clip, clip) − R)²)
             = ½·max((V − R)², max(|R − V_old| − clip, 0)²)

    A value that has come nearer to its return by more than `clip` has no gradient.

    Args:
        value, old_value: the critic's values now and when the tokens were sampled, `[N]`.
        target: R, the return that it should have said, `[N]`.

    Returns:
        The loss, `[N]`.

    Source: the PPO implementation of OpenAI baselines; Huang et al., "The N implementation details of RLHF with PPO".
    """
    left_over = ((target - old_value).abs() - clip).clamp(min=0)
    return torch.maximum((value - target) ** 2, left_over**2) / 2


def adapted_beta(beta: float, kl: float, *, target: float, samples: int, horizon: float = 10_000.0) -> float:
    """The KL coefficient that follows a target KL: β·(1 + clamp(KL/target − 1, ±0.2)·samples/horizon).

    `kl` and `target` in nats per response. Source: Ziegler et al., arXiv 1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * samples / horizon)
