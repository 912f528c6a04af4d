"""Logistic regression on votes, some of which may be flipped: the likelihood, and its fit.

Shapes: V votes, F features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from ..evidence import Floats

FIRST_RATE = 0.1  # where the search for an unknown flip rate starts


def noisy_loss(z: Floats, target: Floats, flip_rate: float) -> Floats:
    """−t·log k(z) − (1 − t)·log k(−z) of every vote, in nats, `[V]`, with k(z) = ε + (1 − 2ε)·σ(z) and ε `flip_rate`.

    Without flips this is Bradley–Terry's; it is finite for every z.
    """
    return np.asarray(-target * _log_kept(z, flip_rate) - (1 - target) * _log_kept(-z, flip_rate))


def _log_kept(z: Floats, flip_rate: float) -> Floats:
    """log k(z): preferred and kept, or not preferred and flipped."""
    with np.errstate(divide="ignore"):
        kept, flipped = np.log([1 - flip_rate, flip_rate])
    return np.asarray(np.logaddexp(kept + log_expit(z), flipped + log_expit(-z)))


def fit_linear(
    features: Any,
    target: Floats,
    weight: Floats,
    *,
    penalty: float,
    start: Floats | None = None,
    flip_rate: float | None = 0.0,
    tolerance: float = 1e-12,
) -> tuple[Floats, float]:
    """(w `[F]`, ε) that minimise mean `noisy_loss` + penalty/2·|w|² at z = features·w; rows `[V, F]`, dense or sparse.

    With a `flip_rate` ε is that, and with 0 the problem is convex for every target, one outside [0, 1] too. With None
    ε is fitted, between 0 and ½: a search from `FIRST_RATE`, since this problem is not convex. The search ends when a
    step lowers the objective by less than `tolerance` of it.
    """
    share = weight / weight.sum()
    width = features.shape[1]

    def objective(x: Floats) -> tuple[float, Floats]:
        w, rate = x[:width], flip_rate if flip_rate is not None else 0.5 * float(expit(x[width]))
        z = features @ w
        log_a, log_b, bend = _log_kept(z, rate), _log_kept(-z, rate), log_expit(z) + log_expit(-z)
        by_z = (1 - 2 * rate) * ((1 - target) * np.exp(bend - log_b) - target * np.exp(bend - log_a))
        value = float(share @ (-target * log_a - (1 - target) * log_b) + penalty / 2 * w @ w)
        slope = np.asarray(features.T @ (share * by_z) + penalty * w)
        if flip_rate is not None:
            return value, slope
        won, lost = target * np.exp(np.log(rate) - log_a), (1 - target) * np.exp(np.log(rate) - log_b)
        by_rate = float(share @ ((lost - won) * (1 - 2 * expit(z)))) * (1 - 2 * rate)
        return value, np.append(slope, by_rate)

    first = np.zeros(width) if start is None else start
    if flip_rate is None:
        first = np.append(first, np.log(2 * FIRST_RATE / (1 - 2 * FIRST_RATE)))
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-7, "ftol": tolerance}
    x = np.asarray(minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x)
    return x[:width], flip_rate if flip_rate is not None else 0.5 * float(expit(x[width]))
