"""Predeclared looks: what they may spend, when they end, and studies of a tiny model that go on until their verdict."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import LIKES_A, QUICK, make_ballots
from studies import WORDS as WORDS
from synthetic_study import write_synthetic_study

from preftune.errors import Interrupted, UserError
from preftune.evidence import Estimate, read_study, verdict
from preftune.evidence.comparisons import Comparison, corrected
from preftune.study import beta_search, looks, runs
from preftune.study import rows as rows_of_study
from preftune.study.looks import Look, schedule, why_ended
from preftune.study.plan import settle_study
from preftune.study.study import Study, compare

UNTIL: dict[str, Any] = {**QUICK, "betas": [0.3], "checkpoints": 1, "epochs": 1.0, "lr": 1e-3, "until": "verdict"}
UNTIL |= {"eval_prompts": 4, "eval_fraction": 0.4}


@given(st.integers(1, 500), st.integers(1, 5000))
def test_looks_grow_and_share_the_five_percent(first: int, available: int) -> None:
    found = schedule(first, available)
    assert math.isclose(sum(look.alpha for look in found), 0.05)
    assert [look.seeds for look in found] == sorted({look.seeds for look in found})
    assert [look.prompts for look in found] == [min(available, times * first) for times in (1, 2, 4)]


def pair(value: float) -> Comparison:
    return Comparison("dpo", "ipo", kl=1.0, difference=Estimate(value, 1.0))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.sampled_from([0.005, 0.014, 0.031, 0.05]))
def test_a_smaller_share_tells_fewer_apart_in_wider_intervals(values: list[float], share: float) -> None:
    """Its words and its interval agree at every level, and α·(Holm's 5%) is Holm's at α."""
    strict, plain = corrected([pair(v) for v in values], share), corrected([pair(v) for v in values])
    for one, other in zip(strict, plain, strict=True):
        low, high = one.interval()
        assert one.distinct == (not low <= 0 <= high) and (other.distinct or not one.distinct)
        assert one.level >= 1 - share and one.p_value == other.p_value
    if len(values) == 1:
        assert strict[0].level == 1 - share


def test_what_ends_a_study() -> None:
    three = schedule(64, 256)
    apart, alike = corrected([pair(9.0)]), corrected([pair(0.1)])
    assert why_ended(three, 1, apart, None, 1.0, 1.0) == "every pair of arms was told apart"
    assert why_ended(three, 1, [*apart, *alike], None, 1.0, 1.0) == ""
    assert why_ended(three, 1, [], None, 1.0, 1.0) == "", "nothing compared is no verdict"
    assert why_ended(three, 3, alike, 99.0, 1.0, 0.0) == "it is the last one declared"
    assert why_ended(three, 1, alike, 4.0, 2.0, 2.0) == ""
    assert why_ended(three, 1, alike, 4.0, 2.0, 2.1).startswith(
        "2 of 4 hours are used, and look 2 would take about 2.1"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": "significant"}, "--until significant: must be verdict"),
        ({"hours": 2.0}, "--hours 2: says when a study stops that goes on; add --until verdict"),
        ({"until": "verdict", "hours": -1.0}, "--hours -1: must be greater than 0"),
        ({"until": "verdict", "hours": math.nan}, "--hours nan: must be greater than 0"),
        ({"until": "verdict", "seeds": [0, 1]}, "--seeds: --until verdict has looks of its own, after 3, 6, 12 seeds"),
        ({"until": "verdict", "methods": "dpo"}, "--until verdict: there is one arm"),
        ({"until": "verdict", "scored": False}, "--until verdict: nothing scores the responses"),
        ({"until": "verdict", "label_noise": [0.2]}, "--betas auto: β is found without label noise"),
    ],
)
def test_what_contradicts_looks_is_said_before_anything_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        settle_study(**({"methods": "dpo,ipo", "scored": True, "betas": [0.1]} | options))


# --- what a study says at a look, and between looks -------------------------------------------------------------------


def with_looks(folder: Path, done: list[Look], ended: str) -> Any:
    path = folder / "study.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info["looks"] = {"schedule": [vars(look) for look in schedule(32, 96)], "hours": None, "ended": ended}
    info["looks"]["done"] = [vars(look) for look in done]
    path.write_text(json.dumps(info), encoding="utf-8")
    return verdict(read_study(folder))


def test_at_a_look_intervals_have_its_level_and_between_looks_nothing_is_concluded(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path / "s", seeds=(0, 1, 2))
    plain = verdict(read_study(folder))
    first = schedule(32, 96)[0]
    answer = with_looks(folder, [first], "it is the last one declared")
    (one,), (other,) = answer.comparisons, plain.comparisons
    assert (one.level, one.alpha, other.level) == (0.995, 0.005, 0.95) and one.difference == other.difference
    assert answer.sentence.startswith("Look 1 of 3, 3 seeds on 32 prompts.") and "99.5% interval" in answer.sentence
    assert any("judges at 0.5%. No other followed: it is the last one declared." in line for line in answer.caveats)
    waiting = with_looks(folder, [], "")
    assert [pair.verdict for pair in waiting.comparisons] == ["not comparable"]
    assert "look 1 of 3 is under way, and a verdict comes at its end" in waiting.sentence
    behind = with_looks(folder, [replace(first, seeds=2)], "")
    assert "look 2 of 3 is under way" in behind.comparisons[0].why and "Look 1" not in behind.sentence


# --- studies of a tiny model ------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks, at two and three seeds."""
    for name, value in (("SEEDS", (2, 3)), ("ALPHA", (0.02, 0.03)), ("TIMES", (1, 3))):
        monkeypatch.setattr(looks, name, value)
    monkeypatch.setattr(beta_search, "MOST", 2)


def until(model: str, out: Path, **options: Any) -> Study:
    return compare("dpo,ipo", make_ballots(), model=model, out=out, **UNTIL | options)


def known(study: Study) -> dict[str, Any]:
    """What a study came to, but for times."""
    done = [
        {name: value for name, value in look.items() if name != "hours"} for look in study.study.info["looks"]["done"]
    ]
    rows = {(row.run, row.step): row for row in study.results}
    return {"verdict": study.verdict.record(), "done": done, "rows": rows, "search": study.study.info["search"]}


def floats(row: Any) -> dict[str, float]:
    return {name: value for name, value in vars(row).items() if type(value) is float}


@pytest.mark.usefixtures("short")
def test_a_study_goes_on_until_its_verdict(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one β an arm to two looks; killed in a run, between samples and row, and at a look: the same end; and the
    policies of the first look answer the prompts of the second as those that met all of them at once."""
    study = until(model, tmp_path / "whole")
    info = study.study.info
    assert [look["seeds"] for look in info["looks"]["done"]] == [2, 3] and info["seeds"] == [0, 1, 2]
    assert info["looks"]["ended"] == "it is the last one declared" and info["answered"] == study.verdict.sentence
    assert all({0.3} < set(betas) for betas in info["arm_betas"].values()), "the search goes on from what was given"
    assert study.verdict.comparisons[0].level == 0.97 and study.verdict.comparisons[0].prompts == 12
    ends = study.study.ends()
    answered = {row.run: {one.prompt_id for one in study.study.samples if one.run == row.run} for row in ends}
    assert all(len(answered[row.run]) == 12 for row in ends), "those of the first look have met all prompts too"

    options = UNTIL | {"until": None, "eval_prompts": 12, "seeds": [0, 1, 2], "betas": info["arm_betas"]}
    at_once = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "once", **options)
    theirs = {(s.run, s.prompt_id, s.sample): s.response for s in at_once.study.samples}
    ours = {(s.run, s.prompt_id, s.sample): s.response for s in study.study.samples}
    assert theirs.items() <= ours.items()
    rows = {row.run: row for row in at_once.study.ends()}
    for row in ends:
        assert floats(row) == pytest.approx(floats(rows[row.run]), abs=1e-5)
    one, other = study.verdict.comparisons[0].difference, at_once.verdict.comparisons[0].difference
    assert one and other and (one.value, one.se) == pytest.approx((other.value, other.se), abs=1e-5)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_before(patch, runs.Runner, "run", 3)
        until(model, tmp_path / "killed")
    waiting = Study(tmp_path / "killed").verdict
    assert all(pair.verdict == "not comparable" for pair in waiting.comparisons)
    with pytest.raises(UserError, match="its looks have not ended; go on with --until verdict"):
        until(model, tmp_path / "killed", until=None)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_before_row(patch, len(info["arm_betas"]["dpo"]))
        until(model, tmp_path / "killed")
    assert known(until(model, tmp_path / "killed")) == known(study)
    before = {path: path.read_bytes() for path in study.folder.rglob("*.jsonl")}
    assert known(until(model, tmp_path / "whole")) == known(study)
    assert {path: path.read_bytes() for path in study.folder.rglob("*.jsonl")} == before, "nothing is done again"


def stop_before(patch: pytest.MonkeyPatch, kind: type, name: str, calls: int) -> None:
    """Interrupt before that call of a method."""
    original, left = getattr(kind, name), [calls]

    def stopping(self: Any, *given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise Interrupted("stopped")
        return original(self, *given)

    patch.setattr(kind, name, stopping)


def stop_before_row(patch: pytest.MonkeyPatch, rows: int) -> None:
    """Interrupt where so many policies have answered further prompts: after the samples, before the row."""
    original, left = rows_of_study.append_records, [rows]

    def appending(path: Path, records: list[Any]) -> None:
        records = list(records)
        if path.name == "samples.jsonl" and records and records[0].prompt_id > 0:
            left[0] -= 1
        if path.name == "results.jsonl" and not left[0]:
            raise Interrupted("stopped")
        original(path, records)

    patch.setattr(rows_of_study, "append_records", appending)


@pytest.mark.usefixtures("short")
def test_a_clear_difference_ends_a_study_at_its_first_look(model: str, tmp_path: Path, monkeypatch: Any) -> None:
    """And what is added by hand afterwards is told; hours that do not suffice for a look begin none."""
    told = "every pair of arms was told apart"
    monkeypatch.setattr("preftune.study.looking.why_ended", lambda looks, done, *rest: told if done else "")
    study = until(model, tmp_path / "s")
    assert study.study.info["seeds"] == [0, 1] and len(study.study.info["looks"]["done"]) == 1
    assert study.verdict.sentence.startswith("Look 1 of 2, 2 seeds on 4 prompts.") and study.study.info["grown"] == []
    betas, sentence = study.study.info["arm_betas"], study.verdict.sentence
    by_hand = until(model, tmp_path / "s", until=None, seeds=[0, 1, 5], betas=betas)
    (grown,) = by_hand.study.info["grown"]
    assert grown["added"] == {"seeds": [5]} and grown["after"] == sentence
    assert any("Added by hand after an answer had been seen: seeds 5." in line for line in by_hand.verdict.caveats)


@pytest.mark.usefixtures("short")
def test_hours_decide_whether_the_next_look_begins(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--hours 1e-07: one run of dpo takes about"):
        until(model, tmp_path / "s", hours=1e-7)
    assert not (tmp_path / "s" / "study.json").exists()
    study = until(model, tmp_path / "s", hours=1e-3)
    done = study.study.info["looks"]["done"]
    assert len(done) == 1 and "0.001 hours are used, and look 2 would take about" in study.study.info["looks"]["ended"]
    assert json.loads((tmp_path / "s" / "clock.json").read_text(encoding="utf-8"))["seconds"] > 3.6 * 0.5
    more = until(model, tmp_path / "s", hours=1.0)
    assert len(more.study.info["looks"]["done"]) == 2 and more.study.info["grown"] == []
    assert more.study.info["looks"]["done"][0] == done[0]


@pytest.mark.usefixtures("short")
def test_a_look_that_has_begun_is_made_to_its_end_whatever_the_hours(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the study would answer at a place that nobody declared."""
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_before_row(patch, 2)
        until(model, tmp_path / "s")
    begun = Study(tmp_path / "s").study.info
    assert len(begun["looks"]["done"]) == 1 and begun["seeds"] == [0, 1, 2]
    study = until(model, tmp_path / "s", hours=1e-4)
    assert [look["seeds"] for look in study.study.info["looks"]["done"]] == [2, 3]
    assert study.verdict.sentence.startswith("Look 2 of 2, 3 seeds on 12 prompts.")


@pytest.mark.usefixtures("short")
def test_looks_are_declared_before_the_first_run(model: str, tmp_path: Path) -> None:
    plain = UNTIL | {"until": None, "seeds": [0], "eval_prompts": 12}
    compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "s", **plain)
    with pytest.raises(UserError, match="was begun without --until; looks are declared before the first run"):
        until(model, tmp_path / "s")


def test_a_study_that_grows_before_its_answer_or_not_at_all_has_no_caveat(model: str, tmp_path: Path) -> None:
    options = UNTIL | {"until": None, "judge": LIKES_A}
    once = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "s", **options)
    again = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "s", **options)
    assert once.verdict.record() == again.verdict.record() and again.study.info["grown"] == []
    grown = compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", **options | {"betas": [0.3, 0.9]})
    (added,) = grown.study.info["grown"]
    assert added["added"] == {"methods": ["sft"], "β of dpo": [0.9], "β of ipo": [0.9]}
    assert any("methods sft; β of dpo 0.9; β of ipo 0.9" in line for line in grown.verdict.caveats)
