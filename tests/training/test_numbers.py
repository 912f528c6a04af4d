"""Numbers at their limits, through a whole training: a defined end, and never a silent NaN in a record."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from running import run
from safetensors.torch import load_file, save_file
from tiny import tiny_llama

from preftune import Ballot, Run, Vote, train
from preftune.data import BranchBatch
from preftune.errors import NotFinite, UserError

QUICK: dict[str, Any] = {"steps": 2, "lr": 1e-3, "device": "cpu", "batch_size": 2}
BETAS = ("dpo", "ipo", "amortized-ipo")


def pair(number: int, p: float = 1.0) -> Ballot:
    return Ballot(f"w{number} w1", (f"w{number} w2", "w3"), (Vote(0, 1, p),))


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a record, and the text of one that is not finite."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(item)
    elif (isinstance(value, float | int) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf"):
        yield float(value)


def assert_finite(found: Run) -> None:
    """Every metric, every number of the record, every weight."""
    assert all(map(math.isfinite, numbers_in([dict(row) for row in found.metrics])))
    assert all(map(math.isfinite, numbers_in(json.loads((found.folder / "run.json").read_text()))))
    if (found.folder / "policy").exists():
        weights = load_file(found.folder / "policy" / "model.safetensors")
        assert all(bool(value.isfinite().all()) for value in weights.values())


# --- what is not finite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, model: str, tmp_path: Path) -> None:
    path = Path(tiny_llama(tmp_path / "bad", ["w1"])) / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] = bad
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        run(str(tmp_path / "bad"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["dpo", "sft", "rloo", "reward"])
def test_logits_that_overflow_stop_a_run_before_anything_is_left_of_it(method: str, tmp_path: Path) -> None:
    """In the reference pass, in a step, while it samples or fits: no policy, no record, no NaN in the metrics."""
    path = Path(tiny_llama(tmp_path / "large", [f"w{n}" for n in range(20)])) / "model.safetensors"
    weights = load_file(path)
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] * 1e38}, path, {"format": "pt"})
    own: dict[str, Any] = {} if method in ("dpo", "rloo") else {"beta": None}
    own |= {"kind": "frozen", "max_new_tokens": 2} if method == "rloo" else {}
    own |= {"kind": "full", "eval_fraction": 0.3} if method == "reward" else {}
    with pytest.raises(UserError, match="not finite"):
        run(str(tmp_path / "large"), tmp_path / "out", method=method, **own)
    assert not list((tmp_path / "out").rglob("policy")) and not (tmp_path / "out" / "run.json").exists()
    logs = list((tmp_path / "out").rglob("metrics.jsonl"))
    assert not any(word in log.read_text() for log in logs for word in ("nan", "inf"))


class Scores:
    """A reward of every response, by a function of its place in the batch."""

    sha256 = "0" * 64

    def __init__(self, of: Any) -> None:
        self.of = of

    def scores(self, batch: BranchBatch) -> torch.Tensor:
        return torch.tensor([self.of(k) for k in range(len(batch.lengths_B()))], dtype=torch.float32)


@pytest.mark.parametrize("method", ["ppo", "rloo"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_stops_a_run(method: str, bad: float, model: str, tmp_path: Path) -> None:
    how = {"method": method, "reward": Scores(lambda k: bad if k == 1 else 0.0), "max_new_tokens": 2}
    with pytest.raises(UserError, match=r"finite|is (nan|-?inf)"):
        run(model, tmp_path / "out", **how)
    assert not (tmp_path / "out" / "policy").exists()


# --- votes and rewards that say nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ppo", "rloo"])
@pytest.mark.parametrize("reward", [0.0, 7.0, 1e30])
def test_equal_rewards_move_a_policy_by_the_kl_alone(method: str, reward: float, model: str, tmp_path: Path) -> None:
    """Advantages without any spread: rloo's are exactly 0 at the start, ppo's are not blown up."""
    how = {"method": method, "reward": Scores(lambda k: reward), "max_new_tokens": 3, "beta": 0.1}
    found = run(model, tmp_path / "out", **how | QUICK)
    assert_finite(found)
    if method == "rloo":
        assert abs(found.metrics[0]["loss"]) < 1e-6 * max(1.0, reward)


@pytest.mark.parametrize("method", [*BETAS, "sft", "reward"])
def test_a_single_vote_and_nothing_but_ties(method: str, model: str, tmp_path: Path) -> None:
    """They train, or are refused in one line: a tie prefers no response, which sft would learn."""
    own = {"beta": 0.1} if method in BETAS else {"kind": "frozen", "eval_fraction": 0.0} if method == "reward" else {}
    for name, ballots in (("one", [pair(0)]), ("ties", [pair(n, 0.5) for n in range(4)])):
        try:
            assert_finite(train(method, ballots, model=model, out=tmp_path / name, **own, **QUICK))
        except UserError as error:
            assert "\n" not in str(error) and not (tmp_path / name / "policy").exists()


@pytest.mark.parametrize("beta", [1e-30, 1e-8, 1e4])
@pytest.mark.parametrize("method", ["dpo", "ipo"])
def test_a_beta_at_its_limits_trains_or_is_told(method: str, beta: float, model: str, tmp_path: Path) -> None:
    try:
        assert_finite(run(model, tmp_path / "out", method=method, beta=beta, **QUICK))
    except NotFinite as error:
        assert "--beta" in str(error)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "ipo", "reward"])
def test_sixty_four_responses_and_every_vote_over_them(method: str, tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(66)]
    model = tiny_llama(tmp_path / "model", words)
    every = tuple(Vote(a, b, 1.0) for a, b in combinations(range(64), 2))
    ballots = [Ballot("w64", tuple(words[:64]), every), Ballot("w65", ("w1", "w2"), (Vote(0, 1, 1.0),))]
    own = {"kind": "full", "eval_fraction": 0.0} if method == "reward" else {"beta": 0.1}
    found = train(method, ballots, model=model, out=tmp_path / "out", **own, **QUICK)
    assert_finite(found)
    assert len(found.metrics) == QUICK["steps"]


def test_a_vocabulary_of_two(tmp_path: Path) -> None:
    """A language of one word and its end, beside the tokens that every tokenizer here has."""
    model = tiny_llama(tmp_path / "model", ["yes"])
    ballots = [Ballot("yes", ("yes", "yes yes"), (Vote(0, 1, 1.0),))]
    for method in ("dpo", "ipo"):
        assert_finite(train(method, ballots, model=model, beta=0.1, out=tmp_path / method, **QUICK))
    how = {"reward": Scores(float), "beta": 0.1, "max_new_tokens": 2, "rollouts": 2}
    assert_finite(train("rloo", ballots, model=model, out=tmp_path / "rloo", **how, **QUICK))


def test_responses_that_fill_the_context_to_its_last_token(model: str, tmp_path: Path) -> None:
    """The model reads 128 tokens, prompt and end among them: they are trained on; more are refused, or shortened."""
    exact, more = ([Ballot("w1", (" ".join(["w2"] * n), "w3"), (Vote(0, 1, 1.0),))] for n in (126, 127))
    how = {"model": model, "beta": 0.1, **QUICK}
    assert_finite(train("dpo", exact, out=tmp_path / "exact", **how))
    for method, own in (("dpo", how), ("reward", how | {"beta": None, "kind": "full", "eval_fraction": 0.0})):
        with pytest.raises(UserError, match="has 129 tokens and the model reads 128; give --max-length 128 or less"):
            train(method, more, out=tmp_path / "more", **own)
    found = train("dpo", more, out=tmp_path / "cut", max_length=128, **how)
    assert_finite(found)
    assert sum(found.record["data"]["shortened"].values()) == 1
    with pytest.raises(UserError, match="reads"):
        run(model, tmp_path / "out", method="rloo", kind="frozen", max_new_tokens=127)
