"""Best of n: no training at all. Of n samples of the reference, take the one that the reward model likes best."""

from __future__ import annotations

import math

from .method import Selection
from .voting import LikelihoodOptions


def best_of_n_kl(n: int) -> float:
    """KL(best of n ‖ π_ref) ≤ log n − (n − 1)/n, in nats: an equality while no two samples have the same score.

    Source: Gao et al., arXiv 2210.10760, section 2; Beirami et al., arXiv 2401.01879, theorem 1 (it is a bound).
    """
    return math.log(n) - (n - 1) / n


BEST_OF_N = Selection(
    "best-of-n", "of n samples the one that the reward model likes best", LikelihoodOptions, (2, 4, 8, 16)
)
