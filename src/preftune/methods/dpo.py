"""DPO: the policy is the reward."""

from __future__ import annotations

from .method import Method, Scored, Terms
from .voting import VoteOptions, vote_mass, voted_on


def loss(scored: Scored, beta: float, options: VoteOptions) -> Terms:
    """`objectives.dpo` on every vote."""
    from ..objectives import dpo
    from .pairwise import vote_loss

    return vote_loss(dpo, scored, beta, options)


DPO = Method("dpo", "Bradley-Terry with the policy as its own reward", VoteOptions, voted_on, vote_mass, loss)
