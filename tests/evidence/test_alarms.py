"""What a run's metrics give reason to worry about: loudly where something is wrong, and never where nothing is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.alarms import broken_cases, healthy_cases, measure
from preftune.data.ballots import Ballot, Vote
from preftune.evidence.agreement import VoteTable, accuracy, log_loss
from preftune.evidence.alarms import gradient_grew, held_out_alarms, last_quarter, loss_above_reference, run_alarms
from preftune.evidence.stats import Estimate
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
    said = " ".join(capsys.readouterr().err.split())
    assert f"worth a second look: {alarm}" in said
    assert said.index("worth a second look at half time, of the steps so far: after") < said.index(alarm)
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


def test_what_counts_is_all_after_the_first_quarter_and_four_steps_at_least() -> None:
    assert loss_above_reference(steps([0.2] * 4 + [0.4, 0.5] * 6)) == pytest.approx((0.45, 0.25))
    assert loss_above_reference(steps([9.0] * 4 + [0.2] * 12)) is None
    assert loss_above_reference(steps([0.4] * 12 + [0.2] * 4)) is None, "it came down in the last quarter"
    assert loss_above_reference(steps([0.2] + [0.4, 0.41] * 2)) is not None, "four of five"
    assert loss_above_reference(steps([9.0] * 3)) is None
    assert loss_above_reference([]) is None


def test_a_loss_above_by_less_than_its_own_error_is_chance() -> None:
    # twelve steps of standard deviation 0.2, so an error of 0.0577, of which Student's t with 11 degrees allows 3.50
    above = [0.2 * side * math.sqrt(11 / 12) for side in (-1, 1) * 6]
    assert loss_above_reference(steps([0.25] * 4 + [1 + a + 0.198 for a in above], 1.0)) is None
    higher = [1 + a + 0.205 for a in above]
    assert loss_above_reference(steps([0.25] * 4 + higher, 1.0)) == pytest.approx((1.205, 1.0))


def test_a_loss_that_is_far_above_at_every_step_needs_no_error() -> None:
    falling = [2.0**-i for i in range(12)]
    assert loss_above_reference(steps([1.0] * 4 + [0.25 + 9 * a for a in falling])) is not None
    assert loss_above_reference(steps([1.0] * 4 + [0.25 + 0.9 * a for a in falling])) is None, "not twice as high"
    assert loss_above_reference(steps([1.0] * 4 + [0.25 + 9 * a for a in falling[:-4]] + [0.2, 0.4] * 2)) is None


def test_the_two_losses_are_compared_step_by_step() -> None:
    """Soft labels differ in how hard they are; that is no noise of the difference."""
    own = [0.01, 0.25, 0.04, 0.16]
    assert loss_above_reference(steps([b + 0.01 for b in own], own)) == pytest.approx((0.125, 0.115))
    assert loss_above_reference(steps([b - 0.01 for b in own], own)) is None


def test_rounding_and_what_is_not_known_raise_no_alarm() -> None:
    assert loss_above_reference(steps([0.25 + 1e-7] * 8)) is None
    assert loss_above_reference(steps([math.nan] * 8)) is None
    assert run_alarms([{"step": i, "loss": 9.0} for i in range(8)]) == [], "an older log, or sft"


# --- the gradient, and agreement with the training votes --------------------------------------------------------------


def norms(quarters: Sequence[float], length: int = 8, spread: float = 0.2) -> list[Mapping[str, float]]:
    """Gradient norms by quarters, each up and down by `spread` on the log scale."""
    return [{"grad_norm": norm * math.exp(spread * (-1) ** i)} for norm in quarters for i in range(length)]


@pytest.mark.parametrize(
    ("quarters", "grew"),
    [
        ((35, 35, 90, 180), True),
        ((1, 4, 4, 4), False),  # a warm-up, or an adapter that leaves 0
        ((4, 2, 2, 5), False),  # certain, but what an adapter does by itself
        ((180, 90, 35, 35), False),
    ],
)
def test_a_gradient_that_grows_after_the_warm_up_is_told(quarters: Sequence[float], grew: bool) -> None:
    for length in (4, 8, 32):
        assert [("gradient norm grew from 35 to 180" in line) for line in run_alarms(norms(quarters, length))] == [
            True
        ] * grew


def test_a_gradient_is_said_to_grow_only_beyond_its_own_error() -> None:
    assert gradient_grew(norms((1, 1, 4, 4), 4, spread=0.1)) == pytest.approx((1, 4))
    assert gradient_grew(norms((1, 1, 4, 4), 4, spread=1.0)) is None
    assert gradient_grew(norms((1, 1, 4, 4), 3, spread=0.1)) is None, "too few steps"
    assert gradient_grew([{"grad_norm": 0.0}] * 32) is None
    assert gradient_grew([row | {"k1": 0.1} for row in norms((1, 1, 4, 4))]) is None, "samples of a policy that moves"


@pytest.mark.parametrize(
    ("accuracies", "told"),
    [
        ([0.5] * 4 + [0.25, 0.375] * 6, True),
        ([0.25] * 4 + [0.5, 0.625] * 6, False),
        ([0.5] * 4 + [0.25, 0.625] * 6, False),  # within its own error
        ([0.5] * 4 + [0.2] * 8 + [0.5] * 4, False),  # it went up again
        ([0.2] * 3, False),
    ],
)
def test_a_policy_that_disagrees_with_its_own_votes_is_told(accuracies: Sequence[float], told: bool) -> None:
    found = run_alarms([{"accuracy": value} for value in accuracies])
    assert [("below 1/2: the policy does the opposite" in line) for line in found] == [True] * told


def test_what_is_broken_in_training_is_told_and_a_healthy_twin_is_not(tmp_path: Path) -> None:
    """A few of the runs that `bench.alarms` measures the rates on."""
    kinds = {case.kind: case for case in broken_cases() if (case.method, case.beta) == ("ipo", 0.2)}
    healthy = [case for case in healthy_cases() if (case.method, case.beta, case.epochs) == ("ipo", 0.2, 1)]
    counts = measure([*kinds.values(), *healthy[::6]], tmp_path, models=1)
    assert len(kinds) == 4 and len(counts) == 5
    assert all(row["any"] == row["runs"] for name, row in counts.items() if name != "healthy")
    assert counts["healthy"]["any"] == 0 and counts["healthy"]["runs"] == 3


def test_the_last_quarter_leaves_out_what_is_not_a_number() -> None:
    rows = [{"x": float(i)} for i in range(15)] + [{"x": math.nan}]
    found = last_quarter(rows, "x")
    assert found is not None and found.value == pytest.approx((11 + 12 + 13 + 14) / 4)
    assert last_quarter(rows, "y") is None


# --- agreement with held-out votes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "se", "told"), [(0.5, 0.0, True), (0.5, 0.05, False), (0.6, 0.0, False), (0.5, None, False)]
)
def test_an_accuracy_of_one_half_without_variance_is_no_chance(value: float, se: float | None, told: bool) -> None:
    assert [("exactly 1/2" in line) for line in held_out_alarms(Estimate(value, se))] == [True] * told
    assert held_out_alarms(None) == []


@pytest.mark.parametrize(
    ("value", "se", "votes", "told"),
    [
        (0.4, 0.03, 300, True),
        (0.43, 0.03, 300, False),
        (0.4, 0.03, 100, False),  # so many coins vary more
        (0.0, 0.0, 4, False),  # all of four votes missed
        (0.0, 0.0, 100, True),
        (0.6, 0.03, 300, False),
        (0.4, None, 300, False),
        (0.0, 0.0, 0, False),
    ],
)
def test_held_out_accuracy_below_one_half_is_told_beyond_its_error(
    value: float, se: float | None, votes: int, told: bool
) -> None:
    found = held_out_alarms(Estimate(value, se), None, votes)
    assert [("below 1/2: the policy prefers" in line) for line in found] == [True] * told


@pytest.mark.parametrize(("value", "se", "told"), [(0.75, 0.015, True), (0.75, 0.03, False), (0.6931478, 2e-8, False)])
def test_held_out_log_loss_above_that_of_no_margin_is_told(value: float, se: float, told: bool) -> None:
    found = held_out_alarms(None, Estimate(value, se))
    assert [("above ln 2 = 0.693" in line) for line in found] == [True] * told


def test_a_margin_that_is_wrong_throughout_has_a_log_loss_of_ln_2_and_is_told_by_its_accuracy() -> None:
    rng = np.random.default_rng(0)
    margin = rng.normal(0, 2, 400)
    votes = (rng.random(400) < 1 / (1 + np.exp(margin))).astype(float)
    table = VoteTable(margin, votes, np.ones(400), tuple((i,) for i in range(400)))
    (line,) = held_out_alarms(accuracy(table), log_loss(table), 400)
    assert "held-out accuracy" in line


def test_held_out_votes_that_are_all_ties_are_said_to_tell_nothing(model: str, tmp_path: Path) -> None:
    ties = [Ballot(b.prompt, b.responses, (Vote(0, 1, 0.5),)) for b in preferring_a(8)]
    run = trained("dpo", model, tmp_path / "run", 5e-3, eval_ballots=ties, allow_overlap=True)
    (alarm,) = run.record["alarms"]
    assert "all held-out votes are ties" in alarm
    told = trained("dpo", model, tmp_path / "told", 5e-3, eval_ballots=preferring_a(8), allow_overlap=True)
    assert told.record["alarms"] == []


def test_a_study_leaves_what_held_out_votes_say_in_the_record_of_a_run(model: str, tmp_path: Path) -> None:
    ties = [Ballot(b.prompt, b.responses, (Vote(0, 1, 0.5),)) for b in preferring_a()]
    shared = {"betas": [0.5], "samples": 0, "steps": 4, "batch_size": 8, "max_length": 16, "device": "cpu"}
    compare(["dpo"], ties, model=model, out=tmp_path / "s", eval_fraction=0.3, **shared)
    (path,) = (tmp_path / "s").glob("runs/*/run.json")
    (alarm,) = json.loads(path.read_text(encoding="utf-8"))["alarms"]
    assert "all held-out votes are ties" in alarm


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
