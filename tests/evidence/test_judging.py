"""What is said of judges, on judgements that are made up: each alarm is raised by its fault alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import write_synthetic_study

from preftune.evidence import (
    COPY,
    IDENTICAL,
    NULL,
    OPPONENT,
    Judgement,
    Sample,
    StudyRecord,
    agreement_of_judges,
    judge_facts,
    read_study,
    verdict,
)
from preftune.evidence.judged import Axis, contests_of, judged_points
from preftune.evidence.judging import judge_alarms

Says = Callable[[Sample, Sample, random.Random], tuple[float | None, float | None]]


def fair(own: Sample, other: Sample, rng: random.Random) -> tuple[float | None, float | None]:
    """Says what a coin says, whatever the order, and prefers no length."""
    p = float(rng.random() < 0.5)
    return p, p


def judged(study: StudyRecord, says: Says, *, judge: str = "j", info: dict[str, Any] | None = None) -> StudyRecord:
    """The study with the opinions of one more judge on every run end and control."""
    rng = random.Random(judge)
    reference = [sample for sample in study.samples if sample.run == "reference"]
    opponents = study.opponents or tuple(
        replace(sample, run=run, tokens=rng.randint(12, 20), response=f"{run} {sample.prompt_id} {sample.sample}")
        for run in (OPPONENT, COPY, NULL)
        for sample in reference
        if run != NULL or sample.sample == 0
    )
    against = {(s.prompt_id, s.sample): s for s in opponents if s.run == OPPONENT}
    ends = {(row.run, row.step) for row in study.ends()}
    met = [s for s in study.samples if (s.run, s.step) in ends] + [s for s in opponents if s.run != OPPONENT]
    rows = []
    for own in met:
        other = against[own.prompt_id, own.sample]
        first, second = says(own, other, rng)
        why = "" if first is not None else "it was silent"
        where = (judge, own.run, own.step, own.prompt_id, own.sample, OPPONENT, 0, other.sample)
        rows.append(Judgement(*where, first, second, why))
    judges = [*study.info["judges"], {"name": judge, "description": "made up", **(info or {})}]
    told = {**study.info, "gold": None, "judges": judges}
    return replace(study, info=told, judgements=(*study.judgements, *rows), opponents=opponents)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    folder = write_synthetic_study(tmp_path_factory.mktemp("s") / "s", seeds=(0, 1), prompts=200, gold=False)
    found = read_study(folder)
    even = tuple(replace(sample, tokens=random.Random(repr(sample)).randint(12, 20)) for sample in found.samples)
    return replace(found, samples=even)


def test_a_fair_judge_raises_no_alarm(study: StudyRecord) -> None:
    assert judge_alarms(judged(study, fair)) == ()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (lambda own, other, rng: (1.0, 0.0), "goes by the order"),
        (lambda own, other, rng: (1.0, float(rng.random() < 0.5)), "leans to the first place"),
        (lambda own, other, rng: (0.0, float(rng.random() < 0.5)), "leans to the second place"),
        (lambda own, other, rng: (float(own.tokens > other.tokens),) * 2, "prefers the longer response in 100"),
        (lambda own, other, rng: (None, None) if rng.random() < 0.1 else fair(own, other, rng), "has no verdict on"),
        (lambda own, other, rng: (1.0, 1.0) if own.run == COPY else fair(own, other, rng), "the reference from itself"),
        (lambda own, other, rng: (1.0, 1.0) if own.run == NULL else fair(own, other, rng), "can be gamed"),
    ],
)
def test_each_fault_raises_its_alarm(study: StudyRecord, says: Says, told: str) -> None:
    assert any(told in alarm for alarm in judge_alarms(judged(study, says)))


def test_drift_is_told_of_contests_that_were_asked_again(study: StudyRecord) -> None:
    once = judged(study, fair)
    for changed, alarmed in ((1, False), (2, True)):
        again = [
            replace(one, again=True, **({"first": 1 - one.first, "second": 1 - one.second} if i < changed else {}))
            for i, one in enumerate(once.judgements[:20])
        ]
        alarms = judge_alarms(replace(once, judgements=(*once.judgements, *again)))
        assert bool(alarms) == alarmed and all("changed sides" in alarm for alarm in alarms)


def test_a_failed_verdict_is_no_tie(study: StudyRecord) -> None:
    """A judge that is silent on every second contest, and else says that runs win, leaves a win rate of 1, not of .75;
    the bounds of what is missing are told."""
    half = judged(study, lambda own, other, rng: (None, None) if own.sample == 0 else (1.0, 1.0))
    points, _, _ = judged_points(half, Axis("win rate", "j"))
    assert points and all(point.gain == pytest.approx(0.5) for point in points)
    assert any("would be 25.0% or 75.0%" in alarm or "no verdict on" in alarm for alarm in judge_alarms(half))


def test_ties_of_identical_texts_are_in_the_win_rate_and_in_no_share(study: StudyRecord) -> None:
    wins = judged(study, lambda own, other, rng: (1.0, 1.0))
    some = tuple(
        replace(one, first=0.5, second=0.5, why=IDENTICAL) if one.sample == 0 else one for one in wins.judgements
    )
    tied = replace(wins, judgements=some)
    points, _, _ = judged_points(tied, Axis("win rate", "j"))
    assert all(point.gain == pytest.approx(0.25) for point in points)
    facts = judge_facts(tied)[0]
    assert facts.identical > 0 and facts.asked + facts.identical == len(tied.judgements)


def test_the_error_of_a_win_rate_is_over_prompts(study: StudyRecord) -> None:
    """Both samples of a prompt agree: they count as one, and the error is that of as many coins as prompts."""
    alike = judged(
        study, lambda own, other, rng: (float(random.Random(f"{own.run}{own.prompt_id}").random() < 0.5),) * 2
    )
    points, table, _ = judged_points(alike, Axis("win rate", "j"))
    assert table is not None and table.gain.shape[1] == 200
    assert all(point.gain_se == pytest.approx(math.sqrt(0.25 / 200), rel=0.05) for point in points)


@given(st.integers(0, 10))
def test_judges_that_agree_and_that_do_not(study: StudyRecord, flipped: int) -> None:
    def other(own: Sample, against: Sample, rng: random.Random) -> tuple[float, float]:
        coin = float(random.Random(f"{own.run}/{own.prompt_id}/{own.sample}").random() < 0.5)
        return (1 - coin, 1 - coin) if own.prompt_id % 10 < flipped else (coin, coin)

    def one(own: Sample, against: Sample, rng: random.Random) -> tuple[float, float]:
        coin = float(random.Random(f"{own.run}/{own.prompt_id}/{own.sample}").random() < 0.5)
        return coin, coin

    both = judged(judged(study, one, judge="a"), other, judge="b")
    ((a, b, same),) = agreement_of_judges(both)
    assert (a, b) == ("a", "b") and same.value == pytest.approx(1 - flipped / 10)


def test_a_planted_lead_is_found_by_the_judge_and_told_as_a_win_rate(study: StudyRecord) -> None:
    def likes_dpo(own: Sample, other: Sample, rng: random.Random) -> tuple[float, float]:
        p = float(rng.random() < (0.9 if own.run.startswith("dpo") else 0.6))
        return p, p

    answer = verdict(judged(study, likes_dpo))
    assert answer.axis == "win rate" and answer.judge == "j"
    assert answer.comparisons[0].verdict == "better" and "dpo wins more often than ipo by judge j" in answer.sentence
    assert {one.axis for one in answer.secondary} == {"length-controlled win rate"}


def test_a_second_judge_never_enters_the_sentence(study: StudyRecord) -> None:
    def likes_dpo(own: Sample, other: Sample, rng: random.Random) -> tuple[float, float]:
        p = float(own.run.startswith("dpo"))
        return p, p

    first = judged(study, fair, judge="first")
    both = judged(first, likes_dpo, judge="second")
    alone, beside = verdict(first), verdict(both)
    assert beside.sentence == alone.sentence and beside.comparisons == alone.comparisons
    assert next(one for one in beside.secondary if one.judge == "second").comparisons[0].verdict == "better"


def test_without_an_axis_nothing_is_claimed(study: StudyRecord) -> None:
    bad = {"agreement": {"accuracy": {"value": 0.5, "se": 0.02, "low": 0.46, "high": 0.54}}}
    answer = verdict(judged(study, fair, info=bad))
    assert answer.axis == "accuracy" and not answer.comparisons and not answer.secondary
    assert "carries no axis" in answer.sentence


def test_lengths_are_those_of_the_two_responses(study: StudyRecord) -> None:
    made = judged(study, fair)
    row = made.ends()[0]
    prompts = sorted({one.prompt_id for one in made.judgements})
    found = contests_of(made, "j", [(row.run, row.step)], prompts)
    tokens = {(s.run, s.step, s.prompt_id, s.sample): s.tokens for s in (*made.samples, *made.opponents)}
    for place, prompt in enumerate(prompts):
        for sample in range(2):
            longer = tokens[row.run, row.step, prompt, sample] - tokens[OPPONENT, 0, prompt, sample]
            assert found.longer[0, place, sample] == longer


def test_a_study_from_before_judges_reads_as_ever(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path / "s"))
    assert study.judgements == study.opponents == study.people == () and verdict(study).axis == "reward"


def test_a_sample_of_any_number_takes_no_more_room_than_its_line(study: StudyRecord) -> None:
    made = judged(study, fair)
    first, *rest = made.judgements
    far = replace(made, judgements=(replace(first, sample=10**15), *rest))
    assert verdict(far).points and judge_facts(far)[0].asked == judge_facts(made)[0].asked
