"""The simulation study: its numbers do not depend on how they are computed, and they go where the theory says."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from preftune.lab.learners import (
    CASES,
    CONTEXTUAL,
    FINITE,
    Sample,
    amortized,
    draw_sample,
    fit_many,
    ipo,
    linear_ipo,
    tabular_ipo,
)
from preftune.lab.preference import fit_preference
from preftune.lab.study import (
    COLUMNS,
    EARLIER,
    LIKELIHOOD,
    Cell,
    Column,
    as_rows,
    as_text,
    choose,
    columns,
    regrets,
    run_study,
)
from preftune.lab.worlds import Floats

CASE = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def quick() -> list[Cell]:
    return run_study(quick=True, seed=3, workers=1)


def cell(cells: list[Cell], row: str, column: str) -> Cell:
    (found,) = (cell for cell in cells if (cell.row, cell.column) == (row, column))
    return found


def pooled(sample: Sample) -> tuple[Floats, Floats, Floats]:
    """Feature differences, wins and losses of all pairs of a sample of one repetition."""
    a, b = np.triu_indices(4, 1)
    features, wins = sample.features[0], sample.wins[0]
    return (features[:, a] - features[:, b]).reshape(-1, 8), wins[:, a, b].ravel(), wins[:, b, a].ravel()


# --- the same numbers, however they are computed ----------------------------------------------------------------------


def test_the_table_does_not_depend_on_the_number_of_workers(quick: list[Cell]) -> None:
    seen: list[int] = []

    def track(steps: Iterable[int]) -> Iterator[int]:
        for step in steps:
            seen.append(step)
            yield step

    assert run_study(quick=True, seed=3, workers=2, track=track) == quick
    assert seen == list(range(len(CASES)))  # ten repetitions of a case are one piece of work


def test_another_seed_is_another_world() -> None:
    one, other = (draw_sample(CASE["strong, ε=0"], [(seed, 0, 0)]).optimum for seed in (3, 4))
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("name", ["K=10, strong BT, n=200, flips .2", "strong, ε=.2"])
def test_a_repetition_does_not_depend_on_what_is_computed_beside_it(name: str) -> None:
    case, seeds = CASE[name], [(0, 0, i) for i in range(4)]
    column = Column("v", partial(amortized, everywhere=True, noise_aware=True), ((0.1,), (10.0,)))
    together = regrets(case, column, draw_sample(case, seeds))
    alone = [regrets(case, column, draw_sample(case, [seed])) for seed in seeds]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4)


@pytest.mark.parametrize("flips", [0.0, 0.2])
def test_fits_side_by_side_are_the_fits_of_the_lab(flips: float) -> None:
    rng = np.random.default_rng(0)
    features, truth = rng.normal(size=(5, 40, 3)), rng.normal(size=(5, 3, 1))
    shown = rng.integers(0, 9, size=(5, 40))
    wins = rng.binomial(shown, flips + (1 - 2 * flips) * expit((features @ truth)[..., 0])).astype(float)
    penalty = np.array([0.1, 1.0, 3.0])
    found = fit_many(features, wins, shown - wins, penalty, flips)
    for i in range(5):
        alone = fit_preference(features[i], wins[i], shown[i] - wins[i], penalty=penalty, flip_rate=flips)
        np.testing.assert_allclose(found[i], alone, atol=1e-5)


# --- the numbers go where the theory says -----------------------------------------------------------------------------


@pytest.mark.parametrize("column", COLUMNS[FINITE], ids=lambda column: column.name)
def test_every_method_reaches_the_optimum_of_a_cycle_with_enough_votes(column: Column) -> None:
    means = []
    for votes in (100, 10_000, 1_000_000):
        case = replace(CASE["3-cycle, n=30"], votes=votes)
        means.append(regrets(case, column, draw_sample(case, [(0, i) for i in range(20)])).mean(0).min())
    assert means[0] > 10 * means[1] > 100 * means[2]
    assert means[2] < 0.002


def test_votes_without_end_leave_what_features_cannot_express() -> None:
    """Linear scores with the best scale are not the Borda scores of a linear score; targets in a table are."""
    case = replace(CASE["strong, ε=.2"], votes=20_000)
    sample = draw_sample(case, [(0, 0), (0, 1)])
    left = {
        column.name: regrets(case, column, sample).mean(0).min()
        for column in columns(case)
        if "same" not in column.name
    }
    assert left["noise-aware v"] < 0.01
    assert left["tabular IPO + ridge"] < 0.5  # the scale undoes the flips
    assert min(left["linear IPO"], left["BT reward"]) > 1


@pytest.mark.parametrize("cyclic", [False, True], ids=["BT", "general"])
def test_targets_on_the_same_pairs_change_nothing_if_v_is_not_regularised(cyclic: bool) -> None:
    case = replace(CASE["3-cycle, n=30"], votes=300)
    sample = draw_sample(case, [(0, i) for i in range(10)])
    assert (sample.wins + np.eye(3) > 0).all()  # all pairs were voted on, both ways
    ridge = (1e-9, 1e-9)
    plain, same = ipo(sample, ridge), amortized(sample, ridge, cyclic=cyclic)
    np.testing.assert_allclose(same, plain, atol=1e-6)
    assert np.abs(amortized(sample, ridge, cyclic=cyclic, everywhere=True) - plain).max() > 1e-4


def test_a_preference_linear_in_the_features_changes_nothing_for_linear_scores() -> None:
    """The no-op identity again, where votes are sparse: in a table the same targets are another policy."""
    sample = draw_sample(CASE["weak, ε=0"], [(0, 0)])
    rows, wins, losses = pooled(sample)
    theta = fit_many(rows[None], wins[None], losses[None], np.full(8, 1e-9))
    target = expit(rows @ theta[0]) - 0.5
    shown = wins + losses
    fitted = np.linalg.lstsq(rows * shown[:, None] ** 0.5, target * shown**0.5)[0]
    np.testing.assert_allclose(sample.features[0] @ fitted, linear_ipo(sample, (0.0,))[0], atol=1e-6)


@pytest.mark.parametrize("name", ["K=10, strong BT, n=200", "weak, ε=0"])
def test_ridge_ipo_goes_from_ipo_to_the_reference(name: str) -> None:
    sample = draw_sample(CASE[name], [(0, 0), (0, 1)])
    np.testing.assert_allclose(tabular_ipo(sample, (0.0,)), ipo(sample, (0.0,)), atol=1e-9)
    np.testing.assert_allclose(tabular_ipo(sample, (1e9,)), 0, atol=1e-6)


def test_knowing_how_many_votes_are_reversed_pays() -> None:
    case = CASE["K=10, strong BT, n=200, flips .2"]
    sample = draw_sample(case, [(0, i) for i in range(40)])
    everywhere = partial(amortized, everywhere=True)
    aware, plain, direct = (
        regrets(case, Column("", method, ridges), sample)[:, :, 0]
        for method, ridges in (
            (partial(everywhere, noise_aware=True), ((0.1,),)),
            (everywhere, LIKELIHOOD),
            (ipo, ((0.0,),)),
        )
    )
    for other in (*plain.T, *direct.T):
        won = other - aware[:, 0]
        assert won.mean() > 2 * won.std(ddof=1) / 40**0.5


def test_pairs_that_were_not_voted_on_pay(quick: list[Cell]) -> None:
    for row in ("strong, ε=0", "strong, ε=.2", "weak, ε=0"):
        same, everywhere = (cell(quick, row, f"BT-v {pairs} → tabular").regret for pairs in ("same", "all"))
        assert 2 * everywhere < same < cell(quick, row, "tabular IPO + ridge").regret


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_oracle_takes_the_best_mean_and_its_standard_error() -> None:
    column = Column("IPO + ridge", tabular_ipo, ((1.0,), (2.0,)), (0.5, 1.0, 2.0))
    table = np.random.default_rng(0).uniform(5, 9, size=(100, 2, 3))
    table[:, 1, 0] -= 4
    chosen = choose(CASE["3-cycle, n=30"], column, table)
    assert (chosen.ridge, chosen.scale) == ((2.0,), 0.5)
    assert chosen.regret == pytest.approx(table[:, 1, 0].mean())
    assert chosen.error == pytest.approx(table[:, 1, 0].std(ddof=1) / 10)


def test_every_cell_stands_beside_its_earlier_number(quick: list[Cell]) -> None:
    assert {case.name: len(columns(case)) for case in CASES} == {row: len(part) for row, part in EARLIER.items()}
    text = as_text(quick)
    for row in EARLIER:
        here = [cell for cell in quick if cell.row == row]
        lines = text[text.index(row) :].splitlines()[1 : len(here) + 1]
        for found, line, earlier in zip(here, lines, EARLIER[row], strict=True):
            name, ours, _, before, z = line.split("  ")[1], *line[34:].replace("*", " ").split()[:4]
            assert name == found.column
            assert float(ours) == pytest.approx(found.regret, rel=0.01, abs=0.01)
            assert float(before) == earlier
            assert float(z) == pytest.approx(found.z, abs=0.06)
        (best,) = (line for line in lines if "*" in line)
        assert min(here, key=lambda cell: cell.regret).column in best


def test_the_cells_are_json(quick: list[Cell]) -> None:
    rows = json.loads(json.dumps(as_rows(quick)))
    assert len(rows) == sum(len(part) for part in EARLIER.values())
    assert rows[0] | {"regret": 0, "error": 0, "z": 0} == {
        "table": FINITE,
        "row": "3-cycle, n=30",
        "column": "IPO",
        "regret": 0,
        "error": 0,
        "repetitions": 10,
        "ridge": [0.0],
        "scale": 1.0,
        "earlier": 16.3,
        "z": 0,
    }


def test_z_counts_the_noise_of_both_runs() -> None:
    base = Cell(CONTEXTUAL, "strong, ε=0", "linear IPO", 10.0, 1.0, 250, LIKELIHOOD[0], 1.0, 8.0)
    assert base.z == pytest.approx(2 / 2**0.5)
    assert replace(base, repetitions=25_000_000, error=1e-3).z == pytest.approx(2000 / 100_001**0.5)
