"""Random-effects meta-regression against explicit linear algebra, textbook tests and simulated luck."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from preftune.evidence.regression import (
    UNEQUAL,
    Fit,
    Part,
    Spread,
    _spread,
    can_curve,
    gain_at,
    membership,
    pooled,
    share_of,
    spread_of,
    terms,
    total_variance,
)

coefficients = st.floats(-2, 2)
distances = st.lists(st.floats(0.1, 4), min_size=1, max_size=6)
D = np.array([0.5, 0.7, 1.0, 1.6, 1.9, 2.4])
BETAS = ["low", "low", "middle", "middle", "high", "high"]
UNITS = ["s0", "s1", "s0", "s1", "s0", "s1"]


def some_covariance(size: int, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(size, 2 * size))
    return root @ root.T / (20 * size)


# --- the fit ----------------------------------------------------------------------------------------------------------


@given(alpha=coefficients, gamma=coefficients, kls=distances, at=st.floats(0.1, 4))
def test_gains_on_a_curve_give_the_curve_whatever_the_settings(
    alpha: float, gamma: float, kls: list[float], at: float
) -> None:
    d, settings = np.array([*kls, 0.5, 3.0]), [*(i % 3 for i in range(len(kls))), "near", "far"]
    fit = Fit(d, settings, curved=True)
    gains = alpha * d - gamma * d**2
    assert fit.solution() @ gains == pytest.approx([alpha, gamma], abs=1e-6)
    assert fit.contrast(at) @ gains == pytest.approx(gain_at(at, (alpha, gamma)), abs=1e-5)


def test_with_a_setting_for_each_run_the_fit_is_least_squares() -> None:
    gains = np.random.default_rng(0).normal(size=len(D))
    for curved in (False, True):
        expected = np.linalg.lstsq(terms(D, curved), gains, rcond=None)[0]
        assert Fit(D, range(len(D)), curved).solution() @ gains == pytest.approx(expected)


def test_with_two_settings_the_curve_has_the_mean_slope_of_the_runs_of_both() -> None:
    d, gains = D[:4], np.array([0.3, 0.5, 0.4, 0.8])
    alpha, gamma = Fit(d, BETAS[:4], curved=True).solution() @ gains
    for of in (slice(0, 2), slice(2, 4)):
        assert (gains / d)[of].mean() == pytest.approx(alpha - gamma * d[of].mean())


def test_a_run_that_hardly_left_the_reference_does_not_decide() -> None:
    d, gains = np.array([1e-5, 0.9, 1.1, 2.0]), np.array([0.01, 0.45, 0.55, 1.0])
    assert Fit(d, [0, 0, 0, 1], curved=True).contrast(1.0) @ gains == pytest.approx(0.5, abs=0.05)


def test_a_batch_of_distances_is_fitted_one_by_one() -> None:
    many = np.stack([D, 1.1 * D, D**1.2])
    each = [Fit(row, BETAS, curved=True).contrast(1.2) for row in many]
    assert Fit(many, BETAS, curved=True).contrast(1.2) == pytest.approx(np.stack(each))


def test_a_curve_needs_two_settings_and_not_two_runs() -> None:
    assert can_curve(D, BETAS) and not can_curve(D, ["one"] * len(D))
    assert not can_curve(np.array([1.0, 2.0, 2.0, 1.0]), ["a", "a", "b", "b"])  # the same distance on average
    assert not can_curve(np.array([1.0, 1.2]), ["a", "b"]) and can_curve(np.array([1.0, 1.3]), ["a", "b"])


def test_luck_that_carries_a_run_farther_and_higher_does_not_bend_the_frontier() -> None:
    """Gain per distance varies with the distance that a run of the same β reaches: least squares takes it for shape."""
    rng, at = np.random.default_rng(1), 1.2
    by_setting, by_run = [], []
    for _ in range(1500):
        luck = rng.normal(size=12)
        d = np.repeat([0.6, 2.2], 6) * np.exp(0.1 * luck)
        gains = d * (0.5 + 0.1 * luck - 0.1 * d)
        by_setting.append(Fit(d, [0] * 6 + [1] * 6, curved=True).contrast(at) @ gains)
        by_run.append(Fit(d, range(12), curved=True).contrast(at) @ gains)
    truth = gain_at(at, (0.5, 0.1))
    assert abs(np.mean(by_setting) - truth) < 4 * np.std(by_setting) / math.sqrt(1500)
    assert abs(np.mean(by_run) - truth) > 0.045


# --- what the residuals say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [UNITS, list("abcdef")])
@pytest.mark.parametrize("curved", [False, True])
def test_the_spread_is_right_on_average(units: list[str], curved: bool) -> None:
    """E[q] = noise + slope · τ² for gains with covariance S + τ² D M Mᵀ D, whatever the frontier."""
    covariance, tau = some_covariance(6), 0.3
    effects = np.diag(D) @ membership(units)
    root = np.linalg.cholesky(covariance + tau**2 * effects @ effects.T)
    rng, fit = np.random.default_rng(2), Fit(D, BETAS, curved)
    level = terms(D, curved) @ np.array([0.5, 0.1][: 1 + curved])
    even = np.ones(6)
    drawn = [_spread(fit, level + root @ rng.normal(size=6), units, covariance, even) for _ in range(6000)]
    q = np.array([one.q for one in drawn])
    assert q.mean() == pytest.approx(drawn[0].noise + drawn[0].slope * tau**2, abs=4 * q.std() / math.sqrt(6000))
    assert drawn[0].slope > 0 and drawn[0].noise > 0
    two_steps = [spread_of(fit, level + root @ rng.normal(size=6), units, covariance) for _ in range(3000)]
    found = [(one.q - one.noise) / one.slope for one in two_steps]
    assert np.mean(found) == pytest.approx(tau**2, rel=0.15)  # weights follow the gains, so that it is not exact


def test_degrees_of_freedom_are_the_units_left_when_the_frontier_is_fitted() -> None:
    runs, s = list("abcdef"), 1e-6 * np.eye(6)
    gains = D + np.array([0.1, -0.2, 0.1, 0.3, -0.1, 0.0])
    assert spread_of(Fit(D, BETAS, curved=True), gains, runs, s).dimensions == 4
    assert spread_of(Fit(D, BETAS, curved=False), gains, runs, s).dimensions == 5
    assert spread_of(Fit(D, BETAS, curved=True), gains, UNITS, s).dimensions == 1  # one difference of two seeds
    assert spread_of(Fit(D, BETAS, curved=True), gains, UNITS, s).df == pytest.approx(1)
    assert spread_of(Fit(D, BETAS, curved=True), gains, ["one"] * 6, s) == Spread()
    assert spread_of(Fit(D[:2], [0, 1], curved=True), gains[:2], ["a", "b"], s[:2, :2]) == Spread()


def test_runs_near_and_far_count_alike_where_runs_are_what_differs() -> None:
    """The gain of a run farther away varies more; without weights it would be most of the estimate."""
    d, gains = np.repeat([0.3, 2.4], 3), np.array([0.1, 0.2, 0.15, 1.0, 1.5, 1.3])
    found = spread_of(Fit(d, d.tolist(), curved=True), gains, list("abcdef"), 1e-9 * np.eye(6))
    assert (found.dimensions, found.df) == (4, pytest.approx(4, abs=0.01))
    slopes = gains / d
    within = [((part - part.mean()) ** 2).sum() for part in (slopes[:3], slopes[3:])]
    assert found.variance == pytest.approx(sum(within) / 4, rel=1e-3)


def test_gains_on_the_curve_leave_no_spread_and_noise_is_not_taken_for_one() -> None:
    fit = Fit(D, BETAS, curved=True)
    on_curve = spread_of(fit, 0.5 * D - 0.1 * D**2, UNITS, some_covariance(6))
    assert on_curve.q == pytest.approx(0) and on_curve.variance == 0


def test_a_share_is_the_variance_of_the_contrast_where_units_vary_by_one() -> None:
    c = Fit(D, BETAS, curved=True).contrast(1.2)
    effects = np.diag(D) @ membership(UNITS)
    assert share_of(c, D, UNITS) == pytest.approx(c @ effects @ effects.T @ c)
    assert share_of(c, D, list("abcdef")) == pytest.approx(((c * D) ** 2).sum())
    assert share_of(c, D, ["one"] * 6) == pytest.approx((c @ D) ** 2)


# --- one spread or several --------------------------------------------------------------------------------------------


def of_sample(values: np.ndarray) -> Spread:
    left = len(values) - 1
    return Spread(float(((values - values.mean()) ** 2).sum()), 0.0, left, left, left)


@pytest.mark.parametrize(("spread", "alike"), [(1.0, True), (30.0, False)])
def test_spreads_are_pooled_exactly_where_bartletts_test_allows(spread: float, alike: bool) -> None:
    rng = np.random.default_rng(4)
    samples = [rng.normal(size=6), rng.normal(size=9), spread * rng.normal(size=5)]
    mine = [of_sample(sample) for sample in samples]
    allowed = scipy.stats.bartlett(*samples).pvalue >= UNEQUAL
    together = mine[0] + mine[1] + mine[2]
    assert pooled(mine) == ([together] * 3 if allowed else mine)
    assert allowed == alike


def test_an_arm_that_says_nothing_of_its_runs_takes_nothing_from_others() -> None:
    calm, wild, silent = Spread(1.0, 0.0, 9.0, 9.0, 9), Spread(90.0, 0.0, 9.0, 9.0, 9), Spread()
    assert pooled([calm, silent, wild]) == [calm, silent, wild]
    assert pooled([calm, silent, calm]) == [calm + calm, silent, calm + calm]
    assert pooled([silent, calm]) == [silent, calm]
    assert pooled([silent, silent]) == [silent, silent]


# --- how sure -----------------------------------------------------------------------------------------------------


def test_a_spread_of_nothing_takes_no_degrees_of_freedom() -> None:
    calm = Spread(1.0, 5.0, 4.0, 8.0, 2)
    assert calm.variance == 0
    assert total_variance(0.3, 64, [Part(calm, 0.7), Part(calm, 0.2)]) == pytest.approx((0.3, 63))


def test_without_noise_of_prompts_two_arms_are_judged_by_welchs_test() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=5), 3 * rng.normal(size=8)
    parts = [Part(of_sample(a), 1 / len(a)), Part(of_sample(b), 1 / len(b))]
    variance, df = total_variance(0.0, 64, parts)
    welch = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert math.sqrt(variance) == pytest.approx((a.mean() - b.mean()) / welch.statistic)
    assert df == pytest.approx(welch.df)


def test_two_arms_of_one_spread_are_judged_by_students_test() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=5), rng.normal(size=8)
    one = of_sample(a) + of_sample(b)
    variance, df = total_variance(0.0, 64, [Part(one, 1 / len(a)), Part(one, 1 / len(b))])
    student = scipy.stats.ttest_ind(a, b)
    assert math.sqrt(variance) == pytest.approx((a.mean() - b.mean()) / student.statistic)
    assert df == pytest.approx(11)
