"""Fitting a preference v(a, b) to votes: the likelihood, with or without known label noise, for any linear head.

Votes are rows: `features` `[M, D]` says how a row's logit depends on the parameters, `wins` and `losses` `[M]` how
often its first response won and lost. A Bradley–Terry head has differences of one-hot rows (`score_features`), or of
feature vectors; a general head adds a free number per pair (`pair_features`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from .worlds import Floats


def fit_preference(
    features: Floats, wins: Floats, losses: Floats, *, penalty: npt.ArrayLike = 0.0, flip_rate: float = 0.0
) -> Floats:
    """Parameters θ `[D]` that make votes likeliest: logit v = features·θ, antisymmetric because swapping negates it.

        argmin_θ −Σ [wins·log t + losses·log(1 − t)] + Σ_d penalty_d·θ_d²/2,      t = ε + (1 − 2ε)·σ(features·θ)

    ε is `flip_rate`: a vote is a true preference reversed with that probability. With a penalty of 0 and votes that
    some direction separates, θ grows without end and only what stops the search bounds it.
    """
    cost = np.broadcast_to(np.asarray(penalty, np.float64), features.shape[1:])
    keep = 1 - 2 * flip_rate

    def parts(theta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        logit = features @ theta
        won, lost = flip_rate + keep * expit(logit), flip_rate + keep * expit(-logit)
        rate = keep * expit(logit) * expit(-logit)
        return logit, np.maximum(won, 1e-300), np.maximum(lost, 1e-300), rate

    def loss(theta: Floats) -> float:
        _, won, lost, _ = parts(theta)
        return float(-(wins * np.log(won) + losses * np.log(lost)).sum() + (cost * theta**2).sum() / 2)

    def slope(theta: Floats) -> Floats:
        _, won, lost, rate = parts(theta)
        return np.asarray(features.T @ (rate * (losses / lost - wins / won)) + cost * theta)

    def curvature(theta: Floats) -> Floats:
        logit, won, lost, rate = parts(theta)
        bend = rate * np.tanh(-logit / 2) * (losses / lost - wins / won)
        spread = rate**2 * (wins / won**2 + losses / lost**2)
        return np.asarray((features * (bend + spread)[:, None]).T @ features + np.diag(cost))

    start = np.zeros(features.shape[1])
    found = minimize(loss, start, jac=slope, hess=curvature, method="trust-exact", options={"gtol": 1e-9})
    return np.asarray(found.x)


def pairs(responses: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The indices (a, b) of the K(K−1)/2 pairs with a < b."""
    return np.triu_indices(responses, 1)


def score_features(responses: int) -> Floats:
    """Rows of a Bradley–Terry head for all pairs: logit v(a, b) = r_a − r_b. `[K(K−1)/2, K]`"""
    a, b = pairs(responses)
    one_hot = np.eye(responses)
    return one_hot[a] - one_hot[b]


def pair_features(responses: int) -> Floats:
    """Rows of a general head for all pairs: logit v(a, b) = r_a − r_b + S_ab, S skew. `[K(K−1)/2, K + K(K−1)/2]`

    `u_aᵀ R u_b` with R made of 2 × 2 skew blocks, and enough of them, is any skew S.
    """
    score = score_features(responses)
    return np.hstack([score, np.eye(len(score))])


def skew(values: Floats, responses: int) -> Floats:
    """The skew matrix `[K, K]` whose entries for the pairs a < b are `values` `[K(K−1)/2]`."""
    matrix = np.zeros((responses, responses))
    matrix[pairs(responses)] = values
    return matrix - matrix.T
