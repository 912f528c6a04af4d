"""Label noise as a map of the preference: the loss stays the same function."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

P = TypeVar("P", float, Tensor)


def smooth(preference: P, epsilon: float) -> P:
    """Label smoothing (conservative DPO): p ← ε + (1 − 2ε)·p, the preference after flips at rate ε.

    With it DPO's gradient vanishes at σ(h) = 1 − ε for a hard label. Raises ValueError unless 0 ≤ ε < ½.

    Source: Mitchell, "A note on DPO with noisy preferences and relationship to IPO" (2023).
    """
    check_rate(epsilon)
    return epsilon + (1 - 2 * epsilon) * preference


def unbias(preference: P, epsilon: float) -> P:
    """The inverse of `smooth` (robust DPO): p ← (p − ε)/(1 − 2ε), unbiased when labels were flipped at rate ε.

    Its expectation over the flips is the true preference. For hard labels it lies outside [0, 1], and the DPO loss
    is then unbounded below. Raises ValueError unless 0 ≤ ε < ½.

    Source: Chowdhury et al., arXiv 2403.00409.
    """
    check_rate(epsilon)
    return (preference - epsilon) / (1 - 2 * epsilon)


def check_rate(epsilon: float) -> None:
    """Raises ValueError for a flip rate outside [0, ½)."""
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"a flip rate of {epsilon} is outside [0, 0.5)")
