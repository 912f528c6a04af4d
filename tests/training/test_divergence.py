"""A training whose numbers are no longer finite stops at that step, says why, and is marked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import metrics_of, run, watch_steps

from preftune import Ballot, Vote, train
from preftune.errors import NotFinite, UserError
from preftune.training import session

HUGE = {"lr": 1e30, "warmup": 0.0, "clip_norm": 1e30}
DIVERGING: dict[str, dict[str, Any]] = {
    "dpo, beta": {"method": "dpo", "beta": 1e30},
    "ipo, beta": {"method": "ipo", "beta": 1e300},
    "dpo, lr": {"method": "dpo", **HUGE},
    "ipo, lora": {"method": "ipo", "lora": 2, **HUGE},
    "sft, lr": {"method": "sft", "beta": None, **HUGE},
    "amortized-ipo": {"method": "amortized-ipo", **HUGE},
    "rloo": {"method": "rloo", "kind": "frozen", "max_new_tokens": 3, **HUGE},
    "reward": {"method": "reward", "beta": None, "kind": "full", **HUGE},
}


@pytest.mark.parametrize("name", DIVERGING)
def test_a_training_that_diverges_is_the_users_error_and_marked(name: str, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotFinite, match=r"not finite") as told:
        run(model, out, **DIVERGING[name])
    assert isinstance(told.value, UserError) and "\n" not in str(told.value)
    assert json.loads((out / "failed.json").read_text()) == {"reason": str(told.value)}
    assert not (out / "run.json").exists() and not (out / "policy").exists()
    assert all(math.isfinite(value) for row in metrics_of(out) for value in row.values())


def test_it_is_gone_on_with_from_before_the_step_at_which_it_diverged(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that was saved last is untouched, and the mark goes when the training goes on."""
    out, real = tmp_path / "out", session.run_loop

    def loop(plan: Any, loss_of: Any, **rest: Any) -> None:
        def loss(micro_batch: Any) -> Any:
            terms = loss_of(micro_batch)
            return replace(terms, loss=terms.loss * math.nan) if done and done[-1] == 6 else terms

        real(plan, loss, **rest)

    done: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(NotFinite, match=r"step 7 \(ballots [\d, ]+ of .*is not finite"):
        patch.setattr(session, "run_loop", loop)
        watch_steps(patch, after=done.append)
        run(model, out, save_every=0)
    assert json.loads((out / "state" / "record.json").read_text())["step"] == 6
    run(model, out, resume=True)
    run(model, tmp_path / "whole")
    assert metrics_of(out) == metrics_of(tmp_path / "whole") and not (out / "failed.json").exists()


def one_vote(weight: float, p: float = 1.0) -> list[Ballot]:
    return [Ballot(f"w{n} w1", ("w2 w3", "w4"), (Vote(0, 1, p, weight),)) for n in range(4)]


@pytest.mark.parametrize("weight", [1e-30, 1e30])
@pytest.mark.parametrize("method", ["dpo", "ipo", "sft", "reward"])
def test_the_scale_of_the_weights_changes_a_run_by_rounding_only(
    method: str, weight: float, model: str, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"model": model, "steps": 3, "lr": 1e-3, "device": "cpu"}
    how |= {"beta": 0.1} if method in ("dpo", "ipo") else {"kind": "full"} if method == "reward" else {}

    def losses(weight: float, out: Path) -> list[float]:
        rows: tuple[Mapping[str, float], ...] = train(method, one_vote(weight), out=out, **how).metrics
        return [row["loss"] for row in rows]

    assert losses(weight, tmp_path / "a") == pytest.approx(losses(1.0, tmp_path / "b"), rel=1e-4)


def test_votes_of_all_ties_and_a_single_vote_train(model: str, tmp_path: Path) -> None:
    for name, ballots in (("ties", one_vote(1.0, 0.5)), ("one", one_vote(1.0)[:1])):
        for method in ("dpo", "ipo"):
            found = train(method, ballots, model=model, beta=0.1, steps=2, out=tmp_path / name / method, device="cpu")
            assert all(math.isfinite(value) for row in found.metrics for value in row.values())
