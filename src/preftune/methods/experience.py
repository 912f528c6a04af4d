"""The policy's own samples and what was known of them when they were drawn.

Shapes: K responses to a prompt, N tokens of them in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import TokenBallot
from .sampled import SampleOptions


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


def scores_of(e: Experience, options: SampleOptions) -> Tensor:
    """Scores of the responses, less what not ending costs, `[K]`."""
    unended = torch.tensor([not ended for ended in e.ended], dtype=torch.float64, device=e.score_K.device)
    return e.score_K.double() - options.end_penalty * unended


def cat(values: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([value for value in values if value is not None])


def mean_by_response(values_N: Tensor, batch: Sequence[Experience]) -> float:
    """The sum over responses of the mean over each one's tokens."""
    lengths = [length for e in batch for length in e.lengths]
    return float(sum(part.mean() for part in values_N.split(lengths)))


def report(batch: Sequence[Experience]) -> dict[str, float]:
    """Sums over responses: score, KL (exact and k1 = log π/π_ref), entropy per token, length, share that ended."""
    return {
        "score": float(sum(e.score_K.sum() for e in batch)),
        "kl": float(sum(e.kl_N.sum() for e in batch)),
        "k1": float(sum((e.logprob_N - e.reference_N).sum() for e in batch)),
        "entropy": mean_by_response(torch.cat([e.entropy_N for e in batch]), batch),
        "length": float(sum(sum(e.lengths) for e in batch)),
        "ended": float(sum(sum(e.ended) for e in batch)),
        "weight": float(sum(len(e.ended) for e in batch)),
    }
