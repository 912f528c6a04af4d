"""Votes of people and a judge: intervals hold the truth as often as they say, and wrong ways of doing it do not pass.

`bench/people.py` has the world, and measures all of it on 20,000 repetitions.
"""

import numpy as np
import pytest

from bench.people import (
    ALIKE,
    BIAS,
    CELLS,
    STUDIES,
    TRUTH,
    WRONG,
    Cell,
    Way,
    draws,
    measure,
    measure_study,
    measure_wrong,
    place,
)

REPETITIONS = 1000
SURE = 0.02  # 2.9 errors of a coverage of .95


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.votes}-{cell.voted}-{cell.rho}")
def test_the_interval_holds_the_truth_as_often_as_it_says(cell: Cell) -> None:
    found = measure(cell, REPETITIONS)
    assert 0.95 - SURE < found["coverage"] < 0.95 + SURE
    assert found["judge_alone"] < 0.1
    assert (found["width"] < 0.95) == (cell.rho > 0) and found["width"] < 1.06


@pytest.mark.parametrize("cell", STUDIES[1:5:3], ids=lambda cell: f"{cell.voted}-{cell.rho}")
def test_so_does_that_of_a_difference_between_arms(cell: Cell) -> None:
    found = measure_study(cell, REPETITIONS)
    assert 0.95 - SURE < found["coverage"] < 0.95 + SURE and found["width"] < 0.95


@pytest.mark.parametrize("way", WRONG, ids=lambda way: way.__name__)
def test_a_wrong_way_does_not_pass(way: Way) -> None:
    found = measure_wrong(way, REPETITIONS)
    assert found["coverage"] < 0.93 < found["right"] < 0.97


def test_the_world_is_what_it_says() -> None:
    for cell in (Cell(15, 0.5, 3), Cell(15, 0.8, 1)):
        drawn = list(draws(cell, 300, np.random.default_rng(0)))
        people, judge = (np.stack([getattr(one, name) for one in drawn]) for name in ("people", "judge"))
        assert people.mean() == pytest.approx(TRUTH, abs=0.005)
        assert judge.mean() - people.mean() == pytest.approx(BIAS, abs=0.005)
        assert np.corrcoef(people.ravel(), judge.ravel())[0, 1] == pytest.approx(cell.rho, abs=0.01)
        assert set(np.unique(judge)) == {0, 0.25, 0.5, 0.75, 1}
        assert 0.5 * ALIKE < np.corrcoef(people[..., 0].ravel(), people[..., 1].ravel())[0, 1] < ALIKE
        h = drawn[0].voted(drawn[0].people)
        assert np.isfinite(h).sum() == 15 and h[0] == drawn[0].people[0, : cell.votes].mean()
    assert place({"votes": 1, "voted": 15, "rho": 0.5}) == "1, 15, 0.5"
