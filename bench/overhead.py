"""What a training run does outside the model and the optimiser, as a share of its time.

    python -m bench.overhead

A real `preftune.train` on pairs of a preference file, with its metrics, log and state. Inside are the forward pass
to log-probs, the backward pass, clipping and the optimiser's step. Everything else from the first step to the last is
overhead: laying out batches, looking up the reference, losses and metrics, logging, the schedule.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

from bench.inputs import default_model, training_ballots
from bench.machine import DATA, clock, describe_machine, named, show, write_results
from preftune import train

INSIDE = (
    "preftune.training.run.response_logprobs",
    "torch.Tensor.backward",
    "torch.nn.utils.clip_grad_norm_",
    "torch.optim.AdamW.step",
)
WHOLE = "preftune.training.run.run_session"


def timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    """The function, its seconds added up under a name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + clock() - start

    return call


def measure(model: str, data: Path, method: str, steps: int, **options: Any) -> dict[str, Any]:
    """Seconds of a run's steps, and of what is inside."""
    spent: dict[str, float] = {}
    ballots = training_ballots(data, (steps + 2) * 8, seed=0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, PREFTUNE_CACHE=folder))
        for name in (*INSIDE, WHOLE):
            target, _, attribute = name.rpartition(".")
            original = getattr(resolve_name(target), attribute)
            stack.enter_context(patch(name, timed(original, spent, name)))
        out = Path(folder) / "run"
        train(method, ballots, model=model, beta=0.1, out=out, batch_size=8, steps=steps, **options)
    inside = sum(spent[name] for name in INSIDE)
    return {"method": method, **options, "seconds": spent, "overhead": 1 - inside / spent[WHOLE]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="local folder or hub name (default: the embedded experiment's)")
    parser.add_argument("--data", type=Path, default=DATA, help="preference file (default: HH helpful-base, test)")
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = given.model or default_model()
    shared = {"precision": given.precision}
    records = [measure(model, given.data, "dpo", given.steps, lora=lora, **shared) for lora in given.lora]
    rows = [
        [
            named(record["method"], record["lora"]),
            f"{record['seconds'][WHOLE] / given.steps:.2f}",
            f"{record['overhead']:.1%}",
        ]
        for record in records
    ]
    show(f"{given.steps} steps of 8 pairs, {given.precision}", ["", "s a step", "outside model and optimiser"], rows)
    write_results("overhead", {"machine": describe_machine(), "runs": records}, given.out)


if __name__ == "__main__":
    main()
