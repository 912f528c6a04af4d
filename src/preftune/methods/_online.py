"""PPO and RLOO: what the policy's own samples were worth, and how that becomes a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..data import TokenBallot
from ..objectives import gae, leave_one_out, ppo_policy, ppo_value, rloo, token_rewards, whiten
from ._method import Terms

CLIP = 0.2  # of the policy's ratio and of the critic's move
LAMBDA = 0.95
VALUE_WEIGHT = 0.1


@dataclass(frozen=True)
class OnlineOptions:
    """What the loss of sampled responses depends on.

    `end_penalty` is taken off the score of a response that did not end by itself; with `whitened`, PPO scales
    rewards, and scales and centres advantages, over the batch.
    """

    beta: float
    whitened: bool = True
    end_penalty: float = 1.0


@dataclass(frozen=True)
class Experience:
    """The sampled responses to one prompt and what was known of them then: K responses, N tokens in all.

    `ballot` holds the prompt and the responses. Log-probs, KL(π ‖ π_ref) over the vocabulary and entropy are per token
    and in nats; `value_N` is the critic's. `advantage` is per token for PPO, per response for RLOO; `target_N` is what
    the critic should have said.
    """

    ballot: TokenBallot
    ended: tuple[bool, ...]
    score_K: Tensor
    logprob_N: Tensor
    reference_N: Tensor
    kl_N: Tensor
    entropy_N: Tensor
    value_N: Tensor | None = None
    advantage: Tensor | None = None
    target_N: Tensor | None = None

    @property
    def lengths(self) -> list[int]:
        return [len(response) for response in self.ballot.responses]

    def by_response(self, values_N: Tensor) -> Tensor:
        """Sums over the tokens of each response, `[K]`."""
        return torch.stack([part.sum() for part in values_N.split(self.lengths)])


@dataclass(frozen=True)
class OnlineMethod:
    """A method that learns from the policy's own samples, as plain functions.

    `judge` adds advantages (and the critic's targets) to a batch of experience; `loss` maps the log-probs of its
    tokens now to a summed loss; `mass` is what one prompt's experience adds to the number it is divided by. Each batch
    is used for `settings.inner_epochs` steps if the method `reuses` its samples, else for one.
    """

    name: str
    has_critic: bool
    reuses: bool
    judge: Callable[[Sequence[Experience], OnlineOptions], list[Experience]]
    mass: Callable[[Experience], float]
    loss: Callable[[Tensor, Sequence[Experience]], Terms]
    uses_reference: bool = True


# --- PPO --------------------------------------------------------------------------------------------------------------


def _judge_by_critic(batch: Sequence[Experience], options: OnlineOptions) -> list[Experience]:
    """Rewards per token with the KL penalty in them, then generalised advantages and returns."""
    lengths = [length for e in batch for length in e.lengths]

    def padded(values: Sequence[Tensor]) -> Tensor:
        return pad_sequence(list(torch.cat(list(values)).double().split(lengths)), batch_first=True)

    mask_BT = padded([torch.ones_like(e.logprob_N) for e in batch])
    inside = mask_BT.bool()
    value_BT = padded([e.value_N for e in batch if e.value_N is not None])
    score_B = torch.cat([_scores(e, options) for e in batch])
    logprob_BT, reference_BT = padded([e.logprob_N for e in batch]), padded([e.reference_N for e in batch])
    reward_BT = token_rewards(logprob_BT, reference_BT, score_B, mask_BT, beta=options.beta)
    if options.whitened:
        reward_BT[inside] = whiten(reward_BT[inside], shift=False)
    advantage_BT = gae(reward_BT, value_BT, mask_BT, lam=LAMBDA)
    target_N = (advantage_BT + value_BT)[inside]
    advantage_N = whiten(advantage_BT[inside]) if options.whitened else advantage_BT[inside]
    sizes = [sum(e.lengths) for e in batch]
    parts = zip(batch, advantage_N.float().split(sizes), target_N.float().split(sizes), strict=True)
    return [replace(e, advantage=advantage, target_N=target) for e, advantage, target in parts]


def _scores(e: Experience, options: OnlineOptions) -> Tensor:
    """Scores of the responses, less what not ending costs, `[K]`."""
    unended = torch.tensor([not ended for ended in e.ended], dtype=torch.float64, device=e.score_K.device)
    return e.score_K.double() - options.end_penalty * unended


def _ppo_loss(logprob_N: Tensor, batch: Sequence[Experience]) -> Terms:
    old_N, advantage_N = torch.cat([e.logprob_N for e in batch]), _cat(e.advantage for e in batch)
    loss = ppo_policy(logprob_N, old_N, advantage_N, clip=CLIP).sum()
    with torch.no_grad():
        outside = ((logprob_N - old_N).exp() - 1).abs() > CLIP
    return Terms(loss, _report(batch) | {"clip_fraction": _mean_by_response(outside.float(), batch)})


def critic_loss(value_N: Tensor, batch: Sequence[Experience]) -> Terms:
    """The critic's clipped squared error, weighted beside the policy's loss."""
    old_N, target_N = _cat(e.value_N for e in batch), _cat(e.target_N for e in batch)
    loss = VALUE_WEIGHT * ppo_value(value_N, old_N, target_N, clip=CLIP).sum()
    with torch.no_grad():
        outside = (value_N - old_N).abs() > CLIP
    return Terms(loss, {"value_clip_fraction": _mean_by_response(outside.float(), batch), "weight": 0.0})


def explained_variance(batch: Sequence[Experience]) -> float:
    """1 − Var(return − value)/Var(return): 1 for a perfect critic, 0 for a constant one."""
    target_N, value_N = _cat(e.target_N for e in batch), _cat(e.value_N for e in batch)
    return float(1 - (target_N - value_N).var() / target_N.var().clamp(min=1e-12)) if len(target_N) > 1 else 0.0


# --- RLOO -------------------------------------------------------------------------------------------------------------


def _judge_by_peers(batch: Sequence[Experience], options: OnlineOptions) -> list[Experience]:
    """The whole response's reward, score − β·log-ratio, against the mean of the other responses to its prompt."""
    rewards = [
        _scores(e, options) - options.beta * e.by_response((e.logprob_N - e.reference_N).double()) for e in batch
    ]
    advantage_PK = leave_one_out(torch.stack(rewards))
    return [replace(e, advantage=advantage_K.float()) for e, advantage_K in zip(batch, advantage_PK, strict=True)]


def _rloo_loss(logprob_N: Tensor, batch: Sequence[Experience]) -> Terms:
    lengths = [length for e in batch for length in e.lengths]
    logprob_B = torch.stack([part.sum() for part in logprob_N.split(lengths)])
    return Terms(rloo(logprob_B, _cat(e.advantage for e in batch)).sum(), _report(batch))


# --- what both report -------------------------------------------------------------------------------------------------


def _cat(values: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([value for value in values if value is not None])


def _mean_by_response(values_N: Tensor, batch: Sequence[Experience]) -> float:
    """The sum over responses of the mean over each one's tokens."""
    lengths = [length for e in batch for length in e.lengths]
    return float(sum(part.mean() for part in values_N.split(lengths)))


def _report(batch: Sequence[Experience]) -> dict[str, float]:
    """Sums over responses: score, KL (exact and k1 = log π/π_ref), entropy per token, length, share that ended."""
    return {
        "score": float(sum(e.score_K.sum() for e in batch)),
        "kl": float(sum(e.kl_N.sum() for e in batch)),
        "k1": float(sum((e.logprob_N - e.reference_N).sum() for e in batch)),
        "entropy": _mean_by_response(torch.cat([e.entropy_N for e in batch]), batch),
        "length": float(sum(sum(e.lengths) for e in batch)),
        "ended": float(sum(sum(e.ended) for e in batch)),
        "weight": float(sum(len(e.ended) for e in batch)),
    }


PPO = OnlineMethod("ppo", True, True, _judge_by_critic, lambda e: float(sum(e.lengths)), _ppo_loss)
RLOO = OnlineMethod("rloo", False, False, _judge_by_peers, lambda e: float(len(e.ended)), _rloo_loss)
