"""Means, differences and their uncertainty, against simulation, other formulas and symmetries."""

import math
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from preftune.evidence.stats import (
    Estimate,
    clustered_mean,
    number,
    over_seeds,
)

values = st.floats(-100, 100)
clustered = st.lists(st.tuples(values, st.integers(0, 5)), min_size=3, max_size=30).filter(
    lambda pairs: len({cluster for _, cluster in pairs}) > 1
)


def close(a: Estimate, b: Estimate) -> bool:
    assert a.se is not None and b.se is not None
    return math.isclose(a.value, b.value, abs_tol=1e-9) and math.isclose(a.se, b.se, abs_tol=1e-9) and a.df == b.df


def covers(estimate: Estimate, truth: float) -> bool:
    low, high = estimate.interval()
    return low <= truth <= high


# --- clustered means --------------------------------------------------------------------------------------------------


def test_with_a_value_per_prompt_the_error_is_the_usual_one() -> None:
    drawn = np.random.default_rng(0).normal(size=40)
    estimate = clustered_mean(drawn, range(40))
    assert estimate.value == pytest.approx(drawn.mean())
    assert estimate.se == pytest.approx(scipy.stats.sem(drawn))
    assert estimate.interval() == pytest.approx(scipy.stats.t.interval(0.95, 39, drawn.mean(), scipy.stats.sem(drawn)))
    assert estimate.p_value == pytest.approx(scipy.stats.ttest_1samp(drawn, 0).pvalue)


def test_without_degrees_of_freedom_to_lose_the_interval_is_the_normal_one() -> None:
    assert Estimate(1.0, 0.5).interval() == pytest.approx(scipy.stats.norm.interval(0.95, 1.0, 0.5))
    assert Estimate(1.0, 0.5).p_value == pytest.approx(2 * scipy.stats.norm.sf(2))


def test_with_equal_clusters_the_error_is_that_of_the_cluster_means() -> None:
    drawn = np.random.default_rng(1).normal(size=(12, 3))
    estimate = clustered_mean(drawn.ravel(), np.repeat(np.arange(12), 3).tolist())
    assert estimate.se == pytest.approx(scipy.stats.sem(drawn.mean(axis=1)))
    assert estimate.df == 11


@given(pairs=clustered)
def test_saying_everything_twice_within_a_prompt_is_no_more_evidence(pairs: Sequence[tuple[float, int]]) -> None:
    data, prompts = zip(*pairs, strict=True)
    assert close(clustered_mean(data * 2, prompts * 2), clustered_mean(data, prompts))


@given(pairs=clustered)
def test_a_weight_of_two_is_the_value_given_twice(pairs: Sequence[tuple[float, int]]) -> None:
    data, prompts = zip(*pairs, strict=True)
    weights = [2.0] + [1.0] * (len(data) - 1)
    assert close(clustered_mean(data, prompts, weights), clustered_mean((data[0], *data), (prompts[0], *prompts)))


@given(pairs=clustered, shift=values, order=st.randoms(use_true_random=False))
def test_a_mean_follows_a_shift_and_does_not_care_for_order_or_names(
    pairs: list[tuple[float, int]], shift: float, order: Random
) -> None:
    data, prompts = zip(*pairs, strict=True)
    plain = clustered_mean(data, prompts)
    order.shuffle(pairs)
    moved = clustered_mean([-3 * v + shift for v, _ in pairs], [f"prompt {c}" for _, c in pairs])
    assert close(moved, Estimate(-3 * plain.value + shift, 3 * (plain.se or 0), plain.df))


def test_the_interval_holds_the_truth_about_95_times_in_100_when_prompts_cluster() -> None:
    rng = np.random.default_rng(2)
    prompts = np.repeat(np.arange(25), 4)
    draws = rng.normal(size=(1500, 25)).repeat(4, axis=1) + rng.normal(size=(1500, 100))
    hits = [covers(clustered_mean(draw, prompts.tolist()), 0.0) for draw in draws]
    assert 0.93 < np.mean(hits) < 0.97
    naive = [covers(clustered_mean(draw, range(100)), 0.0) for draw in draws]
    assert np.mean(naive) < 0.85  # what leaving the clusters out would cost


def test_one_prompt_has_a_mean_and_no_error() -> None:
    estimate = clustered_mean([1.0, 2.0], ["a", "a"])
    assert (estimate.value, estimate.se, estimate.z, estimate.p_value) == (1.5, None, None, 1.0)
    assert estimate.interval() == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("data", "prompts", "weights"),
    [([], [], None), ([1.0], [0, 1], None), ([1.0], [0], [1.0, 2.0]), ([1.0], [0], [0.0])],
)
def test_a_mean_of_nothing_or_of_unequal_lengths_is_refused(
    data: list[float], prompts: list[int], weights: list[float] | None
) -> None:
    with pytest.raises(ValueError, match=r"needs one cluster|weights add"):
        clustered_mean(data, prompts, weights)


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_over_seeds_is_students_t() -> None:
    drawn = [0.3, 0.5, 0.1]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(drawn), scipy.stats.sem(drawn))
    assert over_seeds(drawn).interval() == pytest.approx(expected)
    assert over_seeds([0.3]).se is None


# --- in print ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.8834, 0.0621), "0.883 ± 0.062"),
        (Estimate(-12.34, 1.234), "−12.3 ± 1.2"),
        (Estimate(1234.5, 99.0), "1,234 ± 99"),
        (Estimate(0.0, 0.0), "0.00 ± 0.00"),
        (Estimate(0.5, None), "0.50"),
        (Estimate(math.nan, 0.1), "unknown ± 0.10"),
    ],
)
def test_an_estimate_prints_two_digits_of_its_error(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


@given(value=st.floats(), error=st.floats())
def test_any_number_can_be_printed(value: float, error: float) -> None:
    assert number(value, error)
