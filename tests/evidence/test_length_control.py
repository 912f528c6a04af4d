"""Win rates at equal length, against worlds whose rate at equal length is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv, expit, logit

from preftune.evidence import length_controlled

Drawn = tuple[np.ndarray, np.ndarray]


def world(seed: int, a: np.ndarray, b: float, prompts: int, pairs: int = 1) -> Drawn:
    """Wins in {0, ½, 1} and lengths [runs, prompts, pairs]. What prompts have in common at all runs has a mean of
    exactly σ(a + b·tanh(Δ/sd)): the quantile of a Beta distribution."""
    rng = np.random.default_rng(seed)
    longer = rng.normal(np.linspace(0, 0.3, len(a))[:, None, None], 1, (len(a), prompts, pairs))
    mean = expit(a[:, None, None] + b * np.tanh(longer / longer.std()))
    chance = betaincinv(2 * mean, 2 * (1 - mean), rng.uniform(size=prompts)[None, :, None])
    return rng.binomial(2, chance) / 2, 50 * longer


def test_the_interval_holds_the_rate_at_equal_length() -> None:
    """Of each run, and of the difference of two: .95 ± three errors of 400 studies of three runs."""
    a = np.array([-0.3, 0.0, 0.6])
    hits, apart = [], []
    for seed in range(400):
        found = length_controlled(*world(seed, a, 0.8, prompts=300))
        covers = [low <= expit(a[r]) <= high for r in range(3) for low, high in [found.rates.at(r).interval()]]
        low, high = found.rates.contrast([0, -1, 1]).interval()
        hits.append(np.mean(covers))
        apart.append(low <= expit(a[2]) - expit(a[1]) <= high)
    assert 0.93 <= np.mean(hits) < 0.97 and 0.92 < np.mean(apart) < 0.98


def test_with_much_data_it_finds_the_rates_and_the_slope_where_plain_rates_follow_length() -> None:
    a = np.array([0.0, 0.0])
    wins, longer = world(0, a, 2.0, prompts=20000)  # the second run's responses are longer by .3 sd
    found = length_controlled(wins, longer)
    assert found.slope == pytest.approx(2.0, abs=0.1)
    assert found.rates.values == pytest.approx(expit(a), abs=0.015)
    assert wins[1].mean() - wins[0].mean() > 0.05


def test_where_length_says_nothing_it_is_the_mean() -> None:
    """Every length occurs with every outcome in the same proportion: b = 0 exactly."""
    wins = np.array([[1, 1, 1, 0.5, 1, 1, 1, 0.5]])
    longer = np.array([[-3.0, -3, -3, -3, 5, 5, 5, 5]])
    found = length_controlled(wins, longer)
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert logit(found.rates.values) == pytest.approx(logit(wins.mean(axis=1)))


@given(seed=st.integers(0, 10**6), pairs=st.integers(1, 3))
def test_the_other_order_of_every_pair_turns_the_rates_round_and_leaves_the_slope(seed: int, pairs: int) -> None:
    wins, longer = world(seed, np.array([-0.2, 0.5]), 1.0, 60, pairs)
    one, other = length_controlled(wins, longer), length_controlled(1 - wins, -longer)
    assert other.rates.values == pytest.approx(1 - one.rates.values)
    assert other.rates.influence == pytest.approx(-one.rates.influence, abs=1e-7)
    assert other.slope == pytest.approx(one.slope)


@given(seed=st.integers(0, 10**6))
def test_the_influence_of_a_prompt_is_what_leaving_it_out_does(seed: int) -> None:
    """The jackknife, up to a term of the order 1/P and the prompt's part in sd, which is taken as known."""
    wins, longer = world(seed, np.array([0.1, 0.4]), 1.0, 200, 2)
    found = length_controlled(wins, longer)
    assert found.rates.influence.sum(axis=1) == pytest.approx(0, abs=1e-6)
    left = length_controlled(np.delete(wins, 7, axis=1), np.delete(longer, 7, axis=1))
    moved = (found.rates.values - left.rates.values) * 200
    assert moved == pytest.approx(found.rates.influence[:, 7], abs=0.06)


def test_pairs_of_a_prompt_are_no_prompts() -> None:
    """Each pair given three times is no more evidence."""
    wins, longer = world(3, np.array([0.3]), 1.0, 80)
    once = length_controlled(wins, longer)
    thrice = length_controlled(np.repeat(wins, 3, axis=2), np.repeat(longer, 3, axis=2))
    assert thrice.rates.at(0).se == pytest.approx(once.rates.at(0).se)


def test_a_pair_without_a_verdict_takes_no_part() -> None:
    wins, longer = world(4, np.array([0.3, 0.0]), 1.0, 50, 2)
    wins[:, :, 1] = math.nan
    some = length_controlled(wins, longer)
    assert some.rates.values == pytest.approx(length_controlled(wins[:, :, 0], longer[:, :, 0]).rates.values)
    wins[0, :5] = math.nan
    assert (length_controlled(wins, longer).rates.influence[0, :5] != 0).any()  # the slope is everybody's
    assert not any(length_controlled(wins, longer).why)


def test_a_run_that_cannot_be_controlled_says_why_and_leaves_the_others_alone() -> None:
    wins, longer = world(5, np.array([0.3, 0.0]), 1.0, 50)
    alone = length_controlled(wins, longer)
    wins, longer = np.repeat(wins, [1, 5], axis=0), np.repeat(longer, [1, 5], axis=0)
    longer[2], longer[3] = np.abs(longer[2]) + 1, -np.abs(longer[3]) - 1
    wins[4], wins[5] = 1.0, math.nan
    found = length_controlled(wins, longer)
    assert [bool(why) for why in found.why] == [False, False, True, True, True, True]
    assert "longer" in found.why[2] and "shorter" in found.why[3]
    assert "won every pair" in found.why[4] and "fewer than two prompts" in found.why[5]
    assert np.isnan(found.rates.values).tolist() == [bool(why) for why in found.why]
    assert found.rates.values[:2] == pytest.approx(alone.rates.values) and found.slope == pytest.approx(alone.slope)


@pytest.mark.parametrize(
    ("wins", "longer", "why"),
    [
        ([[0, 0, 1, 1]], [[-2, -1, 1, 2]], "length alone tells who wins"),
        ([[0, 1, 0, 1]], [[0, 0, 0, 0]], "no two pairs differ in length"),
        ([[0, 0, 0, 0]], [[-1, 0, 1, 2]], "lost every pair"),
    ],
)
def test_there_is_no_rate_where_the_fit_has_no_end(wins: list[float], longer: list[float], why: str) -> None:
    found = length_controlled(wins, longer)
    assert why in found.why[0] and found.slope is None and math.isnan(found.rates.values[0])
    assert found.rates.at(0).se is None


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        length_controlled(np.zeros((1, 4)), np.zeros((1, 5)))
