"""What a study may say: frontiers of finished runs, comparisons and best runs from its folder, no claim beyond them."""

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

from preftune.evidence.comparisons import Comparison, Verdict
from preftune.evidence.conclusion import verdict
from preftune.evidence.frontiers import Point, fit_frontier
from preftune.evidence.results import REFERENCE, Result, Sample, StudyRecord, read_results, read_samples, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.evidence.stats import Estimate
from preftune.evidence.study_alarms import alarmed_arms, alarms
from preftune.evidence.words import _ranking

coefficients = st.floats(-2, 2)
TWO_SEEDS = (0, 1)


def point(arm: str, kl: float, gain: float, *, beta: float = 0.1, seed: int = 0) -> Point:
    return Point(f"{arm}-{beta}-{seed}", arm, beta, seed, 8, kl, 0.1, gain, 0.1)


def on_curve(kls: list[float], alpha: float, gamma: float) -> list[Point]:
    """Run ends on a frontier, each with a β of its own."""
    gains = [math.sqrt(kl) * (alpha - gamma * math.sqrt(kl)) for kl in kls]
    return [point("dpo", kl, gain, beta=1 + i) for i, (kl, gain) in enumerate(zip(kls, gains, strict=True))]


# --- frontiers --------------------------------------------------------------------------------------------------------


@given(alpha=coefficients, gamma=coefficients, kls=st.lists(st.floats(0.01, 20), min_size=3, max_size=9))
def test_a_frontier_that_is_a_curve_is_found_exactly(alpha: float, gamma: float, kls: list[float]) -> None:
    spread = [*kls, 0.5, 2.0, 6.0]
    fit = fit_frontier(on_curve(spread, alpha, gamma))
    assert fit and fit.curved and fit.points == len(spread)
    assert (fit.alpha, fit.gamma) == pytest.approx((alpha, gamma), abs=1e-6)
    assert fit.at(4.0) == pytest.approx(2 * alpha - 4 * gamma, abs=1e-5)
    assert (fit.low, fit.high) == pytest.approx((min(spread), max(spread)))


def test_one_beta_carries_a_line_however_many_runs_it_has_and_it_says_so() -> None:
    line = [replace(p, beta=0.1, seed=i) for i, p in enumerate(on_curve([1.0, 2.0, 4.0], 0.5, 0.0))]
    fit = fit_frontier(line)
    assert fit and not fit.curved and fit.gamma == 0 and fit.alpha == pytest.approx(0.5)
    assert "all at about one distance" in fit.form
    curve = fit_frontier(on_curve([1.0, 2.0], 0.5, 0.1))
    assert curve and "one distance" not in curve.form and "d(α − γ·d)" in curve.form


def test_having_more_runs_does_not_raise_a_frontier() -> None:
    rng = np.random.default_rng(1)
    mine = [point("dpo", kl, rng.normal(), beta=kl) for kl in (1.0, 2.0, 3.0)]
    once, thrice = fit_frontier(mine), fit_frontier(mine * 3)
    assert once and thrice and (once.alpha, once.gamma) == pytest.approx((thrice.alpha, thrice.gamma))
    fits = [fit_frontier([point("dpo", kl, rng.normal(), beta=kl) for kl in (1.0, 2.0, 3.0) * 30]) for _ in range(50)]
    assert abs(np.mean([fit.at(2.0) for fit in fits if fit])) < 0.05  # the best of 30 would lie near 2


def test_an_arm_that_never_left_the_reference_has_no_frontier() -> None:
    assert fit_frontier([point("dpo", 0.0, 0.0)]) is None


# --- whole studies ----------------------------------------------------------------------------------------------------


def changed(folder: Path, change: Callable[[Result], Result | None]) -> StudyRecord:
    rows = [change(row) for row in read_results(folder / "results.jsonl")]
    write_records(folder / "results.jsonl", [row for row in rows if row])
    return read_study(folder)


def changed_samples(folder: Path, change: Callable[[Sample], Sample | None]) -> StudyRecord:
    rows = [change(row) for row in read_samples(folder / "samples.jsonl")]
    write_records(folder / "samples.jsonl", [row for row in rows if row])
    return read_study(folder)


def test_a_clear_lead_is_told_with_its_interval_and_its_scope(tmp_path: Path) -> None:
    curves = {"dpo": (0.6, 0.05), "ipo": (0.3, 0.05)}
    answer = verdict(read_study(write_synthetic_study(tmp_path, curves=curves, seeds=TWO_SEEDS)))
    (pair,) = answer.comparisons
    assert pair.verdict == "better" and pair.difference and pair.difference.value > 0
    assert answer.sentence.startswith("dpo gains more reward than ipo: at the same KL of ")
    assert "95% interval" in answer.sentence and "over prompts and 8 runs" in answer.sentence


def test_a_lead_that_is_no_lead_is_not_called_one_and_says_what_could_have_been_seen(tmp_path: Path) -> None:
    curves = {"dpo": (0.4, 0.05), "ipo": (0.4, 0.05)}
    answer = verdict(read_study(write_synthetic_study(tmp_path, curves=curves, seeds=TWO_SEEDS)))
    (pair,) = answer.comparisons
    assert pair.verdict == "no difference" and pair.detectable
    assert answer.sentence.startswith("No difference was found between dpo and ipo")
    assert f"(one of {pair.detectable:.2g} would have been found in four of five such studies)" in answer.sentence
    assert "more reward" not in answer.sentence


def test_known_frontiers_are_recovered_from_a_folder(tmp_path: Path) -> None:
    curves = {"dpo": (0.5, 0.08), "ipo": (0.3, 0.02)}
    folder = write_synthetic_study(tmp_path, curves=curves, prompts=160, seeds=(0, 1, 2))
    for fit in verdict(read_study(folder)).frontiers:
        assert fit.at(2.5) == pytest.approx(math.sqrt(2.5) * (curves[fit.arm][0] - curves[fit.arm][1] * 1.58), abs=0.06)
        assert fit.points == 6


def test_checkpoints_are_drawn_and_change_nothing_that_is_said(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=TWO_SEEDS)
    before = verdict(read_study(folder))
    after = verdict(changed(folder, lambda row: replace(row, gain=9.0) if 0 < row.step < 32 else row))
    folder.joinpath("samples.jsonl").write_text(
        "".join(
            line
            for line in folder.joinpath("samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            if json.loads(line)["step"] in (0, 32)
        ),
        encoding="utf-8",
    )
    ends_alone = verdict(changed(folder, lambda row: row if row.step in (0, 32) else None))
    assert len(before.points) == 32 and len(ends_alone.points) == 8
    assert before.comparisons == after.comparisons == ends_alone.comparisons
    assert before.frontiers == ends_alone.frontiers and before.best == ends_alone.best


def test_a_run_that_is_not_finished_takes_no_part(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=TWO_SEEDS)
    whole = verdict(read_study(folder))
    part = verdict(changed(folder, lambda row: None if (row.run, row.step) == ("dpo-0.1-0", 32) else row))
    assert [fit.points for fit in whole.frontiers] == [4, 4] and [fit.points for fit in part.frontiers] == [3, 4]
    assert "Not finished: dpo β=0.1 seed 0." in " ".join(part.caveats)
    assert any(p.run == "dpo-0.1-0" and not p.end for p in part.points)


def test_the_ends_of_arms_with_steps_of_their_own_are_their_own(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=TWO_SEEDS)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"steps": {"dpo": 16, "ipo": 32}})
    shorter = verdict(changed(folder, lambda row: row if row.arm != "dpo" or row.step <= 16 else None))
    assert [fit.points for fit in shorter.frontiers] == [4, 4]


def test_the_folder_s_means_and_errors_are_those_of_its_samples(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path)
    told = {(row.run, row.step): row for row in read_results(folder / "results.jsonl")}
    for p in verdict(read_study(folder)).points:
        row = told[p.run, p.step]
        assert (p.kl, p.kl_se, p.gain, p.gain_se) == pytest.approx((row.kl, row.kl_se, row.gain, row.gain_se))


def test_the_order_of_lines_changes_nothing(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=20, seeds=TWO_SEEDS)
    before = verdict(read_study(folder))
    for name in ("results.jsonl", "samples.jsonl"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        random.Random(name).shuffle(lines)
        (folder / name).write_text("".join(lines), encoding="utf-8")
    after = verdict(read_study(folder))
    assert after.comparisons[0].difference and before.comparisons[0].difference
    assert after.comparisons[0].difference.value == pytest.approx(before.comparisons[0].difference.value)
    assert {b.arm: (b.run, b.gain) for b in after.best} == {b.arm: (b.run, b.gain) for b in before.best}


def test_runs_of_a_study_of_before_are_of_their_seed(tmp_path: Path) -> None:
    """There the runs of one seed shared the order of their data: two of them are no two runs."""
    folder = write_synthetic_study(tmp_path, seeds=(0, 1, 2), prompts=30)
    now = verdict(read_study(folder))
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    del info["runs"]
    write_json(folder / "study.json", info)
    before = verdict(read_study(folder))
    assert now.comparisons[0].scope == "over prompts and 12 runs"
    assert before.comparisons[0].scope == "over prompts and 3 seeds" and "over prompts and 3 seeds" in before.sentence
    assert before.comparisons[0].difference and now.comparisons[0].difference
    assert before.comparisons[0].difference.value == pytest.approx(now.comparisons[0].difference.value)


def test_one_seed_of_a_study_of_before_says_that_another_may_answer_otherwise(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, betas=(0.1, 0.2, 0.3, 0.5))
    assert not any("One seed" in caveat for caveat in verdict(read_study(folder)).caveats)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"runs": ""})
    answer = verdict(read_study(folder))
    assert answer.comparisons[0].scope == "over prompts and runs, conditional on one seed"
    assert any(caveat.startswith("One seed") for caveat in answer.caveats)


def test_arms_that_learn_from_one_fitted_reward_have_an_effect_per_seed(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, arms=("dpo", "ppo"), curves={"dpo": (0.4, 0.05), "ppo": (0.4, 0.05)})
    units = {p.arm: p.shares for p in verdict(read_study(folder)).points}
    assert units == {"dpo": False, "ppo": True}
    several = write_synthetic_study(
        tmp_path / "seeds", arms=("dpo", "ppo"), curves={"dpo": (0.4, 0.05), "ppo": (0.4, 0.05)}, seeds=(0, 1, 2)
    )
    answer = verdict(read_study(several))
    assert {p.unit for p in answer.points if p.arm == "ppo"} == {f"ppo, seed {seed}" for seed in range(3)}
    assert len({p.unit for p in answer.points if p.arm == "dpo"}) == 6
    assert answer.comparisons[0].scope == "over prompts and 3 seeds"


def test_two_runs_an_arm_tell_nothing_of_a_method(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, curves={"dpo": (2.0, 0.0), "ipo": (0.1, 0.0)})))
    assert answer.comparisons[0].verdict == "not comparable"
    assert "too few finished runs to tell a method from a run; more seeds of each arm" in answer.sentence


def test_a_reason_that_all_pairs_share_is_told_once(tmp_path: Path) -> None:
    curves = dict.fromkeys(("dpo", "ipo", "gpo"), (0.4, 0.05))
    answer = verdict(read_study(write_synthetic_study(tmp_path, arms=list(curves), curves=curves, betas=(0.1,))))
    assert answer.sentence.startswith(
        "No two arms can be compared at the same KL: too few finished runs to tell a method from a run; more seeds of "
        "each arm would change that."
    )


def test_many_arms_are_corrected_for_their_comparisons(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, arms=("dpo", "ipo", "sft"), seeds=(0, 1, 2))))
    assert len(answer.comparisons) == 3
    made = [pair for pair in answer.comparisons if pair.difference]
    for pair in made:
        assert pair.difference and pair.p_value >= pair.difference.p_value
        low, high = pair.interval()
        assert (low > 0 or high < 0) == pair.distinct
    smallest = min(pair.difference.p_value for pair in made if pair.difference)
    assert min(pair.p_value for pair in made) == pytest.approx(min(1.0, len(made) * smallest))
    assert f"Of 3 pairs of arms, {len(made)} can be compared at the same KL" in answer.sentence


def test_a_ranking_is_told_only_where_every_pair_was_told_apart(tmp_path: Path) -> None:
    clear = {"dpo": (0.9, 0.05), "ipo": (0.5, 0.05), "gpo": (0.1, 0.05)}
    folder = write_synthetic_study(tmp_path / "clear", arms=("ipo", "gpo", "dpo"), curves=clear, seeds=TWO_SEEDS)
    assert "From best to worst: dpo, ipo, gpo (each pair at its own KL)." in verdict(read_study(folder)).sentence
    close = clear | {"gpo": (0.5, 0.05)}
    folder = write_synthetic_study(tmp_path / "close", arms=("ipo", "gpo", "dpo"), curves=close, seeds=TWO_SEEDS)
    answer = verdict(read_study(folder))
    assert "From best to worst" not in answer.sentence and "dpo leads ipo" in answer.sentence


def test_pairs_that_go_round_in_a_circle_are_no_ranking() -> None:
    def beats(a: str, b: str) -> Comparison:
        return Comparison(a, b, 1.0, Estimate(1.0, 0.1), p_value=0.001)

    answer = Verdict("", "reward", "", (), (), (beats("a", "b"), beats("b", "c"), beats("c", "a")), (), (), ())
    assert _ranking(answer) == ""
    straight = replace(answer, comparisons=(beats("a", "b"), beats("b", "c"), beats("a", "c")))
    assert _ranking(straight).startswith("From best to worst: a, b, c")


def test_what_went_wrong_is_told_before_any_claim(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, seeds=TWO_SEEDS))
    answer = verdict(with_metrics(study, "dpo-0.1-0", loss=1.25, reference_loss=0.69))
    assert answer.alarmed == {("dpo", 0.0): ("its loss ended above the reference's own",)}
    assert answer.sentence.startswith("Read what follows with alarms in mind: dpo (its loss ended above")
    assert "dpo's" in answer.sentence


def test_an_alarm_at_one_rate_of_label_noise_is_not_told_at_another(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, arms=("dpo",), seeds=TWO_SEEDS))
    noisy = [replace(row, run=f"{row.run}-n", noise=0.2) for row in study.trained()]
    metrics = {**study.metrics, **{f"{run}-n": steps for run, steps in study.metrics.items()}}
    study = replace(study, results=(*study.results, *noisy), metrics=metrics)
    answer = verdict(with_metrics(study, "dpo-0.1-0-n", loss=1.25, reference_loss=0.69))
    clean, flipped = answer.sentence.split("With 20% of the training votes flipped: ")
    assert "alarms" not in clean and flipped.startswith("Read what follows with alarms in mind")
    assert [bool(arm["alarms"]) for arm in answer.record()["arms"]] == [False, True]


def test_arms_without_a_finished_run_are_named_and_not_left_out(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, seeds=TWO_SEEDS, unfinished=4)))
    (pair,) = answer.comparisons
    assert (pair.a, pair.b, pair.verdict) == ("dpo", "ipo", "not comparable")
    assert "ipo has no finished run away from the reference; finished runs of ipo would change that" in answer.sentence
    assert not any("paired" in caveat for caveat in answer.caveats)


def test_scores_that_a_checkpoint_lacks_do_not_unpair_the_ends(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=TWO_SEEDS)
    before = verdict(read_study(folder))
    after = verdict(
        changed_samples(folder, lambda s: replace(s, reward=math.nan) if (s.run, s.step) == ("dpo-0.1-0", 16) else s)
    )
    assert before.comparisons == after.comparisons and before.best == after.best and after.caveats == before.caveats


def test_a_rate_of_label_noise_that_was_not_begun_says_nothing_of_errors(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, seeds=TWO_SEEDS))
    answer = verdict(replace(study, info={**study.info, "noises": [0.0, 0.2]}))
    assert not any("paired" in caveat or "no samples" in caveat for caveat in answer.caveats)


def test_the_record_of_a_verdict_says_the_same_in_numbers(tmp_path: Path) -> None:
    """`verdict.json`, schema 2: strict JSON, with every pair, whether compared or not."""
    far = {"dpo": (0.5, 0.05), "ipo": (0.3, 0.05), "sft": (0.2, 0.02)}
    study = read_study(write_synthetic_study(tmp_path, arms=("dpo", "ipo", "sft"), curves=far, seeds=TWO_SEEDS))
    answer = verdict(study)
    record = json.loads(json.dumps(answer.record(), allow_nan=False))
    assert record["schema"] == 2 and record["sentence"] == answer.sentence
    assert (record["axis"], record["judge"]) == ("reward", "predicted human rating")
    wanted = "a b noise judge axis kl difference low high level p_value scope runs prompts verdict detectable why next"
    for row, pair in zip(record["pairs"], answer.comparisons, strict=True):
        assert set(row) == set(wanted.split())
        assert row["verdict"] in ("better", "worse", "no difference", "not comparable")
        if row["verdict"] == "not comparable":
            assert row["difference"] is row["low"] is row["p_value"] is row["detectable"] is None
            assert row["why"] and row["next"]
        else:
            assert pair.difference and row["difference"] == pair.difference.value
            assert (row["low"] > 0 or row["high"] < 0) == (row["verdict"] != "no difference")
            assert row["low"] < row["difference"] < row["high"] and 0.95 <= row["level"] < 1
    assert [row["arm"] for row in record["arms"]] == ["dpo", "ipo", "sft"]
    assert record["arms"][0]["best"]["gain"] == answer.best[0].gain.value


def test_without_gold_no_quality_is_claimed(tmp_path: Path) -> None:
    answer = verdict(read_study(write_synthetic_study(tmp_path, gold=False, seeds=TWO_SEEDS)))
    assert (answer.axis, answer.axis_label, answer.best) == ("accuracy", "held-out accuracy", ())
    assert "no quality is claimed" in answer.sentence and "reward" not in answer.sentence
    assert answer.comparisons == () and answer.frontiers == ()
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
    folder = write_synthetic_study(tmp_path)
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
    folder = write_synthetic_study(tmp_path, prompts=20, seeds=TWO_SEEDS)
    study = changed_samples(folder, lambda s: replace(s, reward=None) if s.prompt_id == 7 and s.step == 32 else s)
    answer = verdict(study)
    assert "1 prompts lack a scored sample at the end of some run and are left out." in answer.caveats
    assert answer.comparisons[0].prompts == 19


def test_without_samples_the_rows_still_carry_a_wider_comparison(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=TWO_SEEDS)
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


# --- little or broken evidence ----------------------------------------------------------------------------------------


LITTLE: Mapping[str, Callable[[Path], StudyRecord]] = {
    "one run": lambda folder: read_study(write_synthetic_study(folder, arms=("dpo",), betas=(0.1,))),
    "no run": lambda folder: read_study(write_synthetic_study(folder, unfinished=4)),
    "one of each": lambda folder: read_study(write_synthetic_study(folder, betas=(0.1,))),
    "one prompt": lambda folder: read_study(write_synthetic_study(folder, prompts=1, seeds=TWO_SEEDS)),
    "two prompts": lambda folder: read_study(write_synthetic_study(folder, prompts=2, seeds=TWO_SEEDS)),
    "scores that are no numbers": lambda folder: changed_samples(
        write_synthetic_study(folder, seeds=TWO_SEEDS), lambda sample: replace(sample, reward=math.nan)
    ),
    "rows whose gains are no numbers": lambda folder: changed(
        write_synthetic_study(folder, seeds=TWO_SEEDS), lambda row: replace(row, gain=math.nan, gain_se=math.nan)
    ),
    "no KL at all": lambda folder: changed_samples(
        write_synthetic_study(folder, seeds=TWO_SEEDS), lambda sample: replace(sample, kl=0.0)
    ),
    "no samples": lambda folder: changed_samples(write_synthetic_study(folder, seeds=TWO_SEEDS), lambda sample: None),
    "samples of one run alone": lambda folder: changed_samples(
        write_synthetic_study(folder, seeds=TWO_SEEDS), lambda sample: sample if "dpo-0.1-0" in sample.run else None
    ),
}


@pytest.mark.parametrize("case", LITTLE)
def test_little_or_broken_evidence_is_judged_in_words(tmp_path: Path, case: str) -> None:
    answer = verdict(LITTLE[case](tmp_path))
    assert answer.sentence and "nan" not in answer.sentence.replace("finance", "") and "None" not in answer.sentence
    json.dumps(answer.record(), allow_nan=False)
    for pair in answer.comparisons:
        assert pair.verdict != "not comparable" or pair.why
    told = [pair for pair in answer.comparisons if pair.difference]
    assert bool(told) == (
        case in ("two prompts", "scores that are no numbers", "no samples", "samples of one run alone")
    )
