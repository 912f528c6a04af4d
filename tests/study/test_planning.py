"""What is planned is what `compare` then does: runs, steps, tokens, evaluations, what is shared; nothing is written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import studies
from running import contents
from studies import QUICK, make_ballots

from preftune.errors import Interrupted, UserError
from preftune.evidence import PlannedEnd
from preftune.model import open_workbench
from preftune.study import probing
from preftune.study.planning import Forecast, plan_study
from preftune.study.study import Study, compare

WORDS = studies.WORDS  # of the tiny model
ARMS = "dpo,ipo[reduction=mean],sft"
SEARCH = "further runs of the search for β, at most"
PARTS = {"reference", "reward models", "pilots, at most", "training", "evaluation", SEARCH}


def stored(model: str) -> int:
    return open_workbench(model, device="cpu").store.sizes()["logprobs"]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))


def planned(arms: str, model: str, out: Path, **options: Any) -> Forecast:
    return plan_study(arms, make_ballots(), model=model, out=out, **QUICK | options)


@pytest.mark.usefixtures("own_cache")
def test_the_plan_is_what_compare_then_does(model: str, tmp_path: Path) -> None:
    options = {"seeds": [0, 1], "validation_fraction": 0.2}
    plan = planned(ARMS, model, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists() and stored(model) == 0, "nothing is written, nothing stays stored"
    study = compare(ARMS, make_ballots(), model=model, out=tmp_path / "s", **QUICK | options)
    assert {run.name for run in plan.runs} == {path.name for path in (tmp_path / "s" / "runs").iterdir()}
    assert len(plan.runs) == 10
    for run in plan.runs:
        rows = study.study.metrics[run.name]
        assert (run.steps, run.tokens, run.at_most) == (len(rows), sum(row["tokens"] for row in rows), False), run.name
        assert run.evaluations == sum(row.run == run.name for row in study.results)
    assert plan.shared.responses == stored(model) and plan.shared.stored == 0
    assert plan.prompts == study.study.info["data"]["prompts_eval"] and plan.info["data"] == {
        name: value for name, value in study.study.info["data"].items()
    }
    ends = {(row.arm, row.beta, row.seed, row.noise) for row in study.study.ends()}
    assert {(end.arm, end.beta, end.seed, end.noise) for end in plan.ends} == ends
    again = planned(ARMS, model, tmp_path / "s", **options)
    assert all(run.done for run in again.runs) and again.shared.tokens == 0 and sum(again.seconds.values()) == 0


@pytest.fixture(scope="module")
def small(model: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of two arms at two β and two seeds."""
    options = QUICK | {"seeds": [0, 1], "epochs": 1.0, "checkpoints": 1}
    return compare("dpo,ipo", make_ballots(), model=model, out=tmp_path_factory.mktemp("study") / "s", **options)


def test_of_a_study_that_grows_only_the_rest_is_planned(small: Study, model: str) -> None:
    before = contents(small.folder)
    options = {"betas": [0.1, 0.3], "seeds": [0, 1], "epochs": 1.0, "checkpoints": 1}
    plan = planned("dpo,ipo,sft", model, small.folder, **options)
    assert contents(small.folder) == before
    assert {run.name for run in plan.runs if run.done} == {
        f"{arm}-beta0.1-seed{seed}" for arm in ("dpo", "ipo") for seed in (0, 1)
    }
    left = [run for run in plan.runs if not run.done]
    pace = plan.probe.training
    assert plan.seconds["training"] == pytest.approx(sum(pace[run.arm] * run.tokens for run in left))
    assert PlannedEnd("dpo", 0.5, 1) in plan.ends and PlannedEnd("sft", None, 0) in plan.ends and len(plan.ends) == 14
    (pair,) = plan.found
    assert pair == small.verdict.comparisons[0] and (pair.a, pair.b) == ("dpo", "ipo")
    with pytest.raises(UserError, match="--lr"):
        planned("dpo", model, small.folder, **options | {"lr": 1e-3})
    assert contents(small.folder) == before


def test_the_time_is_a_sum_over_the_runs_that_are_left(small: Study, model: str, tmp_path: Path) -> None:
    fresh = planned("dpo,ipo", model, tmp_path / "s", seeds=[0, 1], checkpoints=2)
    assert set(fresh.seconds) == PARTS and fresh.seconds["reward models"] == 0
    assert all(fresh.seconds[name] > 0 for name in ("training", "evaluation"))
    probe = fresh.probe
    assert min(probe.forward, probe.logprob, probe.sampling, *probe.training.values()) > 0
    assert probe.memory > 2**20 and probe.device == "cpu" and set(probe.training) == {"dpo", "ipo"}


def test_what_is_still_to_be_found_is_assumed_and_counted(model: str, tmp_path: Path) -> None:
    given = {"betas": "auto", "seeds": [0, 1], "lr": "auto", "epochs": 1.0, "validation_fraction": 0.3}
    plan = planned("dpo,ipo[lr=0.001],sft", model, tmp_path / "s", **given)
    assert plan.searching == ("dpo", "ipo[lr=0.001]") and plan.piloted == ("dpo", "sft")
    assert len(plan.runs) == 2 * (3 + 3 + 1) and 0.1 in {run.beta for run in plan.runs}
    one = {run.arm: plan.probe.training[run.arm] * run.work for run in plan.runs}
    assert plan.seconds["pilots, at most"] == pytest.approx(6 / 4 * (one["dpo"] + one["sft"]))
    assert plan.seconds[SEARCH] > (8 - 3) * (one["dpo"] + one["ipo[lr=0.001]"])
    settled = planned("dpo,sft", model, tmp_path / "s", **given | {"betas": [0.1], "lr": 1e-3})
    assert settled.searching == settled.piloted == () and settled.seconds[SEARCH] == 0


def test_of_a_study_whose_betas_were_found_they_are_planned(model: str, tmp_path: Path) -> None:
    given = QUICK | {"betas": "auto", "epochs": 1.0}
    study = compare("dpo", make_ballots(), model=model, out=tmp_path / "s", **given)
    plan = plan_study("dpo", make_ballots(), model=model, out=tmp_path / "s", **given)
    assert plan.searching == () and plan.seconds[SEARCH] == 0 and all(run.done for run in plan.runs)
    assert {run.beta for run in plan.runs} == set(study.study.info["search"]["chosen"]["dpo"])


def test_what_is_sampled_is_planned_at_its_longest(model: str, tmp_path: Path) -> None:
    arms = "ppo[inner_epochs=2],best-of-n,amortized-ipo[extra_responses=1]"
    options = {"kind": "frozen", "betas": [0.5], "epochs": 1.0, "rollouts": 2, "label_noise": [0.0, 0.2]}
    plan = planned(arms, model, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()
    assert plan.shared.rewards == ("seed0", "noise0.2-seed0") and plan.shared.rewards_left == 2
    assert plan.shared.selected == 16 * plan.prompts
    study = compare(arms, make_ballots(), model=model, out=tmp_path / "s", **QUICK | options)
    for run in plan.runs:
        rows = study.study.metrics.get(run.name, ())
        assert run.steps == len(rows) and run.evaluations == sum(row.run == run.name for row in study.results)
        assert run.tokens >= sum(row["tokens"] for row in rows) and run.at_most is bool(rows)
    again = planned(arms, model, tmp_path / "s", **options)
    assert all(run.done for run in again.runs) and again.shared.rewards_left == 0
    assert sum(again.seconds.values()) == 0
    other = planned(arms, model, tmp_path / "s", **options | {"seeds": [1]})
    assert other.shared.rewards_left == 2 and not any(run.done for run in other.runs)


def test_adapters_are_gone_after_the_probe_and_the_reference_is_the_start(model: str, tmp_path: Path) -> None:
    plan = planned("dpo[lora=2],ipo,rloo[lora=2]", model, tmp_path / "s", kind="frozen", epochs=1.0)
    assert set(plan.probe.training) == {"dpo[lora=2]", "ipo", "rloo[lora=2]"} and min(plan.probe.training.values()) > 0


def test_a_probe_that_is_stopped_keeps_nothing_and_says_so(model: str, tmp_path: Path, monkeypatch) -> None:
    def stopped(*given: Any, folder: Path, **rest: Any) -> None:
        raise Interrupted(f"{folder}: stopped after step 1 of 4; the state is saved")

    monkeypatch.setattr(probing, "train_any", stopped)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(Interrupted, match="nothing is kept of a probe"):
        planned("dpo", model, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_what_compare_refuses_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="best-of-n trains nothing"):
        planned("best-of-n", model, tmp_path / "s", kind="frozen")
    with pytest.raises(UserError, match="max-new-tokens"):
        planned("dpo", model, tmp_path / "s", max_new_tokens=99)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="finished run"):
        planned("dpo", model, tmp_path)
