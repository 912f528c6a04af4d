"""What a study may say: frontiers, comparisons and best runs that are right on average, words that claim no more."""

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import write_synthetic_study

from preftune.evidence.comparisons import Comparison, best_run, compare
from preftune.evidence.conclusion import verdict
from preftune.evidence.frontiers import PerPrompt, Point, fit_frontier
from preftune.evidence.results import REFERENCE, Result, Sample, StudyRecord, read_results, read_samples, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.evidence.study_alarms import alarmed_arms, alarms

TRUTH = {"dpo": (0.5, 0.06), "ipo": (0.42, 0.05)}
coefficients = st.floats(-2, 2)


def point(arm: str, kl: float, gain: float, *, seed: int = 0, step: int = 0, se: float = 0.1) -> Point:
    return Point(f"{arm}-{seed}-{step}", arm, 0.1, seed, step, kl, se, gain, se)


def on_curve(arm: str, kls: list[float], alpha: float, gamma: float) -> list[Point]:
    return [point(arm, kl, math.sqrt(kl) * (alpha - gamma * math.sqrt(kl)), step=i) for i, kl in enumerate(kls)]


def simulated(
    rng: np.random.Generator, *, prompts: int = 40, seeds: int = 1, seed_spread: float = 0.0, truth: Any = TRUTH
) -> tuple[list[Point], PerPrompt]:
    """Points of two arms on their true frontiers, with prompt effects of each arm, noise, and an effect per seed."""
    points, kls, gains = [], [], []
    for arm, (alpha, gamma) in truth.items():
        taste = rng.normal(0, 0.15, prompts)
        for seed in range(seeds):
            slope = alpha + rng.normal(0, seed_spread)
            for step, kl in enumerate((0.2, 0.8, 1.6, 3.2)):
                d = math.sqrt(kl)
                kls.append(kl * rng.gamma(4, 0.25, prompts))
                gains.append(d * (slope - gamma * d) + d * taste + rng.normal(0, 0.3, prompts))
                points.append(point(arm, kls[-1].mean(), gains[-1].mean(), seed=seed, step=step))
    return points, PerPrompt(np.array(kls), np.array(gains))


def compared(points: list[Point], table: PerPrompt | None, arms: tuple[str, str] = ("dpo", "ipo")) -> Comparison:
    frontiers = [fit_frontier([p for p in points if p.arm == arm]) for arm in arms]
    (pair,) = compare([f for f in frontiers if f], points, table)
    return pair


# --- frontiers --------------------------------------------------------------------------------------------------------


@given(alpha=coefficients, gamma=coefficients, kls=st.lists(st.floats(0.01, 20), min_size=3, max_size=9))
def test_a_frontier_that_is_a_curve_is_found_exactly(alpha: float, gamma: float, kls: list[float]) -> None:
    spread = [*kls, 0.5, 2.0, 6.0]
    fit = fit_frontier(on_curve("dpo", spread, alpha, gamma))
    assert fit and fit.curved and fit.points == len(spread)
    assert (fit.alpha, fit.gamma) == pytest.approx((alpha, gamma), abs=1e-6)
    assert fit.at(4.0) == pytest.approx(2 * alpha - 4 * gamma, abs=1e-5)
    assert (fit.low, fit.high) == pytest.approx((min(spread), max(spread)))


@pytest.mark.parametrize("kls", [[1.0], [1.0, 4.0], [1.0, 4.0, 4.0]])
def test_fewer_than_three_distinct_points_carry_a_line_and_it_says_so(kls: list[float]) -> None:
    fit = fit_frontier(on_curve("dpo", kls, 0.5, 0.0))
    assert fit and not fit.curved and fit.gamma == 0 and fit.alpha == pytest.approx(0.5)
    assert "fewer than three" in fit.form
    three = fit_frontier(on_curve("dpo", [1.0, 2.0, 4.0], 0.5, 0.0))
    assert three and "fewer" not in three.form and "d(α − γ·d)" in three.form


def test_having_more_runs_does_not_raise_a_frontier() -> None:
    points, _ = simulated(np.random.default_rng(0))
    mine = [p for p in points if p.arm == "dpo"]
    once, thrice = fit_frontier(mine), fit_frontier(mine * 3)
    assert once and thrice and (once.alpha, once.gamma) == pytest.approx((thrice.alpha, thrice.gamma))
    rng = np.random.default_rng(1)
    fits = [fit_frontier([point("dpo", kl, rng.normal()) for kl in (1.0, 2.0, 3.0) * 30]) for _ in range(50)]
    assert abs(np.mean([fit.at(2.0) for fit in fits if fit])) < 0.05  # the best of 30 would lie near 2


def test_an_arm_that_never_left_the_reference_has_no_frontier() -> None:
    assert fit_frontier([point("dpo", 0.0, 0.0)]) is None


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_an_arm_equals_itself() -> None:
    points, table = simulated(np.random.default_rng(2))
    mine = [p for p in points if p.arm == "dpo"]
    twins = mine + [replace(p, arm="twin") for p in mine]
    kl, gain = table.kl[: len(mine)], table.gain[: len(mine)]
    pair = compared(twins, PerPrompt(np.vstack([kl, kl]), np.vstack([gain, gain])), ("dpo", "twin"))
    assert pair.difference and pair.difference.value == 0 and pair.p_value == 1 and not pair.distinct
    low, high = pair.difference.interval()
    assert low <= 0 <= high


def test_a_comparison_follows_scale_and_changes_sign_with_its_sides() -> None:
    points, table = simulated(np.random.default_rng(3))
    plain = compared(points, table).difference
    swapped = compared(points, table, ("ipo", "dpo")).difference
    tenfold = compared([replace(p, gain=10 * p.gain) for p in points], PerPrompt(table.kl, 10 * table.gain)).difference
    assert plain and swapped and tenfold and plain.se
    assert (swapped.value, swapped.se) == pytest.approx((-plain.value, plain.se))
    assert (tenfold.value, tenfold.se) == pytest.approx((10 * plain.value, 10 * plain.se))
    assert tenfold.p_value == pytest.approx(plain.p_value)


def test_a_comparison_does_not_care_for_the_order_of_runs_or_prompts() -> None:
    points, table = simulated(np.random.default_rng(4))
    rng = np.random.default_rng(5)
    rows, prompts = rng.permutation(len(points)), rng.permutation(table.kl.shape[1])
    plain = compared(points, table)
    moved = compared([points[i] for i in rows], PerPrompt(table.kl[rows][:, prompts], table.gain[rows][:, prompts]))
    assert plain.difference and moved.difference and moved.kl == pytest.approx(plain.kl)
    assert moved.difference.value == pytest.approx(plain.difference.value)
    assert moved.difference.se == pytest.approx(plain.difference.se, rel=0.1)  # other resamples of the same prompts


def test_arms_are_compared_where_both_have_been_at_the_middle_of_their_distances() -> None:
    points = on_curve("dpo", [0.25, 1.0, 4.0], 0.5, 0.0) + on_curve("ipo", [1.0, 4.0, 9.0], 0.4, 0.0)
    pair = compared(points, None)
    assert pair.kl == pytest.approx(1.5**2)  # d from 1 to 2
    assert pair.difference and pair.difference.value == pytest.approx(0.1 * 1.5)


def test_arms_that_never_were_at_the_same_distance_are_not_compared() -> None:
    points = on_curve("dpo", [2.0, 3.0, 4.0], 0.5, 0.0) + on_curve("ipo", [0.1, 0.2, 0.3], 0.4, 0.0)
    pair = compared(points, None)
    assert pair.difference is None and pair.kl is None and not pair.distinct
    assert "dpo 2.0 to 4.0" in pair.why_not and "ipo 0.10 to 0.30" in pair.why_not


@pytest.mark.parametrize(("prompts", "seeds", "spread"), [(30, 1, 0.0), (80, 1, 0.0), (40, 2, 0.05), (40, 4, 0.05)])
def test_the_interval_of_a_comparison_holds_the_truth_about_95_times_in_100(
    prompts: int, seeds: int, spread: float
) -> None:
    rng = np.random.default_rng(6)
    hits = []
    for _ in range(120):
        pair = compared(*simulated(rng, prompts=prompts, seeds=seeds, seed_spread=spread))
        assert pair.difference and pair.kl
        d = math.sqrt(pair.kl)
        low, high = pair.difference.interval()
        hits.append(low <= d * (0.5 - 0.06 * d) - d * (0.42 - 0.05 * d) <= high)
    assert np.mean(hits) > 0.9
    assert seeds > 1 or np.mean(hits) < 0.99  # not by being wide; from two seeds on it errs on the wide side


def test_equal_arms_are_told_apart_about_5_times_in_100() -> None:
    rng = np.random.default_rng(7)
    same = {"dpo": (0.5, 0.06), "ipo": (0.5, 0.06)}
    alarms = [compared(*simulated(rng, truth=same)).distinct for _ in range(150)]
    assert 0.01 < np.mean(alarms) < 0.1


def test_without_means_of_each_prompt_the_interval_is_wider() -> None:
    points, table = simulated(np.random.default_rng(8), prompts=60)
    means = [replace(p, gain_se=float(g.std(ddof=1)) / math.sqrt(60)) for p, g in zip(points, table.gain, strict=True)]
    paired, summed = compared(means, table).difference, compared(means, None).difference
    assert paired and summed and summed.value == pytest.approx(paired.value)
    assert (summed.se or 0) > (paired.se or 0) > 0
    unknown = compared([replace(p, gain_se=None) for p in points], None)
    assert unknown.difference and unknown.difference.se is None and unknown.p_value == 1


def test_a_spread_between_seeds_widens_the_interval() -> None:
    calm = compared(*simulated(np.random.default_rng(9), seeds=3)).difference
    wild = compared(*simulated(np.random.default_rng(9), seeds=3, seed_spread=0.2)).difference
    assert calm and wild and wild.half_width() > 3 * calm.half_width()


# --- best runs --------------------------------------------------------------------------------------------------------


def test_the_best_run_is_chosen_on_one_half_of_the_prompts_and_told_by_the_other() -> None:
    lucky, steady = np.tile([1.0, 0.0], 20), np.full(40, 0.9)  # the lucky one shines on the even prompts only
    points = [point("dpo", 1.0, 0.5, seed=0), point("dpo", 1.0, 0.9, seed=1)]
    best = best_run("dpo", points, PerPrompt(np.ones((2, 40)), np.array([lucky, steady])))
    assert (best.seed, best.among, best.prompts) == (0, 2, 20)
    assert best.gain.value == 0.0


def test_the_best_of_many_equal_runs_is_told_without_flattery() -> None:
    rng = np.random.default_rng(10)
    points = [point("dpo", 1.0, 0.0, seed=seed) for seed in range(20)]
    tables = [PerPrompt(np.ones((20, 60)), rng.normal(size=(20, 60))) for _ in range(150)]
    gains = [best_run("dpo", points, table).gain.value for table in tables]
    assert abs(np.mean(gains)) < 3 * np.std(gains) / math.sqrt(150)


def test_a_run_counts_at_its_last_checkpoint_and_alone_on_all_prompts() -> None:
    points = [replace(point("dpo", 1.0, 0.9), run="one", step=8), replace(point("dpo", 2.0, 0.4), run="one", step=16)]
    best = best_run("dpo", points, PerPrompt(np.ones((2, 40)), np.array([np.full(40, 0.9), np.full(40, 0.4)])))
    assert (best.step, best.among, best.prompts) == (16, 1, 40)
    assert best.gain.value == pytest.approx(0.4)


# --- whole studies ----------------------------------------------------------------------------------------------------


def changed(folder: Path, change: Callable[[Result], Result | None]) -> StudyRecord:
    rows = [change(row) for row in read_results(folder / "results.jsonl")]
    write_records(folder / "results.jsonl", [row for row in rows if row])
    return read_study(folder)


def changed_samples(folder: Path, change: Callable[[Sample], Sample | None]) -> StudyRecord:
    rows = [change(row) for row in read_samples(folder / "samples.jsonl")]
    write_records(folder / "samples.jsonl", [row for row in rows if row])
    return read_study(folder)


def test_a_clear_lead_is_told_with_its_interval_and_its_condition(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, curves={"dpo": (0.6, 0.05), "ipo": (0.3, 0.05)}))
    answer = verdict(study)
    (pair,) = answer.comparisons
    assert pair.distinct and pair.difference and pair.difference.value > 0
    assert answer.sentence.startswith("dpo gains more reward than ipo: at the same KL of ")
    assert "95% interval" in answer.sentence and "conditional on these runs" in answer.sentence
    assert any(caveat.startswith("One seed") for caveat in answer.caveats)


def test_a_lead_that_is_no_lead_is_not_called_one(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, curves={"dpo": (0.4, 0.05), "ipo": (0.4, 0.05)}))
    answer = verdict(study)
    assert not answer.comparisons[0].distinct
    assert answer.sentence.startswith("dpo and ipo cannot be told apart")
    assert "more reward" not in answer.sentence


def test_known_frontiers_are_recovered_from_a_folder(tmp_path: Path) -> None:
    curves = {"dpo": (0.5, 0.08), "ipo": (0.3, 0.02)}
    answer = verdict(read_study(write_synthetic_study(tmp_path, curves=curves, prompts=160)))
    for fit in answer.frontiers:
        assert (fit.alpha, fit.gamma) == pytest.approx(curves[fit.arm], abs=0.06)
        assert fit.points == 8


def test_the_folder_s_means_and_errors_are_those_of_its_samples(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path)
    told = {(row.run, row.step): row for row in read_results(folder / "results.jsonl")}
    for p in verdict(read_study(folder)).points:
        row = told[p.run, p.step]
        assert (p.kl, p.kl_se, p.gain, p.gain_se) == pytest.approx((row.kl, row.kl_se, row.gain, row.gain_se))


def test_the_order_of_lines_changes_nothing(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=20)
    before = verdict(read_study(folder))
    for name in ("results.jsonl", "samples.jsonl"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        random.Random(name).shuffle(lines)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    after = verdict(read_study(folder))
    assert after.comparisons[0].difference and before.comparisons[0].difference
    assert after.comparisons[0].difference.value == pytest.approx(before.comparisons[0].difference.value)
    assert {b.arm: (b.run, b.gain) for b in after.best} == {b.arm: (b.run, b.gain) for b in before.best}


def test_seeds_make_the_interval_one_over_seeds(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, seeds=(0, 1, 2), prompts=30)))
    assert answer.comparisons[0].seeds == 3 and "over prompts and 3 seeds" in answer.sentence
    assert "conditional on these runs" not in answer.sentence
    assert not any("One seed" in caveat for caveat in answer.caveats)


def test_many_arms_are_corrected_for_their_comparisons(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, arms=("dpo", "ipo", "sft"))))
    assert len(answer.comparisons) == 3
    for pair in answer.comparisons:
        assert pair.difference and pair.p_value >= pair.difference.p_value
    assert min(pair.p_value for pair in answer.comparisons) == pytest.approx(
        3 * min(pair.difference.p_value for pair in answer.comparisons if pair.difference)
    )
    assert "Holm" in answer.sentence


def test_without_gold_no_quality_is_claimed(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, gold=False)))
    assert (answer.axis, answer.axis_label, answer.best) == ("accuracy", "held-out accuracy", ())
    assert "no quality is claimed" in answer.sentence and "reward" not in answer.sentence
    assert "best" not in answer.sentence.lower()
    for p in answer.points:
        assert p.gain_se == 0.019 and abs(p.gain) < 0.3  # accuracy over one half


def test_an_interrupted_study_says_how_far_it_is(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, unfinished=1)))
    assert answer.sentence.startswith("So far 3 of 4 runs have finished.")
    assert "The study is partial. Not finished: ipo β=0.5 seed 0." in answer.caveats


def test_a_study_without_any_run_says_just_that(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, unfinished=4)))
    assert answer.sentence == "Nothing has been evaluated yet: none of the 4 runs has reached a checkpoint."
    assert (answer.points, answer.frontiers, answer.comparisons, answer.best) == ((), (), (), ())


def test_a_study_without_samples_says_that_it_has_no_frontier(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, gold=False)
    (folder / "samples.jsonl").unlink()
    answer = verdict(changed(folder, lambda row: replace(row, kl=None, kl_se=None)))
    assert answer.points == () and "there is no frontier" in answer.sentence
    assert any(caveat.startswith("16 checkpoints have no usable KL") for caveat in answer.caveats)


def test_one_arm_is_compared_with_nothing_but_the_reference(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, arms=("dpo",))))
    assert answer.comparisons == () and answer.sentence.startswith("Best run of each arm against the reference")


def test_no_gain_is_not_told_as_one(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, arms=("dpo",), curves={"dpo": (0.0, 0.0)}, rng_seed=1)))
    assert "not to be told from 0" in answer.sentence


def test_prompts_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=20)
    study = changed_samples(folder, lambda s: replace(s, reward=None) if s.prompt_id == 7 and s.step == 16 else s)
    answer = verdict(study)
    assert "1 prompts lack a scored sample at some checkpoint and are left out." in answer.caveats
    assert answer.comparisons[0].difference and answer.comparisons[0].difference.df == 18


def test_without_samples_the_rows_still_carry_a_wider_comparison(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path)
    paired = verdict(read_study(folder))
    (folder / "samples.jsonl").unlink()
    summed = verdict(read_study(folder))
    a, b = paired.comparisons[0].difference, summed.comparisons[0].difference
    assert a and b and b.value == pytest.approx(a.value) and (b.se or 0) > (a.se or 0)
    assert any("not paired" in caveat for caveat in summed.caveats) and summed.best == ()


# --- alarms -----------------------------------------------------------------------------------------------------------


def quiet(folder: Path) -> StudyRecord:
    """A study with which nothing is wrong."""
    return read_study(write_synthetic_study(folder, prompts=20))


def with_metrics(study: StudyRecord, run: str, **columns: float) -> StudyRecord:
    steps = tuple({**row, **columns} for row in study.metrics[run])
    return replace(study, metrics={**study.metrics, run: steps})


def with_last(study: StudyRecord, run: str, **fields: Any) -> StudyRecord:
    rows = tuple(replace(row, **fields) if (row.run, row.step) == (run, 32) else row for row in study.results)
    return replace(study, results=rows)


def test_nothing_wrong_raises_no_alarm(tmp_path: Path) -> None:
    assert alarms(quiet(tmp_path)) == ()


def growing_gradient(study: StudyRecord) -> StudyRecord:
    steps = tuple(
        {**row, "grad_norm": row["grad_norm"] * (1 + 5 * (row["step"] > 24))} for row in study.metrics["dpo-0.1-0"]
    )
    return replace(study, metrics={**study.metrics, "dpo-0.1-0": steps})


TROUBLES: Mapping[str, Callable[[StudyRecord], StudyRecord]] = {
    "The gradient norm grew": growing_gradient,
    "Accuracy on the training votes ended below 1/2": lambda study: with_metrics(study, "dpo-0.1-0", accuracy=0.4),
    "Held-out accuracy is below 1/2": lambda study: with_last(study, "dpo-0.1-0", accuracy=0.4, accuracy_se=0.02),
    "Held-out log-loss is above ln 2": lambda study: with_last(study, "dpo-0.1-0", log_loss=0.75, log_loss_se=0.01),
    "The loss is not a number": lambda study: with_metrics(study, "dpo-0.1-0", loss=math.nan),
    "The KL is not a number": lambda study: with_last(study, "dpo-0.1-0", kl=math.nan),
    "The KL is negative": lambda study: with_last(study, "dpo-0.1-0", kl=-0.5),
    "a quarter longer": lambda study: with_last(study, "dpo-0.1-0", length=30.0),
    "The loss ended above the reference's own": lambda study: with_metrics(
        study, "dpo-0.1-0", loss=1.25, reference_loss=0.69
    ),
    "Held-out accuracy is exactly 1/2": lambda study: with_last(study, "dpo-0.1-0", accuracy=0.5, accuracy_se=0.0),
    "a second opinion fell": lambda study: with_last(study, "dpo-0.1-0", extra={"vader": -2.0, "vader_se": 0.01}),
}


@pytest.mark.parametrize("words", TROUBLES)
def test_each_trouble_raises_its_own_alarm_and_names_its_run(tmp_path: Path, words: str) -> None:
    (alarm,) = alarms(TROUBLES[words](quiet(tmp_path)))
    assert words in alarm and "dpo β=0.1" in alarm and "ipo" not in alarm and "β=0.5" not in alarm


def test_an_arm_with_alarms_is_named_with_what_is_wrong_in_a_few_words(tmp_path: Path) -> None:
    study = quiet(tmp_path)
    assert alarmed_arms(study) == {}
    for run in ("dpo-0.1-0", "dpo-0.5-0"):
        study = with_metrics(study, run, loss=1.25, reference_loss=0.69)
    study = with_last(study, "dpo-0.1-0", accuracy=0.4, accuracy_se=0.02)
    told = ("its loss ended above the reference's own", "it disagrees with held-out votes")
    assert alarmed_arms(study) == {"dpo": told}
    of_a_run_without_results = replace(study, metrics={"gone": study.metrics["dpo-0.1-0"]}, results=())
    assert alarmed_arms(of_a_run_without_results) == {} and len(alarms(of_a_run_without_results)) == 1


@pytest.mark.parametrize(
    "harmless",
    [
        lambda study: with_metrics(study, "dpo-0.1-0", log_ratio_preferred=-1.5, log_ratio_other=-3.0),
        lambda study: with_metrics(study, "dpo-0.1-0", accuracy=0.5),
        lambda study: with_last(study, "dpo-0.1-0", accuracy=0.46, accuracy_se=0.02),
        lambda study: with_last(study, "dpo-0.1-0", log_loss=0.70, log_loss_se=0.01),
        lambda study: with_metrics(study, "dpo-0.1-0", loss=0.68, reference_loss=0.69),
        lambda study: with_last(study, "dpo-0.1-0", accuracy=0.5),
        lambda study: with_last(study, "dpo-0.1-0", kl=-1e-6),
        lambda study: with_last(study, "dpo-0.1-0", length=19.0),
        lambda study: with_last(study, "dpo-0.1-0", length=30.0, gain=-0.2),
        lambda study: with_last(study, "dpo-0.1-0", gain=-0.2, extra={"vader": -2.0, "vader_se": 0.01}),
    ],
)
def test_what_is_within_bounds_raises_none(tmp_path: Path, harmless: Callable[[StudyRecord], StudyRecord]) -> None:
    assert alarms(harmless(quiet(tmp_path))) == ()


@pytest.mark.parametrize("kl", [math.nan, math.inf, -0.5, None])
def test_a_point_without_a_usable_kl_is_left_out_and_counted(tmp_path: Path, kl: float | None) -> None:
    study = with_last(quiet(tmp_path), "dpo-0.1-0", kl=kl)
    answer = verdict(study)
    assert len(answer.points) == 15
    assert "1 checkpoints have no usable KL or no reward and are not drawn." in answer.caveats


def test_the_reference_takes_no_part_as_an_arm(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, prompts=10)))
    assert REFERENCE not in {p.arm for p in answer.points} | {fit.arm for fit in answer.frontiers}


def test_arms_that_the_settings_do_not_name_are_compared_too(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=10)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"arms": ["ipo"]})
    assert {(pair.a, pair.b) for pair in verdict(read_study(folder)).comparisons} == {("ipo", "dpo")}
