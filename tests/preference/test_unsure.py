"""Which pair a linear preference is least sure of: the posterior of its own fit, and what a vote would tell of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from preftune.data import noisy_loss
from preftune.evidence import VoteTable
from preftune.evidence.stats import Floats
from preftune.preference.unsure import fit_rows, least_sure, most_telling, posterior


def voted(rng: np.random.Generator, votes: int = 40, features: int = 5) -> tuple[Floats, VoteTable]:
    rows = rng.normal(size=(votes, features)) * np.arange(1, features + 1)
    p = (rng.random(votes) < expit(rows @ rng.normal(size=features) / 3)).astype(float)
    return rows, VoteTable(np.zeros(votes), p, np.ones(votes), tuple((k // 2,) for k in range(votes)))


def test_the_covariance_of_logits_is_that_of_the_curvature_of_what_the_fit_minimises() -> None:
    rng = np.random.default_rng(0)
    rows, table = voted(rng)
    asked = rng.normal(size=(7, 5))
    weight, scale, penalty = fit_rows(rows, table)

    def summed(w: Floats) -> float:
        return float(noisy_loss(rows @ w, table.p, 0.0).sum() + len(rows) * penalty / 2 * ((w * scale) ** 2).sum())

    step = 1e-3 * np.eye(5)
    shifts = [[weight + i + j, weight + i - j, weight - i + j, weight - i - j] for i in step for j in step]
    curved = [(summed(a) - summed(b) - summed(c) + summed(d)) / 4e-6 for a, b, c, d in shifts]
    root, bend = posterior(rows, table, asked)
    wanted = asked @ np.linalg.inv(np.reshape(curved, (5, 5))) @ asked.T
    assert root @ root.T == pytest.approx(wanted, rel=1e-3)
    assert bend == pytest.approx(expit(asked @ weight) * expit(-asked @ weight))


@pytest.mark.parametrize("seed", range(5))
def test_each_next_pair_adds_the_most_to_what_all_of_them_tell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    root, bend = rng.normal(size=(9, 4)), rng.uniform(0.05, 0.25, size=9)

    def told(chosen: list[int]) -> float:
        """½ log det(1 + Σ bend·root rootᵀ): what votes on these pairs tell of w, in nats."""
        own = root[chosen] * np.sqrt(bend[chosen])[:, None]
        return float(np.linalg.slogdet(np.eye(4) + own.T @ own)[1]) / 2

    chosen = most_telling(root, bend, 9)
    assert sorted(chosen) == list(range(9))
    for k, one in enumerate(chosen):
        best = max(told([*chosen[:k], other]) for other in set(range(9)) - set(chosen[:k]))
        assert told([*chosen[:k], one]) == pytest.approx(best)
    assert chosen[0] == int((bend * (root**2).sum(1)).argmax()) and most_telling(root, bend, 3) == chosen[:3]


def test_a_known_tie_is_not_asked_about_and_an_unknown_pair_is() -> None:
    """v is about one half of both, so that entropy cannot tell them apart."""
    rng = np.random.default_rng(1)
    rows = np.zeros((60, 3))
    rows[:, 0], rows[:40, 1], rows[59, 2] = rng.normal(size=60), 1.0, 1.0
    p = (rows[:, 0] > 0).astype(float)
    p[:40] = p[59] = 0.5  # the second feature was asked about forty times, the third once
    table = VoteTable(np.zeros(60), p, np.ones(60), tuple((k,) for k in range(60)))
    tie, unknown = np.eye(3)[1:]
    root, bend = posterior(rows, table, np.array([tie, unknown]))
    assert bend == pytest.approx([0.25, 0.25], abs=0.01)
    assert (root[1] ** 2).sum() > 3 * (root[0] ** 2).sum() and least_sure(rows, table, np.array([tie, unknown]), 1) == [
        1
    ]


def test_pairs_that_say_the_same_are_not_asked_one_after_the_other() -> None:
    root = np.vstack([np.tile([9.0, 0, 0, 0, 0], (5, 1)), 8 * np.eye(5)[1:]])
    first = most_telling(root, np.full(9, 0.25), 5)
    assert first[0] < 5 and sorted(first[1:]) == [5, 6, 7, 8]
