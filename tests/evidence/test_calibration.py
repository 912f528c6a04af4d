"""The verdict's error rates on simulated studies, and that wrong methods cannot pass the same simulation.

`bench/calibration.py` has the designs, and measures more of them on more studies.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.calibration import DESIGNS, draw, judge, measure
from preftune.evidence import comparisons, conclusion, frontiers, regression
from preftune.evidence.comparisons import _Arm
from preftune.evidence.regression import Fit, Spread, membership, terms

STUDIES = 300
QUICK = (
    "1 x 5, run sd 0.05",
    "2 x 2, run sd 0.15",
    "3 x 2, run sd 0.15",
    "3 x 2, 80% shared",
    "5 x 5, 80% shared, 256 prompts",
    "2 x 2, run sd .3, 256 prompts",
    "four arms, one with run sd .25",
    "unequal run sd, .25 and .02",
    "12 x 2, unequal run sd, much luck in KL",
    "arm x prompt effect .8",
    "256 prompts",
    "saturating, different KL",
    "5 x 6, as many runs as half of the prompts",
    "ends at d 2.1 and 2.2",
    "four arms",
    "win rate",
    "win rate, early, 1 x 5, different KL",
)
BY_NAME = {design.name: design for design in DESIGNS}


def rates(name: str, studies: int = STUDIES) -> dict[str, Any]:
    return measure(BY_NAME[name], studies)


@pytest.mark.parametrize("name", QUICK)
def test_the_verdict_has_the_error_rates_that_it_says(name: str) -> None:
    """.95 ± 2.6 errors of 300 studies; never by abstaining, nor by intervals much too wide."""
    found = rates(name)
    assert found["speaks"] >= 0.95
    assert 0.915 < found["coverage"] < 0.985
    assert found["false"] < 0.085
    assert found["half_over_sd"] < 2.6
    assert abs(found["bias"]) < 0.025


def test_a_lead_is_found_and_never_the_wrong_way() -> None:
    found = rates("a lead of .3, 5 x 2, 256 prompts")
    assert found["power"] > 0.95 and found["false"] == 0


def test_designs_have_names_of_their_own_and_studies_are_their_seeds() -> None:
    assert len(BY_NAME) == len(DESIGNS)
    design = BY_NAME["four arms"]
    assert judge(design, 7) == judge(design, 7) != judge(design, 8)
    study = draw(design, np.random.default_rng(0))
    assert {point.end for point in study.points} == {True, False} and len(study.points) == 4 * 3 * 2 * 2


# --- methods that are wrong -------------------------------------------------------------------------------------------


def without_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are the only source of error: residuals are taken for theirs, noise of prompts included."""
    spread = comparisons.spread_of
    monkeypatch.setattr(comparisons, "_over_prompts", lambda a, b, at: 0.0)
    monkeypatch.setattr(comparisons, "spread_of", lambda fit, gain, units, s: spread(fit, gain, units, 0.0 * s))


def normal_for_t(monkeypatch: pytest.MonkeyPatch) -> None:
    total = comparisons.total_variance
    monkeypatch.setattr(comparisons, "total_variance", lambda *given: (total(*given)[0], float("inf")))


def checkpoints_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = conclusion.conclusions

    def all_of_them(points: Sequence[Any], *others: Any) -> Any:
        return original([replace(point, end=True) for point in points], *others)

    monkeypatch.setattr(conclusion, "conclusions", all_of_them)


def runs_for_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed counts as often as it has runs."""
    monkeypatch.setattr(frontiers, "with_units", lambda points: [replace(point, unit=point.run) for point in points])


def least_squares_on_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "Fit", lambda d, settings, curved: Fit(d, range(len(d)), curved))
    monkeypatch.setattr(frontiers, "Fit", lambda d, settings, curved: Fit(d, range(len(d)), curved))


def no_variance_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spread, "variance", property(lambda self: 0.0))


def one_spread_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "UNEQUAL", 0.0)


def weights_from_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generalised least squares with the estimated S."""

    class Weighted(Fit):
        precision: Any

        def solution(self) -> Any:
            x = terms(self.d, self.curved)
            xt = np.swapaxes(x, -1, -2) @ self.precision
            return np.linalg.pinv(xt @ x) @ xt

    original = comparisons._arm

    def weighted(frontier: Any, ends: Any, table: Any) -> _Arm:
        arm = original(frontier, ends, table)
        assert arm.table
        fit = Weighted(arm.fit.d, arm.fit.settings, arm.fit.curved)
        object.__setattr__(fit, "precision", np.linalg.pinv(np.cov(arm.table.gain)))
        alpha, gamma = fit.solution() @ np.array([point.gain for point in arm.points])
        arm = replace(arm, fit=fit, frontier=replace(frontier, alpha=alpha, gamma=gamma))
        covariance = np.cov(arm.table.gain) / arm.table.gain.shape[1]
        object.__setattr__(fit, "covariance", covariance)
        return arm

    def over_prompts(a: Any, b: Any, at: float) -> float:
        return float(sum(arm.fit.contrast(at) @ arm.fit.covariance @ arm.fit.contrast(at) for arm in (a, b)))

    monkeypatch.setattr(comparisons, "_arm", weighted)
    monkeypatch.setattr(comparisons, "_over_prompts", over_prompts)


WRONG: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    without_prompts: "arm x prompt effect .8",
    normal_for_t: "2 x 2, run sd .3, 256 prompts",
    checkpoints_fitted: "3 x 2, run sd 0.15",
    runs_for_seeds: "5 x 5, 80% shared, 256 prompts",
    least_squares_on_luck: "12 x 2, unequal run sd, much luck in KL",
    no_variance_of_runs: "3 x 2, run sd 0.15",
    one_spread_for_all: "four arms, one with run sd .25",
    weights_from_prompts: "5 x 6, as many runs as half of the prompts",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_method_does_not_pass(wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch) -> None:
    wrong(monkeypatch)
    found = rates(WRONG[wrong])
    assert found["coverage"] < 0.915 or found["half_over_sd"] > 2.6 or abs(found["bias"]) > 0.04, found
    assert membership(["a", "a"]).shape == (2, 1)
