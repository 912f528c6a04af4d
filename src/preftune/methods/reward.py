"""Reward models: a Bradley–Terry score fitted to votes, which ppo, rloo and best-of-n learn from or select by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .method import Method, Scored, Terms
from .voting import LikelihoodOptions, vote_mass, voted_on

if TYPE_CHECKING:
    from torch import Tensor


def loss(scored: Scored, beta: float, options: LikelihoodOptions) -> Terms:
    """Bradley–Terry on scores, which come in the place of log-ratios; flips are part of the likelihood."""
    from ..objectives import bradley_terry, smooth
    from .pairwise import pairwise_terms

    def of_scores(score_a: Tensor, score_b: Tensor, p: Tensor) -> Tensor:
        smoothed = smooth(p, options.label_smoothing)
        return bradley_terry(score_a, score_b, preference=smoothed, flip_rate=options.flip_rate)

    return pairwise_terms(scored, beta, "sum", of_scores)


REWARD = Method(
    "reward",
    "a Bradley-Terry reward model, and how good it is on held-out votes",
    LikelihoodOptions,
    voted_on,
    vote_mass,
    loss,
    uses_reference=False,
)
