"""IPO: the margin regressed on the preference."""

from __future__ import annotations

from .method import Method, Scored, Terms
from .voting import VoteOptions, vote_mass, voted_on


def loss(scored: Scored, beta: float, options: VoteOptions) -> Terms:
    """`objectives.ipo` on every vote."""
    from ..objectives import ipo
    from .pairwise import vote_loss

    return vote_loss(ipo, scored, beta, options)


IPO = Method("ipo", "the margin regressed on the preference, no score", VoteOptions, voted_on, vote_mass, loss)
