"""Short runs of a tiny model, watched, cut short and compared."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preftune import Ballot, Run, Vote, train
from preftune.training import session

STEPS = 12


def ballots_of_run() -> list[Ballot]:
    """Ten of three responses each."""
    return [
        Ballot(f"w{n} w1", (f"w{2 * n % 7} w{n + 3}", f"w{n + 5}", "w2 w3"), (Vote(0, 1, n / 10), Vote(2, 0, 1)))
        for n in range(10)
    ]


def run(model: str, out: Path, *, method: str = "ipo", **options: Any) -> Run:
    """Three epochs over ten ballots in batches of three, each of several micro-batches."""
    defaults = {"beta": 0.3, "batch_size": 3, "micro_tokens": 20, "steps": STEPS, "lr": 5e-3, "device": "cpu"}
    return train(method, ballots_of_run(), model=model, out=out, **defaults | options)


def metrics_of(folder: Path) -> list[Mapping[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def assert_equal_runs(found: Path, wanted: Path) -> None:
    assert metrics_of(found) == metrics_of(wanted)
    assert [row["step"] for row in metrics_of(found)] == list(range(1, len(metrics_of(found)) + 1))
    weights, expected = (load_file(folder / "policy" / "model.safetensors") for folder in (found, wanted))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert not (found / "state").exists()


class PowerCut(Exception):
    """What the tests below stop a run with."""


def watch_steps(
    patch: pytest.MonkeyPatch,
    *,
    before: Callable[[int], None] = lambda step: None,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Call `before` and `after` with the number of each step, around what the run does when the step is made."""
    real = session.run_loop

    def loop(plan: Any, loss_of: Any, *, after_step: Any, **rest: Any) -> None:
        def watched(step: Any, metrics: Mapping[str, float]) -> None:
            before(step.number)
            after_step(step, metrics)
            after(step.number)

        real(plan, loss_of, after_step=watched, **rest)

    patch.setattr(session, "run_loop", loop)


def steps_in(folder: Path) -> int:
    """How many whole lines of metrics there are so far."""
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
