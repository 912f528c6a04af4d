"""The wide grid of label noise: what its methods must be in the cases where that is known."""

import numpy as np
import pytest

from bench.noise_grid import cyclic, general, relabelled
from preftune.lab.learners import BETA, STRONG, Case, amortized, draw_sample, reward
from preftune.lab.optima import regret, tilt
from preftune.objectives import smooth, unbias


def test_without_flips_the_three_kinds_of_dpo_are_one() -> None:
    sample = draw_sample(Case("", "", STRONG, 3), [(0, i) for i in range(2)])
    for change in (smooth, unbias):
        assert np.array_equal(relabelled(sample, (1.0,), change=change), reward(sample, (1.0,)))


@pytest.mark.parametrize("flips", [0.1, 0.3])
def test_labels_freed_of_flips_are_right_on_average(flips: float) -> None:
    own, other = unbias(1.0, flips), unbias(0.0, flips)
    # a true win is reported as a win with probability 1 − ε, and as a loss with ε
    assert (1 - flips) * own + flips * other == pytest.approx(1)
    assert (1 - flips) * other + flips * own == pytest.approx(0)
    assert smooth(1.0, flips) + smooth(0.0, flips) == pytest.approx(1) and own + other == pytest.approx(1)


def test_only_the_general_head_follows_a_preference_that_no_score_explains() -> None:
    sample = draw_sample(Case("", "", cyclic, 300), [(0, 0)])

    def lost(scores: np.ndarray) -> float:
        return float(regret(tilt(sample.reference, scores, BETA), sample.optimum, BETA).mean())

    wide, narrow = lost(general(sample, (0.3, 1.0))), lost(amortized(sample, (0.3,), everywhere=True))
    assert wide < 0.1 * narrow
