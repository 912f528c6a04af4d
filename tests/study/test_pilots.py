"""Learning rates chosen in pilots: the choice as a function, and what a study does, and never does, with them."""

from __future__ import annotations

import json
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from running import watch_steps
from studies import LIKES_A, QUICK, make_ballots
from transformers import AutoModelForCausalLM

from preftune.data.ballots import Ballot, Vote, split_by_prompt
from preftune.errors import Interrupted, UserError
from preftune.evidence.results import REFERENCE, read_results, read_samples
from preftune.evidence.rows import write_json
from preftune.judges.judge import Judge
from preftune.model.sampling import Rollout
from preftune.study import making, piloting, pilots, runs
from preftune.study.naming import run_seed
from preftune.study.plan import make_plan
from preftune.study.rates import Tried, best_of, choose_rate, rate_beyond, rates_to_try
from preftune.study.single import train
from preftune.study.study import Study, compare

WORDS = list("abcdefgh")
ARMS = "dpo,sft,ipo[lr=0.002]"
AUTO: dict[str, Any] = QUICK | {
    "lr": "auto",
    "betas": [0.5, 0.1, 0.2],
    "epochs": 1.0,
    "steps": 36,
    "checkpoints": 1,
    "validation_fraction": 0.2,
    "samples": 1,
}
GRID = (1e-5, 3e-5, 1e-4, 3e-4)


# --- the choice -------------------------------------------------------------------------------------------------------


def a_tried(lr: float, *costs: float) -> Tried:
    return Tried(lr, costs, (1.0,) * len(costs))


def pilots_of(costs: list[list[float] | None]) -> list[Tried]:
    return [a_tried(rate_beyond(1e-5, i), *(own or ())) for i, own in enumerate(costs)]


@st.composite
def some_pilots(draw: st.DrawFn) -> list[Tried]:
    """Pilots at the first rates of the ladder on the same prompts, some of them out."""
    prompts = draw(st.integers(2, 6))
    weights = tuple(draw(st.lists(st.floats(0.1, 5), min_size=prompts, max_size=prompts)))
    cost = st.lists(st.floats(-3, 3), min_size=prompts, max_size=prompts).map(tuple)
    own = cost if draw(st.booleans()) else st.just(())
    drawn = draw(st.lists(st.none() | st.tuples(cost, st.just(weights), own), min_size=1, max_size=6))
    return [Tried(rate_beyond(1e-5, i), *(one or ())) for i, one in enumerate(drawn)]


def told_apart(one: tuple[float, ...], other: tuple[float, ...], weights: tuple[float, ...]) -> float:
    """How far the mean difference is above one standard error of it."""
    weight, gaps = np.array(weights), np.subtract(one, other)
    gap, count = float(weight @ gaps / weight.sum()), len(gaps)
    return float(gap - np.sqrt(count / (count - 1) * np.sum((weight * (gaps - gap)) ** 2)) / weight.sum())


@given(some_pilots())
@tried(200)
def test_the_smallest_rate_that_one_standard_error_does_not_tell_from_the_best_is_taken(found: list[Tried]) -> None:
    choice = choose_rate(found)
    inside = [one for one in found if one.costs]
    if not inside:
        assert choice is None
        return
    low = min(inside, key=lambda one: float(np.average(one.costs, weights=one.weights)))
    tied = [one for one in inside if told_apart(one.costs, low.costs, one.weights) <= 0]
    own = {one.lr: one.losses or one.costs for one in tied}
    best = min(tied, key=lambda one: float(np.average(own[one.lr], weights=one.weights)))
    assert choice is not None and choice[0] in own, "nothing with a cost that is told from the lowest"
    for one in tied:
        beyond = told_apart(own[one.lr], own[best.lr], one.weights)
        assert beyond <= 1e-9 if one.lr == choice[0] else one.lr > choice[0] or beyond > -1e-9


@given(some_pilots(), st.randoms(use_true_random=False), st.integers(-2, 2))
@tried(100)
def test_order_a_shift_of_all_costs_and_a_pilot_that_is_out_change_no_choice(
    found: list[Tried], rng: Any, shift: int
) -> None:
    choice = choose_rate(found)
    again = [*found, Tried(1.0)]
    rng.shuffle(again)
    assert (choose_rate(again) or (None,))[0] == (choice or (None,))[0]
    whole = [replace(one, costs=tuple(round(64 * cost) / 64 for cost in one.costs)) for one in found]
    moved = [replace(one, costs=tuple(cost + shift for cost in one.costs)) for one in whole]
    assert (choose_rate(whole) or (None,))[0] == (choose_rate(moved) or (None,))[0]


def test_a_tie_goes_to_the_smaller_rate_and_a_clear_lead_to_the_larger() -> None:
    noisy, clear = [1.0, 3.0, 1.2, 2.9], [0.5, 2.5, 0.7, 2.4]
    assert choose_rate(pilots_of([noisy, noisy])) == (1e-5, "the lowest cost; at the end of what was tried")
    lr, reason = choose_rate(pilots_of([noisy, clear, [9.0] * 4])) or (0.0, "")
    assert (lr, reason) == (3e-5, "the lowest cost"), "prompts differ more than rates: they are paired"
    lr, reason = choose_rate(pilots_of([None, [1.0, 2.0], [2.0, 0.9]])) or (0.0, "")
    assert lr == 3e-5 and reason.startswith("within one standard error of the lowest cost, 0.0001's (0.1 ± 1.1 above)")


def test_of_rates_that_log_loss_does_not_tell_apart_the_own_loss_decides() -> None:
    """A policy that has hardly moved ranks as one that has: it must not be taken for being the smaller rate."""
    costs, weights = (0.6, 0.7), (1.0, 1.0)
    still = Tried(1e-5, costs, weights, (0.6931, 0.6931))
    moved, far = Tried(3e-5, (0.61, 0.7), weights, (0.60, 0.65)), Tried(1e-4, costs, weights, (0.9, 1.4))
    worse = Tried(3e-4, (0.8, 0.9), weights, (0.1, 0.1))
    lr, reason = choose_rate([still, moved, far, worse]) or (0.0, "")
    assert lr == 3e-5 and reason.endswith("and of such with the lowest loss of its own")
    assert rates_to_try([still, moved, far, worse], lora=False) == ()
    assert rates_to_try(
        [still, *(replace(moved, lr=lr) for lr in (3e-5, 1e-4)), replace(moved, lr=3e-4, losses=(0.5, 0.5))], False
    ) == (1e-3,)


def test_the_ladder_and_the_grid() -> None:
    assert [rate_beyond(1e-5, i) for i in range(-2, 7)] == [1e-6, 3e-6, *GRID, 1e-3, 3e-3, 1e-2]
    assert rates_to_try([], lora=False) == GRID and rates_to_try([], lora=True) == (1e-4, 3e-4, 1e-3, 3e-3)
    assert rates_to_try(pilots_of([[1.0, 1.0]]), lora=False) == GRID[1:]


@given(st.integers(0, 5), st.booleans())
def test_the_grid_grows_at_the_end_where_the_best_is_and_twice_at_most(best: int, lora: bool) -> None:
    rates = rates_to_try([], lora)
    ladder = [rate_beyond(rates[0], i - 2) for i in range(8)]
    wanted, found = ladder[best + 1], []
    while rates := rates_to_try(found, lora):
        found += [a_tried(lr, *[abs(np.log(lr / wanted))] * 2) for lr in rates]
    known = sorted(one.lr for one in found)
    start, end = ladder.index(known[0]), ladder.index(known[-1])
    assert known == ladder[start : end + 1] and 4 <= len(known) <= 6 and (start >= 0 and end <= 7)
    assert (best_of(found) or found[0]).lr == wanted
    assert ladder.index(wanted) in range(start, end + 1)


def test_where_all_are_out_smaller_rates_are_tried_and_then_nothing_is_chosen() -> None:
    found: list[Tried] = []
    while rates := rates_to_try(found, lora=False):
        found += [Tried(lr) for lr in rates]
    assert sorted(one.lr for one in found) == [1e-6, 3e-6, *GRID] and choose_rate(found) is None
    above = [a_tried(1e-5, 1.0, 1.0), a_tried(3e-5, 0.5, 0.5), a_tried(1e-4, 0.1, 0.1), Tried(3e-4)]
    assert rates_to_try(above, lora=False) == (), "what is out stands above the best: that is no end"


def test_means_by_prompt_have_the_mean_and_the_error_of_what_they_are_of() -> None:
    values, weights = np.array([1.0, 2.0, 4.0, 0.0]), np.array([1.0, 3.0, 2.0, 2.0])
    costs = pilots.by_prompt(values, weights, ["x", "y", "x", "z"])
    assert costs == ((9 / 3, 2.0, 0.0), (3.0, 3.0, 2.0), ())
    assert Tried(0.1, *costs).mean == pilots.Estimate(
        15 / 8, pytest.approx((1.5 * (3.375**2 + 0.375**2 + 3.75**2)) ** 0.5 / 8), 2
    )


# --- what is piloted --------------------------------------------------------------------------------------------------


def test_arms_with_a_rate_of_their_own_and_those_that_do_not_train_have_no_pilot() -> None:
    plan = make_plan("dpo,ipo[lr=0.1],sft,best-of-n", [0.1], [0], [0.0], {"lr": "auto"}, 1)
    assert [arm.name for arm in plan.piloted] == ["dpo", "sft"] and plan.record()["lr"] == "auto"
    assert make_plan("dpo", [0.1], [0], [0.0], {"lr": 0.1}, 1).piloted == ()


# --- a study ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    return compare(ARMS, make_ballots(60), model=model, out=tmp_path_factory.mktemp("study") / "s", **AUTO)


def info_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study.json").read_text(encoding="utf-8"))


def rows_of(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row.run, row.step): vars(row) for row in read_results(folder / "results.jsonl")}


def pilots_in(folder: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((folder / "pilots").glob("*/pilot.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def test_every_pilot_is_told_with_its_criterion_value_error_steps_and_the_choice(whole: Study) -> None:
    told = info_of(whole.folder)["pilots"]
    assert list(told) == ["dpo", "sft"]
    for arm, chosen in told.items():
        rates = [row["lr"] for row in chosen["tried"]]
        assert set(GRID) <= set(rates) and [row["lr"] for row in chosen["tried"] if row["chosen"]] == [chosen["lr"]]
        assert all(row["steps"] == 9 and row["se"] > 0 and np.isfinite(row["value"]) for row in chosen["tried"])
        assert (chosen["seed"], chosen["noise"], chosen["beta"]) == (0, 0.0, 0.2 if arm == "dpo" else None)
        assert chosen["reason"] and "validation" in chosen["criterion"]
    assert len(pilots_in(whole.folder)) == sum(len(chosen["tried"]) for chosen in told.values())


def test_the_choice_of_the_study_is_that_of_the_function(whole: Study) -> None:
    for arm, chosen in info_of(whole.folder)["pilots"].items():
        records = [record for record in pilots_in(whole.folder).values() if record["arm"] == arm]
        found = [
            Tried(one["lr"], *(tuple(one.get(name, ())) for name in ("costs", "weights", "losses"))) for one in records
        ]
        lr, reason = choose_rate(found) or (0.0, "")
        assert lr == chosen["lr"] and chosen["reason"].startswith(reason) and rates_to_try(found, lora=False) == ()


def test_the_chosen_rate_is_frozen_and_the_runs_train_at_it(whole: Study) -> None:
    told = info_of(whole.folder)["pilots"]
    for path in sorted((whole.folder / "runs").glob("*/run.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        wanted = told[record["arm"]]["lr"] if record["arm"] in told else 0.002
        assert record["settings"]["lr"] == wanted
        rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        assert max(row["lr"] for row in rows) == pytest.approx(wanted) and len(rows) == 36
    assert info_of(whole.folder)["settings"]["lr"] == "auto"


def test_pilots_never_become_points(whole: Study) -> None:
    expected = {REFERENCE, "sft-seed0"}
    expected |= {f"{arm}-beta{beta}-seed0" for arm in ("dpo", "ipo-lr-0.002") for beta in (0.1, 0.2, 0.5)}
    assert {row.run for row in whole.results} == expected
    assert {sample.run for sample in read_samples(whole.folder / "samples.jsonl")} == expected
    assert {path.name for path in (whole.folder / "runs").iterdir()} == expected - {REFERENCE}
    kept = {path.name for path in (whole.folder / "pilots").rglob("*") if path.is_file()}
    assert kept == {"pilot.json", "metrics.jsonl"}, "no weights"
    assert not whole.failed and not whole.study.unfinished()


def test_the_report_names_the_rates(whole: Study) -> None:
    told = info_of(whole.folder)["pilots"]
    page = whole.report().read_text(encoding="utf-8")
    section = page.split("How learning rates were chosen")[1].split("</table>")[0]
    for arm in ("dpo", "sft"):
        assert (
            f"{arm}</th><td>{told[arm]['lr']:g}</td>" in section and f"of {len(told[arm]['tried'])} pilots" in section
        )


def test_going_on_repeats_no_pilot_and_keeps_the_frozen_rates(
    whole: Study, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = rows_of(whole.folder), info_of(whole.folder)["pilots"]
    for wing in (pilots, runs):
        monkeypatch.setattr(wing, "train_any", lambda *args, **given: pytest.fail("trained again"))
    compare(ARMS, make_ballots(60), model=model, out=whole.folder, **AUTO)
    assert rows_of(whole.folder) == before and info_of(whole.folder)["pilots"] == told


def test_a_study_grows_at_its_frozen_rate_and_a_new_arm_gets_pilots(model: str, tmp_path: Path) -> None:
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 8, "model": model, "out": tmp_path / "s"}
    compare("dpo", make_ballots(60), **small)
    told = info_of(tmp_path / "s")["pilots"]["dpo"]
    info = info_of(tmp_path / "s")
    info["pilots"]["dpo"]["lr"] = 7e-4  # what is frozen is what the study says
    write_json(tmp_path / "s" / "study.json", info)
    compare("sft,dpo", make_ballots(60), **small | {"betas": [0.1, 0.5, 2.0]})
    grown = info_of(tmp_path / "s")["pilots"]
    assert list(grown) == ["dpo", "sft"] and grown["dpo"] == told | {"lr": 7e-4}
    record = json.loads((tmp_path / "s" / "runs" / "dpo-beta2-seed0" / "run.json").read_text())
    assert record["settings"]["lr"] == 7e-4


def test_an_interrupted_pilot_goes_on_and_ends_the_same(
    whole: Study, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def count(step: int) -> None:
        steps.append(step)
        if len(steps) in (13, 27):  # within the second pilot, and at the end of the third
            os.kill(os.getpid(), signal.SIGINT)

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            watch_steps(patch, after=count)
            compare(ARMS, make_ballots(60), model=model, out=tmp_path / "s", **AUTO)
    with monkeypatch.context() as patch:
        watch_steps(patch, after=count)
        resumed = compare(ARMS, make_ballots(60), model=model, out=tmp_path / "s", **AUTO)
    assert pilots_in(resumed.folder) == pilots_in(whole.folder)
    assert info_of(resumed.folder)["pilots"] == info_of(whole.folder)["pilots"]
    assert rows_of(resumed.folder) == rows_of(whole.folder)
    assert len(steps) == 9 * len(pilots_in(whole.folder)) + 36 * 7, "no step is made twice"


def test_a_pilot_of_another_beta_is_made_anew(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 8, "model": model, "out": tmp_path / "s"}

    def stop(step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        watch_steps(patch, after=stop)
        compare("dpo", make_ballots(60), **small)
    compare("dpo", make_ballots(60), **small | {"betas": [0.1, 0.5, 0.7]})
    assert {record["beta"] for record in pilots_in(tmp_path / "s").values()} == {0.5}


@pytest.mark.parametrize(("first", "then"), [("auto", 1e-3), (1e-3, "auto")])
def test_a_rate_in_the_place_of_auto_and_the_other_way_are_refused(
    first: Any, then: Any, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 8, "model": model, "out": tmp_path / "s"}
    del small["validation_fraction"]  # so that the data are others too
    compare("dpo", make_ballots(60), **small | {"lr": first})
    monkeypatch.setattr(pilots, "train_any", lambda *args, **given: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"started with another --lr \(.*; name a new --out"):
        compare("dpo", make_ballots(60), **small | {"lr": then})


def test_the_share_of_validation_prompts_is_said(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 2, "model": model, "out": tmp_path / "s"}
    del small["validation_fraction"]
    compare("dpo", make_ballots(60), **small)
    assert "10% of the training prompts are taken out" in capsys.readouterr().err
    data = info_of(tmp_path / "s")["data"]
    assert data["validation_fraction"] == 0.1 and data["ballots_validation"] >= 2


def test_an_adapter_has_larger_rates_and_what_is_fitted_to_votes_knows_of_none(model: str, tmp_path: Path) -> None:
    """The preference of amortized-ipo and the reward of rloo are one model, fitted before and after there are rates."""
    small = AUTO | {"betas": [0.1], "steps": 8, "kind": "lora", "lora": 2, "model": model, "out": tmp_path / "s"}
    done = compare("amortized-ipo,rloo", make_ballots(60), **small | {"seeds": [0, 1]})
    assert not done.failed
    assert {path.name for path in (done.folder / "rewards").iterdir()} == {"seed0", "seed1"}
    for arm, chosen in info_of(done.folder)["pilots"].items():
        assert {1e-4, 3e-4, 1e-3, 3e-3} <= {row["lr"] for row in chosen["tried"]}
        for seed in (0, 1):
            record = json.loads((done.folder / "runs" / f"{arm}-beta0.1-seed{seed}" / "run.json").read_text())
            assert record["settings"]["lr"] == chosen["lr"]


# --- what they are judged on ------------------------------------------------------------------------------------------


def watched_validation(patch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """(prompts of the pilots' validation ballots, of what the arm trains on, of all questions)."""
    seen = []
    real = pilots.cost_of_votes

    def cost(job: Any, policy: Any) -> Any:
        questions = job.runner.questions
        asked = {*questions.prompts, *(ballot.prompt for ballot in questions.ballots)}
        judged = {ballot.prompt for ballot in job.ballots}
        seen.append((judged, {ballot.prompt for ballot in job.training.ballots}, asked))
        return real(job, policy)

    patch.setattr(pilots, "VOTES", pilots.VOTES._replace(measure=cost))
    return seen


def test_no_validation_prompt_is_trained_on_or_evaluated_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where ballots and prompts to evaluate on are given that the training data have too."""
    ballots, seen = make_ballots(60), watched_validation(monkeypatch)
    small = AUTO | {"betas": [0.1], "steps": 2, "model": model, "validation_fraction": 0.5}
    compare("dpo", ballots, out=tmp_path / "s", **small)
    _, out = split_by_prompt(ballots, 0.5, seed=1)
    given = {"eval_ballots": out[:5], "prompts": [ballot.prompt for ballot in out[3:8]], "allow_overlap": True}
    compare("dpo", ballots, out=tmp_path / "t", **small | given)
    assert len(seen) >= 8
    for judged, trained_on, asked in seen:
        assert len(judged) >= 2 and trained_on and asked
        assert not judged & trained_on and not judged & asked
    assert len(seen[-1][0]) == len({ballot.prompt for ballot in out[8:]} - {ballot.prompt for ballot in out[:8]})
    with pytest.raises(UserError, match="needs two validation prompts that are not evaluated on, and has 0"):
        compare("dpo", ballots, out=tmp_path / "u", **small | {"eval_ballots": out, "allow_overlap": True})
    assert not (tmp_path / "u").exists()


def test_the_judges_are_never_asked_by_a_pilot(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = []

    def rewards(prompts: Any, responses: Any) -> Any:
        assert not going_on, "a pilot asked a judge"
        return LIKES_A.rewards(prompts, responses)

    def settled(*args: Any) -> Any:
        going_on.append(True)
        found = piloting.settle_rates(*args)
        going_on.clear()
        return found

    monkeypatch.setattr(making, "settle_rates", settled)
    judge = Judge("gold", "watched", rewards)
    small = AUTO | {"betas": [0.1], "steps": 8, "judge": judge, "others": {"other": judge}, "kind": "frozen"}
    done = compare("dpo,sft,rloo", make_ballots(60), model=model, out=tmp_path / "s", **small)
    assert list(info_of(done.folder)["pilots"]) == ["dpo", "sft", "rloo"] and not done.failed
    assert len(done.study.trained()) == 3 and all(row.gain is not None for row in done.study.trained())


def test_a_pilot_is_judged_by_the_validation_log_loss_of_the_results(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of its length, rate and seed has the same one, and the policy of sft gives the responses the same odds."""
    monkeypatch.setattr(pilots, "run_seed", lambda seed, arm, beta: run_seed(seed, arm.removesuffix("/pilot"), beta))
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 32, "model": model, "label_noise": [0.2]}
    one = compare("dpo,sft", make_ballots(60), out=tmp_path / "auto", **small)
    other = compare("dpo,sft", make_ballots(60), out=tmp_path / "given", **small | {"lr": 1e-4, "steps": 8})
    row = next(row for row in other.study.finals() if row.arm == "dpo")
    found = pilots_in(one.folder)
    assert found["dpo-lr0.0001"]["noise"] == 0.2 and found["dpo-lr0.0001"]["steps"] == 8
    told = (found["dpo-lr0.0001"]["value"], found["dpo-lr0.0001"]["se"])
    assert told == (pytest.approx(row.validation, rel=1e-6), pytest.approx(row.validation_se, rel=1e-6))
    policy = AutoModelForCausalLM.from_pretrained(other.folder / "runs" / "dpo-beta0.1-noise0.2-seed0" / "policy")
    trained, start = (
        AutoModelForCausalLM.from_pretrained(path)
        for path in (other.folder / "runs" / "sft-noise0.2-seed0" / "policy", model)
    )
    jobs: list[Any] = []
    nothing = {"lr": 1.0, "reason": "", "tried": []}
    with monkeypatch.context() as patch:
        patch.setattr(piloting, "pilot_arm", lambda runner, arm, fresh: jobs.append((runner, fresh)) or nothing)
        patch.setattr(making, "attempt_all", lambda runner, runs: {})
        compare("sft", make_ballots(60), out=tmp_path / "look", **small)
    runner, fresh = jobs[0]
    total = tokens = loss = weight = 0.0
    for ballot in fresh.of(runner.data.votes[0, 0.2].validation):
        ratios = [
            log_likelihood(policy, ballot.prompt, y) - log_likelihood(start, ballot.prompt, y) for y in ballot.responses
        ]
        for vote in ballot.votes:
            margin = 0.1 * (ratios[vote.a] - ratios[vote.b])
            loss += vote.weight * float(vote.p * np.log1p(np.exp(-margin)) + (1 - vote.p) * np.log1p(np.exp(margin)))
            weight += vote.weight
            if vote.p != 0.5:
                ids = ballot.responses[vote.a if vote.p > 0.5 else vote.b]
                share = vote.weight * max(vote.p, 1 - vote.p)
                total += share * (
                    log_likelihood(trained, ballot.prompt, ids) - log_likelihood(start, ballot.prompt, ids)
                )
                tokens += share * len(ids)
    assert found["sft-lr0.0001"]["value"] == pytest.approx(total / tokens, rel=1e-3) and total > 0
    assert found["dpo-lr0.0001"]["loss"] == pytest.approx(loss / weight, rel=1e-5)


@torch.no_grad()
def log_likelihood(model: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> float:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(response)), list(response)].sum())


def test_samples_are_judged_by_learned_reward_less_beta_kl_and_what_not_ending_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = [Rollout((1,), ((4,), (5,)), (True, False)), Rollout((2,), ((4,), (5,)), (True, True))]
    monkeypatch.setattr(pilots, "sample_responses", lambda model, prompts, **given: drawn)
    monkeypatch.setattr(pilots, "exact_kl", lambda *args, **given: [[1.0, 2.0], [0.0, 4.0]])
    monkeypatch.setattr(pilots, "score_rollouts", lambda *args: [[3.0, 5.0], [1.0, 2.0]])
    monkeypatch.setattr(pilots, "validation_prompts", lambda *args: SimpleNamespace(prompts=((1,), (2,))))
    reference = SimpleNamespace(at_hand=nullcontext, alone=None)
    form = SimpleNamespace(stops=(0,))
    bench = SimpleNamespace(reference=reference, base=SimpleNamespace(form=form), layout=None, precision="fp32")
    runner = SimpleNamespace(bench=bench, plan=None, reward_of=lambda *where: object())
    options = SimpleNamespace(max_new_tokens=3, end_penalty=0.5)
    recipe = SimpleNamespace(options=options, settings=SimpleNamespace(pass_tokens=100))
    arm = SimpleNamespace(name="ppo")
    job = pilots.Job(runner, arm, SimpleNamespace(recipe=recipe), 0.5, 0, 0.0, None)
    costs = pilots.cost_of_samples(job, SimpleNamespace(merged=nullcontext, model=None))
    assert costs == ((-((3 - 0.5) + (5 - 1 - 0.5)) / 2, -(1 + (2 - 2)) / 2), (1.0, 1.0), ())


def test_pilots_that_are_no_better_than_the_reference_say_so() -> None:
    assert piloting.caveat(pilots.VOTES, [a_tried(1e-5, 0.6, 0.7), a_tried(3e-5, 0.7, 0.8)]).startswith("; no pilot is")
    assert piloting.caveat(pilots.VOTES, [a_tried(1e-5, 0.6, 0.61), a_tried(3e-5, 0.7, 0.8)]) == ""
    assert piloting.caveat(pilots.RESPONSES, [a_tried(1e-5, -0.1, 0.05)]) and not piloting.caveat(
        pilots.SAMPLED, [a_tried(1e-5, 9.0, 0.0)]
    )


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_pilot_that_ends_in_no_number_is_out(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its weights, by its loss, or because the training refused to go on."""
    real = pilots.train_any

    def broken(bench: Any, training: Any, *args: Any, **given: Any) -> Any:
        lr = training.recipe.settings.lr
        if lr == 3e-4:
            raise UserError("step 3: the gradient is not finite")
        policy = real(bench, training, *args, **given)
        if lr == 1e-4:
            with torch.no_grad():
                next(iter(policy.trainable().values())).view(-1)[0] = torch.nan
        return policy

    monkeypatch.setattr(pilots, "train_any", broken)
    small = AUTO | {"betas": [0.1], "samples": 0, "steps": 8, "model": model, "out": tmp_path / "s"}
    compare("dpo", make_ballots(60), **small)
    told = info_of(tmp_path / "s")["pilots"]["dpo"]
    out = {row["lr"]: row["out"] for row in told["tried"] if "out" in row}
    assert out == {1e-4: "a weight is not finite", 3e-4: "step 3: the gradient is not finite"}
    assert told["lr"] not in out
    monkeypatch.setattr(pilots, "train_any", lambda *args, **given: (_ for _ in ()).throw(UserError("not finite")))
    with pytest.raises(UserError, match=r"no pilot of dpo came to anything \(1e-06: not finite; .*its own lr"):
        compare("dpo", make_ballots(60), **small | {"out": tmp_path / "t"})
    assert pilots_in(tmp_path / "t") == {}, "they are made again next time"


def test_too_few_validation_prompts_are_told_before_anything_is_written(model: str, tmp_path: Path) -> None:
    few = [Ballot(word, ("a", "b c"), (Vote(0, 1, 1.0),)) for word in WORDS[:4]]
    with pytest.raises(UserError, match="--lr auto: needs two validation prompts"):
        compare("dpo", few, model=model, out=tmp_path / "s", **AUTO | {"validation_fraction": 0.0})
    assert not (tmp_path / "s").exists()


def test_auto_is_for_compare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--lr auto: auto is for compare"):
        train("dpo", make_ballots(4), model="m", beta=0.1, lr="auto", out=tmp_path / "r")
    with pytest.raises(UserError, match="lr must be a number, got 'auto'"):
        make_plan("dpo[lr=auto]", [0.1], [0], [0.0], {}, 1)
