"""Estimates that hand over what each prompt contributes: means of prompts some of which have no verdict."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from preftune.evidence import Estimates, clustered_mean, mean_where_there, missing_bounds

tables = hnp.arrays(float, (3, 8), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, math.nan]))


def test_with_every_prompt_there_it_is_the_plain_mean_and_prompts_stand_for_themselves() -> None:
    drawn = np.random.default_rng(0).random((2, 40))
    found = mean_where_there(drawn)
    assert found.pseudo_values == pytest.approx(drawn)
    assert found.covariance == pytest.approx(np.cov(drawn) / 40)
    assert (found.at(1).value, found.at(1).se, found.df) == pytest.approx(
        (drawn[1].mean(), clustered_mean(drawn[1], range(40)).se, 39)
    )
    difference = clustered_mean(drawn[0] - drawn[1], range(40))  # paired over prompts
    assert found.contrast([1, -1]).se == pytest.approx(difference.se)


@given(table=tables)
def test_influences_add_to_nothing_and_their_variance_is_that_of_the_prompts_there(table: np.ndarray) -> None:
    found = mean_where_there(table)
    for row, mean, influence in zip(table, found.values, found.influence, strict=True):
        seen = row[~np.isnan(row)]
        if len(seen) < 2:
            assert np.isnan(influence).all()
            continue
        assert mean == pytest.approx(seen.mean()) and influence.sum() == pytest.approx(0, abs=1e-9)
        assert (influence[np.isnan(row)] == 0).all()
        exact = seen.var(ddof=1) / len(seen) * (1 - 1 / len(seen)) / (1 - 1 / len(row))
        assert influence.var(ddof=1) / len(row) == pytest.approx(exact)


@given(table=tables)
def test_the_bounds_are_those_of_the_worst_and_the_best_that_could_be_missing(table: np.ndarray) -> None:
    low, high = missing_bounds(table)
    missing = np.isnan(table).mean(axis=1)
    assert high - low == pytest.approx(missing)
    assert low == pytest.approx(np.where(np.isnan(table), 0, table).mean(axis=1))
    means = mean_where_there(table).values
    assert all(math.isnan(mean) or a - 1e-9 <= mean <= b + 1e-9 for a, mean, b in zip(low, means, high, strict=True))


def test_a_verdict_that_failed_is_no_tie() -> None:
    """Three of four wins, and four prompts without a verdict: ¾, where ties in their place would make it ⅝."""
    row = [1.0, 1.0, 1.0, 0.0, *[math.nan] * 4]
    assert mean_where_there([row]).at(0).value == 0.75
    assert missing_bounds([row])[0] == 0.375 and missing_bounds([row])[1] == 0.875


def test_what_is_not_known_at_one_point_does_not_spoil_another() -> None:
    found = mean_where_there([[0.0, 1.0, 0.5], [math.nan, math.nan, 1.0], [math.nan] * 3])
    assert found.at(0).se and found.at(1) == type(found.at(1))(1.0, None, 0) and math.isnan(found.at(2).value)
    assert isinstance(found, Estimates) and found.contrast([1, -1, 0]).se is None


@pytest.mark.parametrize("table", [[1.0, 2.0], [[1.0]]])
def test_a_table_of_another_shape_is_refused(table: list[float]) -> None:
    with pytest.raises(ValueError, match="two prompts at least"):
        mean_where_there(table)
