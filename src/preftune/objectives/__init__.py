"""The objectives: pure functions from tensors to one loss per vote, response or token, never a mean.

Conventions, the same for all:
    log-ratio   log π(y|x) − log π_ref(y|x) of one response, in nats; `[B]`, one entry per vote
    h           the margin β·(log_ratio_a − log_ratio_b)
    preference  p = Pr(a ≻ b) in [0, 1]: 1 or 0 for a hard label, ½ for a tie; a float or `[B]`

Methods that learn from sampled responses have arrays of them: B responses of at most T tokens, or N tokens in all.

Every pairwise loss is unchanged by swapping (a ↔ b, p ↔ 1 − p) and by adding a constant to both log-ratios.
"""

from ._amortized_ipo import amortized_ipo
from ._bradley_terry import bradley_terry
from ._dpo import dpo
from ._ipo import ipo, ipo_target
from ._label_noise import smooth, unbias
from ._ppo import adapted_beta, gae, ppo_policy, ppo_value, token_rewards, whiten
from ._rloo import leave_one_out, rloo
from ._sft import sft

__all__ = [
    "adapted_beta",
    "amortized_ipo",
    "bradley_terry",
    "dpo",
    "gae",
    "ipo",
    "ipo_target",
    "leave_one_out",
    "ppo_policy",
    "ppo_value",
    "rloo",
    "sft",
    "smooth",
    "token_rewards",
    "unbias",
    "whiten",
]
