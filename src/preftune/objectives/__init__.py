"""The objectives: pure functions from tensors to one loss per vote (or per response), never a mean.

Conventions, the same for all:
    log-ratio   log π(y|x) − log π_ref(y|x) of one response, in nats; `[B]`, one entry per vote
    h           the margin β·(log_ratio_a − log_ratio_b)
    preference  p = Pr(a ≻ b) in [0, 1]: 1 or 0 for a hard label, ½ for a tie; a float or `[B]`

Every pairwise loss is unchanged by swapping (a ↔ b, p ↔ 1 − p) and by adding a constant to both log-ratios.
"""

from ._amortized_ipo import amortized_ipo
from ._bradley_terry import bradley_terry
from ._dpo import dpo
from ._ipo import ipo, ipo_target
from ._label_noise import smooth, unbias
from ._sft import sft

__all__ = ["amortized_ipo", "bradley_terry", "dpo", "ipo", "ipo_target", "sft", "smooth", "unbias"]
