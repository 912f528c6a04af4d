"""The objectives: pure functions from tensors to one loss per vote, response or token, never a mean.

Conventions, the same for all:
    log-ratio   log π(y|x) − log π_ref(y|x) of one response, in nats; `[B]`, one entry per vote
    h           the margin β·(log_ratio_a − log_ratio_b)
    preference  p = Pr(a ≻ b) in [0, 1]: 1 or 0 for a hard label, ½ for a tie; a float or `[B]`

Methods that learn from sampled responses have arrays of them: B responses of at most T tokens, or N tokens in all.

Every pairwise loss is unchanged by swapping (a ↔ b, p ↔ 1 − p) and by adding a constant to both log-ratios.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
