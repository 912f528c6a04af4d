"""Votes and a judge together: against the formula written out, in cases where the answer is known, and refusals.

Coverage, and methods that are wrong, are in `test_people.py`.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.evidence import clustered_mean, ppi, ppi_points

Votes = tuple[np.ndarray, np.ndarray, np.ndarray]


def drawn(seed: int, n: int, prompts: int, points: int = 1, agree: float = 0.7) -> Votes:
    """h, l and f [points, prompts], voted on at n random prompts; points share an effect of each prompt."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=prompts)
    f = shared + rng.normal(size=(points, prompts))
    same = f + 0.3 * rng.normal(size=(points, prompts))
    h = agree * same + rng.normal(size=(points, prompts)) + 0.2
    skipped = rng.permutation(prompts)[n:]
    h[:, skipped] = same[:, skipped] = math.nan
    return h, same, f


def by_the_formula(h: np.ndarray, same: np.ndarray, f: np.ndarray) -> tuple[float, float, float]:
    """(θ, SE, λ*), as on the page of the module, in other words than its code: λ by search."""
    voted = ~np.isnan(h)
    n, prompts = int(voted.sum()), len(f)
    s = np.cov([h[voted], same[voted], f[voted]])
    s_ff = f.var(ddof=1)

    def variance(weight: float) -> float:
        people = (s[0, 0] - 2 * weight * s[0, 1] + weight**2 * s[1, 1]) / n
        return float(people + (weight**2 * s_ff + 2 * weight * s[0, 2] - 2 * weight**2 * s[1, 2]) / prompts)

    weight = min(np.linspace(0, 1, 100_001), key=variance)
    value = h[voted].mean() + weight * (f.mean() - same[voted].mean())
    return float(value), math.sqrt(variance(weight) * (n - 1) / (n - 2)), float(weight)


@pytest.mark.parametrize(("seed", "n", "prompts"), [(0, 15, 200), (1, 60, 200), (2, 150, 200), (3, 199, 200)])
def test_it_is_the_formula(seed: int, n: int, prompts: int) -> None:
    h, same, f = (table[0] for table in drawn(seed, n, prompts))
    found = ppi(h, same, f)
    value, se, weight = by_the_formula(h, same, f)
    assert (found.both.value, found.both.se, found.weight) == pytest.approx((value, se, weight), abs=1e-4)
    assert (found.both.df, found.voted, found.prompts) == (n - 2, n, prompts)
    voted = ~np.isnan(h)
    for mean, data in ((found.people, h[voted]), (found.judge, f)):
        plain = clustered_mean(data, range(len(data)))
        assert (mean.value, mean.se, mean.df) == pytest.approx((plain.value, plain.se, plain.df))


def test_votes_saved_are_about_what_theory_says() -> None:
    """1/(1 − ρ²(1 − n/P)), where the judge's word on the voted pairs is its word on the prompt."""
    rng = np.random.default_rng(0)
    f = rng.normal(size=8000)
    h = 0.8 * f + 0.6 * rng.normal(size=8000)
    h[4000:] = math.nan
    found = ppi(h, np.where(np.isnan(h), math.nan, f), f)
    assert found.saved == pytest.approx(1 / (1 - 0.64 * 0.5), rel=0.05)
    assert found.weight == pytest.approx(0.8, abs=0.03)


@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5), order=st.randoms(use_true_random=False))
def test_a_bias_of_the_judge_and_the_order_of_prompts_change_nothing(seed: int, shift: float, order) -> None:
    h, same, f = (table[0] for table in drawn(seed, 30, 90))
    plain = ppi(h, same, f)
    chosen = list(range(90))
    order.shuffle(chosen)
    moved = ppi(h[chosen], same[chosen] + shift, f[chosen] + shift)
    assert (moved.both.value, moved.both.se) == pytest.approx((plain.both.value, plain.both.se), abs=1e-7)
    turned = ppi(-h, -same, -f)  # the other arm's win rate
    assert (-turned.both.value, turned.both.se) == pytest.approx((plain.both.value, plain.both.se), abs=1e-7)


@pytest.mark.parametrize(("n", "prompts", "constant"), [(9, 90, False), (90, 90, False), (30, 90, True)])
def test_people_alone_where_there_is_nothing_to_learn_from_the_judge(n: int, prompts: int, constant: bool) -> None:
    h, same, f = (table[0] for table in drawn(1, n, prompts))
    if constant:
        same, f = np.where(np.isnan(same), math.nan, 0.5), np.full(prompts, 0.5)
    found = ppi(h, same, f)
    assert found.weight == 0 and found.both == found.people and found.saved == 1
    points = ppi_points(h[None], same[None], f[None])
    assert points.weight == 0 and points.estimates.df == n - 1
    assert points.estimates.at(0).se == pytest.approx(found.people.se)


def test_an_error_is_unknown_where_all_votes_agree_or_there_is_one() -> None:
    f = np.linspace(0, 1, 40)
    for n in (1, 20):
        h = np.where(np.arange(40) < n, 1.0, math.nan)
        found = ppi(h, np.where(np.isnan(h), math.nan, f), f)
        assert found.both.value == 1 and found.both.se is None and found.saved is None


# --- points of a study ------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), n=st.integers(10, 88))
def test_one_point_is_ppi_and_influences_add_to_nothing(seed: int, n: int) -> None:
    h, same, f = drawn(seed, n, 90)
    one, many = ppi(h[0], same[0], f[0]), ppi_points(h, same, f)
    assert many.weight == pytest.approx(one.weight) and many.estimates.df == n - 2 and many.voted == n
    assert many.estimates.influence.sum() == pytest.approx(0, abs=1e-7)
    assert many.estimates.at(0).value == pytest.approx(one.both.value)
    assert many.estimates.at(0).se == pytest.approx(one.both.se, rel=0.02)


def test_the_weight_is_best_for_the_differences_between_points() -> None:
    """By search over λ: the sum of V over all pairs of points."""
    h, same, f = drawn(5, 40, 120, points=4)
    found = ppi_points(h, same, f)

    def summed(weight: float) -> float:
        total, voted = 0.0, ~np.isnan(h[0])
        for i in range(4):
            for j in range(i):
                a, b, c = h[i] - h[j], same[i] - same[j], f[i] - f[j]
                rest = (a - weight * b)[voted]
                cross = np.cov(rest, c[voted])[0, 1]
                total += rest.var(ddof=1) / 40 + (weight**2 * c.var(ddof=1) + 2 * weight * cross) / 120
        return total

    assert found.weight == pytest.approx(min(np.linspace(0, 1, 501), key=summed), abs=2e-3)
    assert 0 < found.weight < 1
    variances = [
        found.estimates.contrast(c).se ** 2
        for c in ([1, -1, 0, 0], [1, 0, -1, 0], [1, 0, 0, -1], [0, 1, -1, 0], [0, 1, 0, -1], [0, 0, 1, -1])
    ]
    assert sum(variances) == pytest.approx(summed(found.weight) * 39 / 38, rel=0.01)


def test_what_a_prompt_has_in_common_at_all_points_does_not_count_in_a_difference() -> None:
    h, same, f = drawn(6, 30, 100, points=3)
    taste = np.random.default_rng(0).normal(size=100) * 3
    plain = ppi_points(h, same, f)
    moved = ppi_points(h + taste, same + taste, f + taste)
    assert moved.weight == pytest.approx(plain.weight)
    assert moved.estimates.contrast([1, 0, -1]).value == pytest.approx(plain.estimates.contrast([1, 0, -1]).value)
    ratio = moved.estimates.contrast([1, 0, -1]).se / plain.estimates.contrast([1, 0, -1]).se
    assert ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h, same, f: (h, same[:, :50], f), "shapes"),
        (lambda h, same, f: (h * math.nan, same, f), "needs votes"),
        (lambda h, same, f: (np.where(np.arange(4)[:, None] == 0, math.nan, h), same, f), "same prompts"),
        (lambda h, same, f: (h, same, np.where(np.arange(100) == 3, math.nan, f)), "one and the same"),
        (lambda h, same, f: (h, same * math.nan, f), "one and the same"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(change, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ppi_points(*change(*drawn(7, 30, 100, points=4)))
    with pytest.raises(ValueError, match="two prompts"):
        ppi_points(*drawn(7, 1, 100))
