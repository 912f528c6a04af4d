"""Intervals that hold at any time: a martingale, shown exactly, and how often they are wrong anywhere on the way."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from preftune.evidence import Estimate, anytime_half_width, anytime_interval, enough, exact_interval, log_wealth

OUTCOMES = np.array([0.0, 0.5, 1.0])
ENDS = np.array([counts for counts in product(range(5), repeat=3) if sum(counts) == 4])  # of four votes
shares = st.tuples(*[st.floats(0.01, 1)] * 3)


@given(shares=shares)
def test_what_bets_are_worth_is_a_martingale_at_the_true_mean(shares: tuple[float, float, float]) -> None:
    """E K(m) = 1 after four votes, over all that can happen; away from the mean it grows."""
    chance = np.array(shares) / sum(shares)
    mean = float(chance @ OUTCOMES)

    def expected(m: float) -> float:
        return float(
            scipy.stats.multinomial.pmf(ENDS, 4, chance) @ np.exp(log_wealth(np.array([m]), OUTCOMES, ENDS))[:, 0]
        )

    assert expected(mean) == pytest.approx(1)
    for other in (mean / 2, (1 + mean) / 2):
        assert expected(other) > 1


def test_no_bet_can_lose_all_and_wealth_is_of_counts_alone() -> None:
    x = np.random.default_rng(0).choice(OUTCOMES, 30)
    m = np.array([0.001, 0.3, 0.999])
    one_by_one = log_wealth(m, x, np.ones(30))
    assert np.isfinite(one_by_one).all()
    assert log_wealth(m, *np.unique(x, return_counts=True)) == pytest.approx(one_by_one)


def test_it_is_wrong_anywhere_on_the_way_in_at_most_5_of_100() -> None:
    """Looked at after each of 300 votes, where a t interval is wrong in more than 20."""
    rng = np.random.default_rng(1)
    for chance in ((0.5, 0.0, 0.5), (0.28, 0.2, 0.52), (0.05, 0.0, 0.95)):
        mean = np.array([float(OUTCOMES @ chance)])
        x = rng.choice(3, size=(1000, 300), p=chance)
        counts = np.cumsum(x[..., None] == np.arange(3), axis=1)
        assert (log_wealth(mean, OUTCOMES, counts) > math.log(20)).any(axis=(1, 2)).mean() < 0.06
        n = np.arange(1, 301)
        running = counts @ OUTCOMES / n
        sd = np.sqrt(np.maximum(counts @ OUTCOMES**2 / n - running**2, 1e-9))
        late = slice(19, None)
        assert (np.abs(running - mean) > 1.96 * sd / np.sqrt(n))[:, late].any(axis=1).mean() > 0.2


def test_the_interval_is_what_wealth_leaves_and_narrows() -> None:
    x = np.tile([0.0, 1.0, 0.5, 1.0, 0.0, 1.0], 100)
    widths = []
    for n in (0, 30, 120, 600):
        low, high = exact_interval(x[:n])
        widths.append(high - low)
        assert low <= x[:n].mean() <= high if n else (low, high) == (0, 1)
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.15
    assert exact_interval(np.ones(100)) == pytest.approx((0.95, 1), abs=0.02)
    turned = exact_interval(1 - x)
    assert turned == pytest.approx(tuple(1 - end for end in reversed(exact_interval(x))))
    assert exact_interval(x, 0.01)[0] < exact_interval(x)[0]


def test_widths_are_those_that_are_known() -> None:
    """.36, .26, .19 and .12 on average after 50, 100, 200 and 500 votes: 52% wins, 20% ties, 28% losses."""
    for n, width in ((50, 0.36), (100, 0.26), (200, 0.19), (500, 0.12)):
        low, high = exact_interval(np.repeat([1.0, 0.5, 0.0], [0.52 * n, 0.2 * n, 0.28 * n]))
        assert high - low == pytest.approx(width, abs=0.01)


def test_where_no_mean_is_left_the_interval_is_the_least_unlikely_one() -> None:
    """A thousand bets of one kind can leave nothing; it is still an interval around something."""
    low, high = exact_interval(np.repeat([0.0, 1.0], 500), alpha=0.999)
    assert 0 <= low <= 0.5 <= high <= 1


@pytest.mark.parametrize("x", [[1.2], [-0.1], [math.nan]])
def test_what_is_no_share_is_refused(x: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        exact_interval(x)


# --- for large samples ------------------------------------------------------------------------------------------------


def test_for_large_samples_it_is_wrong_anywhere_in_at_most_5_of_100() -> None:
    rng = np.random.default_rng(2)
    x = rng.choice(OUTCOMES, size=(1500, 400), p=(0.28, 0.2, 0.52))
    n = np.arange(1, 401)
    mean = x.cumsum(axis=1) / n
    se = np.sqrt(((x**2).cumsum(axis=1) / n - mean**2) / np.maximum(n - 1, 1))
    wrong = np.zeros(1500, dtype=bool)
    wins, losses = (np.cumsum(x == end, axis=1) for end in (1, 0))
    for i in range(19, 400):
        ready = np.minimum(wins[:, i], losses[:, i]) >= 8
        half = np.array(
            [anytime_half_width(one, 200) if ok else math.inf for one, ok in zip(se[:, i], ready, strict=True)]
        )
        wrong |= np.abs(mean[:, i] - 0.62) > half
    assert wrong.mean() < 0.055


def test_it_is_wider_than_t_narrowest_where_planned_and_unbounded_where_nothing_is_known() -> None:
    at = 0.45 / math.sqrt(200)
    halves = [anytime_half_width(at, planned) for planned in (20, 200, 20_000)]
    assert min(halves) == halves[1] and 1.3 < halves[1] / (1.96 * at) < 1.7
    low, high = anytime_interval(Estimate(0.6, at), 200)
    assert (low, high) == pytest.approx((0.6 - halves[1], 0.6 + halves[1]))
    assert anytime_interval(Estimate(0.6, None), 200) == (-math.inf, math.inf)


def test_enough_is_20_votes_and_8_on_each_side() -> None:
    assert enough(8, 4, 8) and not enough(8, 3, 8) and not enough(7, 10, 30) and not enough(30, 10, 7)
