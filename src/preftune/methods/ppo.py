"""PPO: advantages by a learned critic, several clipped steps on each batch of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .method import OnlineMethod, Terms
from .options import option
from .sampled import SampleOptions

if TYPE_CHECKING:
    from torch import Tensor

    from .experience import Experience

CLIP = 0.2  # of the policy's ratio and of the critic's move
LAMBDA = 0.95
VALUE_WEIGHT = 0.1


@dataclass(frozen=True)
class PPOOptions(SampleOptions):
    """Options of PPO. With `whiten`, rewards are scaled, advantages scaled and centred, over the batch."""

    inner_epochs: int = option(4, "steps on each batch of samples", above=0)
    whiten: bool = option(True, "scale rewards and advantages over each batch")


def judge(batch: Sequence[Experience], beta: float, options: PPOOptions) -> list[Experience]:
    """Rewards per token with the KL penalty in them, then generalised advantages and returns."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    from ..objectives import gae, token_rewards, whiten
    from .experience import scores_of

    lengths = [length for e in batch for length in e.lengths]

    def padded(values: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(torch.cat(list(values)).double().split(lengths)), batch_first=True)

    mask_BT = padded([torch.ones_like(e.logprob_N) for e in batch])
    inside = mask_BT.bool()
    value_BT = padded([e.value_N for e in batch if e.value_N is not None])
    score_B = torch.cat([scores_of(e, options) for e in batch])
    logprob_BT, reference_BT = padded([e.logprob_N for e in batch]), padded([e.reference_N for e in batch])
    reward_BT = token_rewards(logprob_BT, reference_BT, score_B, mask_BT, beta=beta)
    if options.whiten:
        reward_BT[inside] = whiten(reward_BT[inside], shift=False)
    advantage_BT = gae(reward_BT, value_BT, mask_BT, lam=LAMBDA)
    target_N = (advantage_BT + value_BT)[inside]
    advantage_N = whiten(advantage_BT[inside]) if options.whiten else advantage_BT[inside]
    sizes = [sum(e.lengths) for e in batch]
    parts = zip(batch, advantage_N.float().split(sizes), target_N.float().split(sizes), strict=True)
    return [replace(e, advantage=advantage, target_N=target) for e, advantage, target in parts]


def loss(logprob_N: Tensor, batch: Sequence[Experience]) -> Terms:
    """The clipped ratio's loss, summed over tokens."""
    import torch

    from ..objectives import ppo_policy
    from .experience import cat, mean_by_response, report

    old_N, advantage_N = torch.cat([e.logprob_N for e in batch]), cat(e.advantage for e in batch)
    summed = ppo_policy(logprob_N, old_N, advantage_N, clip=CLIP).sum()
    with torch.no_grad():
        outside = ((logprob_N - old_N).exp() - 1).abs() > CLIP
    return Terms(summed, report(batch) | {"clip_fraction": mean_by_response(outside.float(), batch)})


def critic_loss(value_N: Tensor, batch: Sequence[Experience]) -> Terms:
    """The critic's clipped squared error, weighted beside the policy's loss."""
    import torch

    from ..objectives import ppo_value
    from .experience import cat, mean_by_response

    old_N, target_N = cat(e.value_N for e in batch), cat(e.target_N for e in batch)
    summed = VALUE_WEIGHT * ppo_value(value_N, old_N, target_N, clip=CLIP).sum()
    with torch.no_grad():
        outside = (value_N - old_N).abs() > CLIP
    return Terms(summed, {"value_clip_fraction": mean_by_response(outside.float(), batch), "weight": 0.0})


def explained_variance(batch: Sequence[Experience]) -> float:
    """1 − Var(return − value)/Var(return): 1 for a perfect critic, 0 for a constant one."""
    from .experience import cat

    target_N, value_N = cat(e.target_N for e in batch), cat(e.value_N for e in batch)
    return float(1 - (target_N - value_N).var() / target_N.var().clamp(min=1e-12)) if len(target_N) > 1 else 0.0


def mass(experience: Experience) -> float:
    """Response tokens."""
    return float(sum(experience.lengths))


PPO = OnlineMethod(
    "ppo",
    "RLHF: samples of the policy scored by a reward model, advantages by a learned critic, clipped steps",
    PPOOptions,
    judge,
    mass,
    loss,
    has_critic=True,
    reuses=True,
)
