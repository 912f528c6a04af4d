"""Which pairs a preference that is linear in features is least sure of: where a vote is expected to tell the most.

A fit minimises Σ loss + n·penalty/2·|w|², and so is the mode of a posterior of w. With x the row of a pair, z = x·w its
logit and p = σ(z), Laplace's approximation has

    precision  Λ = n·penalty·I + Σ p(1 − p)·x xᵀ      variance of a logit  s² = xᵀ Λ⁻¹ x
    gain       ½ log(1 + p(1 − p)·s²)      nats that a vote on the pair is expected to tell of w (MacKay 1992)

Two pairs with v = ½ are not alike: of one nothing is known (s² is large), of the other that it is a tie, and a vote
there is a coin. The entropy of v cannot tell them apart; the gain does (Houlsby et al., arXiv 1112.5745, for pairs).
Pairs are taken one after the other, each as if those before it had been voted on: Λ does not depend on what is said.

Shapes: V votes, C pairs that may be asked about, F columns of a row.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.special import expit

from ..data import fit_linear
from ..evidence import Floats, VoteTable
from .linear import PENALTIES, UNCHOSEN, folds_of, path_losses, spread_of


def least_sure(rows_VF: Floats, table: VoteTable, rows_CF: Floats, count: int) -> list[int]:
    """So many of the pairs C, the one to be asked first first, after a fit to the votes of the table."""
    return most_telling(*posterior(rows_VF, table, rows_CF), count)


def posterior(rows_VF: Floats, table: VoteTable, rows_CF: Floats) -> tuple[Floats, Floats]:
    """(root `[C, F]`, p(1 − p) `[C]`) of the logits of the pairs C: root rootᵀ is their covariance."""
    weight, scale, penalty = fit_rows(rows_VF, table)
    rows = rows_VF / scale
    precision = (rows * (table.weight * _bend(rows_VF @ weight))[:, None]).T @ rows
    precision[np.diag_indices_from(precision)] += penalty * table.weight.sum()
    root_CF = solve_triangular(cholesky(precision, lower=True), (rows_CF / scale).T, lower=True).T
    return root_CF, _bend(rows_CF @ weight)


def fit_rows(rows_VF: Floats, table: VoteTable) -> tuple[Floats, Floats, float]:
    """(weights on the rows as they are, their scale, the penalty), the penalty chosen by cross-validation over prompts
    as for every frozen preference."""
    penalty = UNCHOSEN
    if len(set(table.prompt)) > 1:
        fold = folds_of(table.prompt, seed=0)
        losses = sum(path_losses(rows_VF, table.p, table, fold == one, 0.0) for one in np.unique(fold))
        penalty = PENALTIES[int(np.argmin(losses))]
    scale = spread_of(rows_VF, table.weight)
    weight, _ = fit_linear(rows_VF / scale, table.p, table.weight, penalty=penalty)
    return weight / scale, scale, penalty


def most_telling(root_CF: Floats, bend_C: Floats, count: int) -> list[int]:
    """The pairs whose votes together tell the most, taken greedily, from their `posterior`.

    The sum of the gains is ½ log det(1 + …), which is submodular: the greedy choice has at least 1 − 1/e of the most
    that so many pairs can tell.
    """
    variance = (root_CF**2).sum(1)
    chosen: list[int] = []
    known: list[Floats] = []
    for _ in range(min(count, len(root_CF))):
        gain = bend_C * variance
        gain[chosen] = -1.0
        best = int(gain.argmax())
        beside = root_CF @ root_CF[best] - sum((one * one[best] for one in known), np.zeros(len(root_CF)))
        known.append(beside * np.sqrt(bend_C[best] / (1 + gain[best])))
        variance = np.maximum(variance - known[-1] ** 2, 0.0)
        chosen.append(best)
    return chosen


def _bend(logits: Floats) -> Floats:
    """p(1 − p), which a vote brings to the precision."""
    return np.asarray(expit(logits) * expit(-logits))
