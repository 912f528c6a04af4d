"""RLOO: a response is judged against the mean of the other responses to its prompt; no critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .method import OnlineMethod, Terms
from .sampled import SampleOptions

if TYPE_CHECKING:
    from torch import Tensor

    from .experience import Experience


def judge(batch: Sequence[Experience], beta: float, options: SampleOptions) -> list[Experience]:
    """The whole response's reward, score − β·log-ratio, against the mean of the other responses to its prompt."""
    import torch

    from ..objectives import leave_one_out
    from .experience import scores_of

    rewards = [scores_of(e, options) - beta * e.by_response((e.logprob_N - e.reference_N).double()) for e in batch]
    advantage_PK = leave_one_out(torch.stack(rewards))
    return [replace(e, advantage=advantage_K.float()) for e, advantage_K in zip(batch, advantage_PK, strict=True)]


def loss(logprob_N: Tensor, batch: Sequence[Experience]) -> Terms:
    """REINFORCE on whole responses, summed."""
    import torch

    from ..objectives import rloo
    from .experience import cat, report

    lengths = [length for e in batch for length in e.lengths]
    logprob_B = torch.stack([part.sum() for part in logprob_N.split(lengths)])
    return Terms(rloo(logprob_B, cat(e.advantage for e in batch)).sum(), report(batch))


def mass(experience: Experience) -> float:
    """Responses."""
    return float(len(experience.ended))


RLOO = OnlineMethod(
    "rloo",
    "RLHF without a critic: a sample's reward against the mean of the other samples of its prompt",
    SampleOptions,
    judge,
    mass,
    loss,
)
