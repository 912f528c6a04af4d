"""What a run's metrics give reason to worry about: loudly where something is wrong, and never where nothing is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from preftune.data.ballots import Ballot, Vote
from preftune.evidence.alarms import held_out_alarms, last_quarter, loss_above_reference, run_alarms
from preftune.study.single import train
from preftune.study.study import compare
from preftune.training.records import Run

WORDS = list("abcdefgh")


def preferring_a(count: int = 32) -> list[Ballot]:
    """`a` is preferred to whatever stands beside it."""
    return [
        Ballot(f"{WORDS[i % 8]} {WORDS[i // 8 % 8]}", ("a", WORDS[1 + i % 7]), (Vote(0, 1, 1.0),)) for i in range(count)
    ]


def trained(method: str, model: str, out: Path, lr: float, ballots: Sequence[Ballot] = (), **options: object) -> Run:
    known = {"beta": 0.5, "steps": 16, "batch_size": 8, "max_length": 16, "device": "cpu"}
    return train(method, ballots or preferring_a(), model=model, out=out, lr=lr, **{**known, **options})


# --- the loss against the reference's own -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "lr"), [("dpo", 2.0), ("ipo", 0.3)])
def test_a_run_that_diverges_says_so_where_it_ends_and_in_its_record(
    method: str, lr: float, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # noise: nothing can be learned, and so large a step can only do harm
    ballots = [Ballot(b.prompt, b.responses, (Vote(0, 1, float(i % 2)),)) for i, b in enumerate(preferring_a())]
    run = trained(method, model, tmp_path / "run", lr, ballots)
    (alarm,) = run.record["alarms"]
    reference = {"dpo": "0.693", "ipo": "0.25"}[method]
    assert f"the reference's own is {reference} on the same votes" in alarm
    assert f"worth a second look: {alarm}" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["alarms"] == [alarm]


@pytest.mark.parametrize(("method", "lr"), [("dpo", 5e-3), ("ipo", 5e-4), ("sft", 5e-3)])
def test_a_run_that_learns_says_nothing(method: str, lr: float, model: str, tmp_path: Path) -> None:
    run = trained(method, model, tmp_path / "run", lr, beta=None if method == "sft" else 0.5)
    losses = [row["loss"] for row in run.metrics]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert run.record["alarms"] == []
    assert method != "sft" or "reference_loss" not in run.metrics[0]


def test_the_first_loss_is_the_references_own(model: str, tmp_path: Path) -> None:
    for method, own in (("dpo", math.log(2)), ("ipo", 0.25)):
        run = trained(method, model, tmp_path / method, 5e-3)
        assert run.metrics[0]["loss"] == pytest.approx(run.metrics[0]["reference_loss"])
        assert [row["reference_loss"] for row in run.metrics] == pytest.approx([own] * 16)


def test_a_study_tells_which_of_its_runs_diverged(model: str, tmp_path: Path) -> None:
    shared = {"betas": [0.5], "samples": 0, "steps": 16, "batch_size": 8, "max_length": 16, "device": "cpu"}
    arms = ["dpo[lr=0.005]", "ipo[lr=0.3]"]
    study = compare(arms, preferring_a(), model=model, out=tmp_path / "s", eval_fraction=0.3, **shared)
    (alarm,) = [line for line in study.verdict.alarms if "reference's own" in line]
    assert "ipo[lr=0.3] β=0.5: " in alarm and "dpo" not in alarm
    kept = {path.parent.name: json.loads(path.read_text("utf-8")) for path in (tmp_path / "s").glob("runs/*/run.json")}
    assert {name: len(record["alarms"]) for name, record in kept.items()} == {
        "dpo-lr-0.005-beta0.5-seed0": 0,
        "ipo-lr-0.3-beta0.5-seed0": 1,
    }
    assert "too high" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def steps(losses: Sequence[float], own: Sequence[float] | float = 0.25) -> list[Mapping[str, float]]:
    owns = [own] * len(losses) if isinstance(own, float) else own
    return [{"step": i + 1, "loss": a, "reference_loss": b} for i, (a, b) in enumerate(zip(losses, owns, strict=True))]


def test_what_counts_is_the_last_quarter_and_four_steps_at_least() -> None:
    assert loss_above_reference(steps([0.2] * 12 + [0.4, 0.5, 0.4, 0.5])) == pytest.approx((0.45, 0.25))
    assert loss_above_reference(steps([9.0] * 12 + [0.2] * 4)) is None
    assert loss_above_reference(steps([0.2] * 4 + [0.4, 0.5, 0.4, 0.5])) is not None, "four of eight"
    assert loss_above_reference(steps([9.0] * 3)) is None
    assert loss_above_reference([]) is None


def test_a_loss_above_by_less_than_two_errors_is_chance() -> None:
    # mean 0.1; standard deviation 0.2 over four steps, so an error of 0.1
    above = [0.1 + 0.2 * side * math.sqrt(3 / 4) for side in (-1, 1, -1, 1)]
    assert loss_above_reference(steps([0.25 + 1.9 * a for a in above])) is None
    higher = [0.25 + a + 0.11 for a in above]
    assert loss_above_reference(steps(higher)) == pytest.approx((0.46, 0.25))
    assert loss_above_reference(steps([0.25 + a + 0.09 for a in above])) is None


def test_the_two_losses_are_compared_step_by_step() -> None:
    """Soft labels differ in how hard they are; that is no noise of the difference."""
    own = [0.01, 0.25, 0.04, 0.16]
    assert loss_above_reference(steps([b + 0.01 for b in own], own)) == pytest.approx((0.125, 0.115))
    assert loss_above_reference(steps([b - 0.01 for b in own], own)) is None


def test_rounding_and_what_is_not_known_raise_no_alarm() -> None:
    assert loss_above_reference(steps([0.25 + 1e-7] * 8)) is None
    assert loss_above_reference(steps([math.nan] * 8)) is None
    assert run_alarms([{"step": i, "loss": 9.0} for i in range(8)]) == [], "an older log, or sft"


def test_the_last_quarter_leaves_out_what_is_not_a_number() -> None:
    rows = [{"x": float(i)} for i in range(15)] + [{"x": math.nan}]
    found = last_quarter(rows, "x")
    assert found is not None and found.value == pytest.approx((11 + 12 + 13 + 14) / 4)
    assert last_quarter(rows, "y") is None


# --- agreement with held-out votes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "se", "alarmed"),
    [(0.5, 0.0, True), (0.5, 0.05, False), (0.6, 0.0, False), (0.5, None, False), (None, None, False)],
)
def test_an_accuracy_of_one_half_without_variance_is_no_chance(
    accuracy: float | None, se: float | None, alarmed: bool
) -> None:
    assert [("exactly 1/2" in line) for line in held_out_alarms(accuracy, se)] == [True] * alarmed


def test_held_out_votes_that_are_all_ties_are_said_to_tell_nothing(model: str, tmp_path: Path) -> None:
    ties = [Ballot(b.prompt, b.responses, (Vote(0, 1, 0.5),)) for b in preferring_a(8)]
    run = trained("dpo", model, tmp_path / "run", 5e-3, eval_ballots=ties)
    (alarm,) = run.record["alarms"]
    assert "all held-out votes are ties" in alarm
    told = trained("dpo", model, tmp_path / "told", 5e-3, eval_ballots=preferring_a(8))
    assert told.record["alarms"] == []


# --- samples of ppo and rloo ------------------------------------------------------------------------------------------


def rows(**columns: Sequence[float]) -> list[dict[str, float]]:
    length = len(next(iter(columns.values())))
    quiet = {"k1": [0.1] * length, "kl": [0.1] * length, "entropy": [2.0] * length, "score": [0.0] * length}
    table = {**quiet, "length": [20.0] * length, **columns}
    return [{name: values[i] for name, values in table.items()} for i in range(length)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"k1": [0.0, -1.0, -2.0, -3.0]}, "sampled KL is negative"),
        ({"entropy": [2.0, 1.0, 0.5, 0.1]}, "entropy fell from 2.00 to 0.10"),
        ({"score": [0.0, 1.0, 2.0, 3.0], "length": [10.0, 20.0, 30.0, 40.0]}, "the score grew with length"),
    ],
)
def test_alarms_say_in_words_what_is_wrong(columns: dict[str, Sequence[float]], message: str) -> None:
    assert [message in line for line in run_alarms(rows(**columns))] == [True]


def test_a_sound_run_raises_no_alarm() -> None:
    assert run_alarms(rows(score=[0.0, 1.0, 2.0, 3.0], length=[20.0, 21.0, 20.0, 19.0])) == []
    assert run_alarms([]) == []
