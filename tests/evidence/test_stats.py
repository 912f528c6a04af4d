"""Means, differences and their uncertainty, against simulation, other formulas and symmetries."""

import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from preftune.evidence.stats import (
    Estimate,
    Floats,
    Indices,
    clustered_mean,
    holm,
    number,
    over_seeds,
    paired_bootstrap,
    paired_difference,
    with_seeds,
)

values = st.floats(-100, 100)
clustered = st.lists(st.tuples(values, st.integers(0, 5)), min_size=3, max_size=30).filter(
    lambda pairs: len({cluster for _, cluster in pairs}) > 1
)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


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


def test_what_two_policies_share_on_a_prompt_cancels_in_their_difference() -> None:
    rng = np.random.default_rng(3)
    shared, noise = rng.normal(0, 10, 50), rng.normal(0, 0.1, 50)
    estimate = paired_difference(shared + 1 + noise, shared, range(50))
    assert estimate.value == pytest.approx(1, abs=0.1) and estimate.se == pytest.approx(scipy.stats.sem(noise))
    same = paired_difference(shared, shared, range(50))
    assert (same.value, same.se, same.z, same.p_value) == (0, 0, None, 1)


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


# --- bootstrap --------------------------------------------------------------------------------------------------------


def mean_of(data: Floats) -> Callable[[Indices], Floats]:
    return lambda prompts: data[prompts].mean(-1)


def test_the_bootstrap_error_of_a_mean_is_the_known_one() -> None:
    data = np.random.default_rng(4).exponential(size=6)  # few: a resample of n varies by (n - 1)/n too little
    estimate = paired_bootstrap(mean_of(data), 6, resamples=20_000)
    known = clustered_mean(data, range(6))
    assert estimate.value == pytest.approx(known.value) and estimate.df == known.df
    assert estimate.se == pytest.approx(known.se, rel=0.04)


def test_the_bootstrap_error_of_a_ratio_is_that_of_the_delta_method() -> None:
    rng = np.random.default_rng(5)
    x = rng.uniform(1, 2, 400)
    y = 2 * x + rng.normal(0, 0.3, 400)

    def ratio(prompts: Indices) -> Floats:
        return np.asarray(y[prompts].mean(-1) / x[prompts].mean(-1))

    estimate = paired_bootstrap(ratio, 400)
    delta = scipy.stats.sem(y - estimate.value * x) / x.mean()  # not what unpaired resamples of y and x would give
    assert estimate.se == pytest.approx(delta, rel=0.1)


def test_the_bootstrap_is_deterministic_and_follows_scale() -> None:
    data = np.random.default_rng(6).normal(size=30)
    once, twice = paired_bootstrap(mean_of(data), 30), paired_bootstrap(mean_of(data), 30)
    assert once == twice
    scaled = paired_bootstrap(mean_of(-10 * data), 30)
    assert scaled.value == pytest.approx(-10 * once.value) and scaled.se == pytest.approx(10 * (once.se or 0))
    assert paired_bootstrap(mean_of(data), 30, seed=1) != once


def test_a_constant_has_no_error_and_one_prompt_no_bootstrap() -> None:
    estimate = paired_bootstrap(lambda prompts: np.zeros(prompts.shape[:-1]), 10)
    assert (estimate.value, estimate.se, estimate.p_value) == (0, 0, 1)
    with pytest.raises(ValueError, match="two or more"):
        paired_bootstrap(mean_of(np.ones(1)), 1)


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_over_seeds_is_students_t() -> None:
    drawn = [0.3, 0.5, 0.1]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(drawn), scipy.stats.sem(drawn))
    assert over_seeds(drawn).interval() == pytest.approx(expected)
    assert over_seeds([0.3]).se is None


@given(se=st.floats(1e-3, 1e3), prompts=st.integers(1, 500), seeds=st.integers(1, 10))
def test_where_one_source_of_error_is_nothing_the_other_is_all(se: float, prompts: int, seeds: int) -> None:
    known, nothing = Estimate(1.0, se, prompts), Estimate(1.0, 0.0, seeds)
    assert with_seeds(known, nothing).interval() == pytest.approx(known.interval(), rel=1e-6)
    assert with_seeds(nothing, known).interval() == pytest.approx(known.interval(), rel=1e-6)


@given(a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3), prompts=st.integers(1, 500), seeds=st.integers(1, 10))
def test_seeds_only_widen_an_interval(a: float, b: float, prompts: int, seeds: int) -> None:
    over_prompts, over = Estimate(0.0, a, prompts), Estimate(0.0, b, seeds)
    both = with_seeds(over_prompts, over).half_width()
    assert both >= max(over_prompts.half_width(), over.half_width()) * (1 - 1e-6)
    assert both == pytest.approx(math.hypot(over_prompts.half_width(), over.half_width()), rel=1e-4)


@pytest.mark.parametrize(("seeds", "between"), [(2, 0.0), (2, 3.0), (3, 1.0), (3, 10.0), (5, 3.0)])
def test_the_interval_over_prompts_and_seeds_holds_the_truth(seeds: int, between: float) -> None:
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(500):
        of_seeds = rng.normal(0, math.hypot(between, 0.3), seeds)
        value = rng.normal() + of_seeds.mean()
        prompt_error = math.hypot(1, 0.3 / seeds**0.5) * math.sqrt(rng.chisquare(60) / 60)
        hits.append(covers(with_seeds(Estimate(value, prompt_error, 60), over_seeds(of_seeds)), 0.0))
    assert np.mean(hits) > 0.92


def test_with_one_seed_the_error_over_seeds_is_unknown() -> None:
    assert with_seeds(Estimate(1.0, 0.1, 30), over_seeds([0.2])).se is None


# --- many comparisons -------------------------------------------------------------------------------------------------


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(raw=p_values)
def test_holm_lies_between_the_raw_values_and_bonferroni_and_keeps_their_order(raw: list[float]) -> None:
    corrected = holm(raw)
    for before, after in zip(raw, corrected, strict=True):
        assert before <= after <= min(1.0, len(raw) * before) + 1e-12
    ranked = [after for _, after in sorted(zip(raw, corrected, strict=True))]
    assert ranked == sorted(ranked)


@given(raw=p_values, order=st.randoms(use_true_random=False))
def test_holm_does_not_care_for_order(raw: list[float], order: Random) -> None:
    shuffled = list(range(len(raw)))
    order.shuffle(shuffled)
    assert holm([raw[i] for i in shuffled]) == tuple(holm(raw)[i] for i in shuffled)


def test_holm_keeps_false_alarms_in_all_comparisons_together_below_the_level() -> None:
    draws = np.random.default_rng(8).uniform(size=(2000, 6))
    alarms = [min(holm(draw.tolist())) < 0.05 for draw in draws]
    assert 0.03 < np.mean(alarms) < 0.07


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
