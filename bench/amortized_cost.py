"""What does a learned target cost? Steps of amortized IPO beside steps of IPO, and fitting v beside the whole run.

    python -m bench.amortized_cost

Both train on the ballots of the embedded experiment from the same weights, in turns, in one process. Getting ready is
timed with an empty store. For IPO it is the reference log-probs. For amortized IPO it is the same log-probs with the
features that v reads taken along, and fitting v: a Bradley–Terry score, its layer and penalty chosen by
cross-validation. A run is getting ready and an epoch of steps; its evaluation is left out.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.contestants import timed_step
from bench.machine import clock, describe_machine, median_ratio, show, write_results
from preftune.data.tokens import TokenSet, tokenize
from preftune.demo.experiment import find_size, prepare_demo
from preftune.model.policy import start_policy
from preftune.model.workbench import Workbench, open_workbench
from preftune.preference import Fitting, set_targets
from preftune.training.arms import Recipe, make_recipe
from preftune.training.preparing import Training, prepare_targets, prepare_training
from preftune.training.run import loss_of_votes, reference_values

BETA = 0.1
SEED = 0
NAMES = ("ipo", "amortized-ipo")


def empty_store(folder: Path) -> AbstractContextManager[Any]:
    """Nothing that was computed before is found."""
    return patch.dict(os.environ, PREFTUNE_CACHE=str(folder))


def get_ready_for_ipo(model: str, tokens: TokenSet, recipe: Recipe, folder: Path) -> tuple[Training, float]:
    """What IPO trains on, and the seconds of its reference log-probs."""
    with empty_store(folder):
        bench = open_workbench(model, precision=recipe.settings.precision)
        start = clock()
        training = prepare_training(recipe, tokens, bench.layout, SEED)
        reference_values(bench, training)
        return training, clock() - start


def get_ready_for_amortized_ipo(
    model: str, tokens: TokenSet, recipe: Recipe, folder: Path
) -> tuple[Training, float, Workbench, dict[bytes, float]]:
    """What amortized IPO trains on, the seconds until it can, and what both share."""
    with empty_store(folder):
        bench = open_workbench(model, precision=recipe.settings.precision)
        start = clock()
        targets = set_targets(Fitting(bench, tokens, (), recipe, "frozen", SEED, folder / "v"))
        training = prepare_targets(recipe, targets, bench.layout, SEED)
        reference = reference_values(bench, training).logprobs
        return training, clock() - start, bench, reference


def stepper(bench: Workbench, training: Training, reference: dict[bytes, float]) -> Callable[[int], float]:
    """A policy of its own; the function does the step of that number and returns its seconds."""
    settings = training.recipe.settings
    policy = start_policy(bench.base, lora=settings.lora, seed=SEED)
    parameters = list(policy.trainable().values())
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    loss = partial(loss_of_votes, policy, bench, training, reference, BETA)
    return lambda number: timed_step(training.plan[number], loss, optimizer, parameters, "cpu")[0]


def measure(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both sides ready, and then in turns."""
    experiment = prepare_demo(work, find_size(given.size))
    names = ("max_length", "lr", "batch_size", "precision")
    options = {name: experiment.shared[name] for name in names} | {"lora": given.lora}
    recipe, told = make_recipe("ipo", options), make_recipe("amortized-ipo", options)
    model = str(experiment.model)
    form = open_workbench(model).base.form
    tokens = tokenize(experiment.ballots, form, max_length=recipe.settings.max_length)
    ipo, ipo_ready = get_ready_for_ipo(model, tokens, recipe, work / "ipo")
    amortized, ready, bench, reference = get_ready_for_amortized_ipo(model, tokens, told, work / "amortized")
    if [step.micro_batches for step in ipo.plan] != [step.micro_batches for step in amortized.plan]:
        raise SystemExit("not equal work: the two plans differ")
    steps = {name: stepper(bench, t, reference) for name, t in zip(NAMES, (ipo, amortized), strict=True)}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(given.turns + 1):
        for name in NAMES if turn % 2 else reversed(NAMES):
            seconds[name].append(steps[name](turn))
    timed = {name: values[1:] for name, values in seconds.items()}
    run = ready + len(amortized.plan) * statistics.median(timed["amortized-ipo"])
    return {
        "settings": {"lora": given.lora, "batch_size": options["batch_size"], "steps": len(amortized.plan)},
        "ballots": len(tokens.ballots),
        "ready_seconds": {"ipo": ipo_ready, "amortized-ipo": ready},
        "step_seconds": timed,
        "step_ratio": median_ratio(timed["amortized-ipo"], timed["ipo"]),
        "share_of_v_in_run": max(0.0, ready - ipo_ready) / run,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--lora", type=int, default=0, help="rank; 0 is full fine-tuning, as in the experiment")
    parser.add_argument("--size", default="default", help="of the embedded experiment")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = measure(given, Path(folder))
    ratio, ready = record["step_ratio"], record["ready_seconds"]
    rows = [[name, f"{ready[name]:.1f}", f"{statistics.median(record['step_seconds'][name]):.2f}"] for name in NAMES]
    title = (
        f"a step of amortized IPO takes {ratio['median']:.3f} of one of IPO ({ratio['min']:.2f}–{ratio['max']:.2f}); "
        f"v is {record['share_of_v_in_run']:.1%} of the run"
    )
    show(title, ["", "s until the first step", "s a step"], rows)
    write_results("amortized_cost", {"machine": describe_machine(), **record}, given.out)


if __name__ == "__main__":
    main()
