"""GPO: any convex function of the margin in the place of DPO's or IPO's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from .method import Method, Scored, Terms
from .options import option
from .voting import VoteOptions, vote_mass, voted_on

CONVEX = ("logistic", "squared", "hinge", "exponential")


@dataclass(frozen=True)
class GPOOptions(VoteOptions):
    """Options of GPO. `convex` f: `logistic` is DPO, `squared` IPO at half its β, `hinge` SLiC with a reference."""

    convex: str = option("logistic", "function of the margin", choices=CONVEX)


def loss(scored: Scored, beta: float, options: GPOOptions) -> Terms:
    """`objectives.gpo` on every vote."""
    from ..objectives import gpo
    from .pairwise import vote_loss

    return vote_loss(partial(gpo, convex=options.convex), scored, beta, options)


GPO = Method("gpo", "a convex function of the margin: DPO, IPO, hinge and more", GPOOptions, voted_on, vote_mass, loss)
