"""What a plan could see, against the same sums written out and against studies that are made up to the assumptions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import t

from preftune.evidence.comparisons import compare, corrected
from preftune.evidence.frontiers import PerPrompt, Point, fit_frontier
from preftune.evidence.power import PlannedEnd, outlook, seeds_needed


def ends_of(arms=("dpo", "ipo"), betas=(0.1, 0.5), seeds=(0, 1), noises=(0.0,)) -> list[PlannedEnd]:
    return [PlannedEnd(*end) for end in itertools.product(arms, betas, seeds, noises)]


def quantiles(alpha: float, df: int) -> float:
    return float(t.ppf(1 - alpha / 2, df) + t.ppf(0.8, df))


@pytest.mark.parametrize(("prompts", "samples"), [(64, 1), (160, 2), (10, 4)])
def test_two_betas_and_two_seeds_against_the_sums_written_out(prompts: int, samples: int) -> None:
    """The curve d(α − γd) goes through the means of both settings, at d = 1 and 2: at 3/2 it is linear in them."""
    (found,) = outlook(ends_of(), prompts, samples)
    weights = np.linalg.solve(np.array([[1.0, -1.0], [2.0, -4.0]]).T, np.array([1.5, -2.25]))  # of the two means
    size = 2 * float((weights**2 / 2).sum())  # two seeds to a setting, two arms
    wanted = quantiles(0.05, prompts - 1) * np.sqrt(size / prompts)
    assert found.sure and found.runs == 8
    assert (found.difference, found.alike) == pytest.approx((wanted / np.sqrt(samples), wanted))


def test_one_beta_is_a_line_through_the_mean_of_its_runs() -> None:
    (found,) = outlook(ends_of(betas=(0.1,), seeds=(0, 1, 2)), 50, 1)
    assert found.difference == pytest.approx(quantiles(0.05, 49) * np.sqrt(2 / 3 / 50)) and found.sure


def test_every_pair_and_rate_of_noise_is_one_more_comparison() -> None:
    many = outlook(ends_of(arms=("dpo", "ipo", "gpo"), noises=(0.0, 0.2)), 64, 1)
    (two,) = outlook(ends_of(), 64, 1)
    assert len(many) == 6 and two.difference
    assert [pair.difference / two.difference for pair in many[:3]] == pytest.approx(
        [quantiles(0.05 / 6, 63) / quantiles(0.05, 63)] * 3
    )


def test_a_study_that_is_as_assumed_says_the_same() -> None:
    """The comparison of a finished study, on run ends where they are assumed and scores with noise of σ."""
    rng, prompts, sigma = np.random.default_rng(0), 4000, 0.7
    points, gains = [], []
    for arm, (beta, d), seed in itertools.product(("dpo", "ipo"), ((0.5, 1.0), (0.1, 2.0)), (0, 1)):
        name = f"{arm}{beta}{seed}"
        points.append(Point(name, arm, beta, seed, 1, d * d, 0.1, d, 0.1, unit=name))
        gains.append(d + sigma * rng.normal(size=prompts))
    gain = np.array(gains)
    gain -= gain.mean(1, keepdims=True) - np.array([[point.gain] for point in points])  # no luck: τ² is 0 then
    table = PerPrompt(np.array([[point.kl] * prompts for point in points]), gain)
    fits = [fit_frontier([point for point in points if point.arm == arm]) for arm in ("dpo", "ipo")]
    (wanted,) = corrected(compare([fit for fit in fits if fit], points, table))
    (found,) = outlook(ends_of(), prompts, 1)
    assert found.difference and sigma * found.difference == pytest.approx(wanted.detectable, rel=0.03)


@pytest.mark.parametrize(
    ("betas", "seeds", "told", "sure"),
    [
        ((0.1,), (0,), False, False),
        ((0.1, 0.5), (0,), False, False),
        ((0.1,), (0, 1), True, False),
        ((0.1, 0.2, 0.5), (0,), True, False),
        ((0.1, 0.5), (0, 1), True, True),
        ((0.1, 0.2, 0.3, 0.5), (0,), True, True),
    ],
)
def test_too_few_runs_cannot_tell_a_method_from_a_run(betas, seeds, told: bool, sure: bool) -> None:
    (found,) = outlook(ends_of(betas=betas, seeds=seeds), 64, 1)
    assert (found.difference is not None, found.sure) == (told, sure) and bool(found.why) is not told


def test_the_seeds_that_are_needed_are_enough_and_one_fewer_is_not() -> None:
    for betas in ((0.1,), (0.1, 0.5)):
        count = seeds_needed(ends_of(betas=betas, seeds=(7,)))
        assert count and count > 1
        assert [outlook(ends_of(betas=betas, seeds=range(n)), 9, 1)[0].sure for n in (count - 1, count)] == [
            False,
            True,
        ]


def test_nothing_is_told_on_one_prompt_or_without_responses() -> None:
    for prompts in (0, 1):
        (found,) = outlook(ends_of(), prompts, 0)
        assert found.difference is None and "prompts" in found.why


def test_runs_of_a_seed_that_share_a_fitted_model_are_one_unit() -> None:
    (found,) = outlook(ends_of(arms=("ppo", "rloo"), betas=(0.1, 0.5), seeds=(0, 1)), 64, 1)
    (apart,) = outlook(ends_of(arms=("dpo", "ipo"), betas=(0.1, 0.5), seeds=(0, 1)), 64, 1)
    assert found.difference == apart.difference and not found.sure and apart.sure
