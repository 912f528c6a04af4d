"""What forward passes of fewer tokens save in memory, and what they cost in time.

    python -m bench.passes

Every budget (`--micro-tokens`) trains the same few steps in a process of its own, whose largest resident set is its
peak. The time of a step is compared in one process: every turn does the same step at every budget, one after the other,
and what counts is the ratio to the largest one. It is taken of the clock and of the processor, which other jobs on the
machine disturb less; of the latter with OMP_NUM_THREADS=1, since threads that wait for each other count too.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.contestants import Ours, arguments
from bench.inputs import default_model
from bench.machine import describe_machine, median_ratio, named, show, spread, workers, write_results
from bench.throughput import MODULE, flags
from preftune.training.loop import plan_steps

COOL = 1  # turns that are not timed


def peak(given: argparse.Namespace, budget: int) -> float:
    """GiB after `given.steps` steps."""
    side = ["--side", "ours", "--micro-tokens", str(budget)]
    with workers(MODULE, {"worker": [*flags(given, given.method, given.lora, given.steps), *side]}) as running:
        running["worker"].ask()
        found = max(float(running["worker"].ask()["peak_gib"]) for _ in range(given.steps))
    print(f"{budget} tokens: {found:.2f} GiB", file=sys.stderr)
    return found


def times(given: argparse.Namespace, turns: int) -> tuple[dict[str, dict[int, list[float]]], dict[int, float]]:
    """Seconds of the same steps at every budget by either clock, and the passes that a step takes at each."""
    own = {"steps": turns + COOL, "micro_tokens": max(given.budgets), "batch_size": given.timed_batch_size}
    ours = Ours(argparse.Namespace(**vars(given) | own))
    trainings = {budget: _cut(ours, budget) for budget in given.budgets}
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[int, list[float]]] = {name: {budget: [] for budget in given.budgets} for name in clocks}
    for turn in range(turns + COOL):
        order = given.budgets if turn % 2 else given.budgets[::-1]
        for budget in order:
            ours.training = trainings[budget]
            gc.collect()
            start = {name: clock() for name, clock in clocks.items()}
            ours.step(turn)
            for name, clock in clocks.items():
                seconds[name][budget].append(clock() - start[name])
        latest = ", ".join(f"{b}: {s[-1]:.2f} s" for b, s in seconds["processor"].items())
        print(f"turn {turn}, processor: {latest}", file=sys.stderr)
    passes = {
        budget: sum(len(step.micro_batches) for step in training.plan) / len(training.plan)
        for budget, training in trainings.items()
    }
    return {name: {b: found[COOL:] for b, found in own.items()} for name, own in seconds.items()}, passes


def _cut(ours: Ours, budget: int) -> Any:
    """The same steps in micro-batches of another size."""
    training, settings = ours.training, ours.recipe.settings
    plan = plan_steps(
        [ours.bench.layout.size(ballot) for ballot in training.ballots],
        [training.method.mass(ballot) for ballot in training.ballots],
        batch_size=settings.batch_size,
        micro_tokens=budget,
        seed=0,
        steps=settings.steps,
    )
    return replace(training, plan=tuple(plan))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Peaks and times of one method."""
    peaks = {budget: peak(given, budget) for budget in given.budgets}
    seconds, passes = times(given, given.turns)
    names = ("method", "lora", "batch_size", "timed_batch_size", "max_length", "precision")
    return {name: getattr(given, name) for name in names} | {
        "data": given.data.name,
        "budgets": {
            budget: {
                "peak_gib": peaks[budget],
                "passes": passes[budget],
                "seconds": {name: own[budget] for name, own in seconds.items()},
                "ratio": {name: median_ratio(own[budget], own[max(given.budgets)]) for name, own in seconds.items()},
            }
            for budget in given.budgets
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=("dpo", "ipo", "reward"), default="dpo")
    parser.add_argument("--lora", type=int, default=16)
    parser.add_argument("--budgets", nargs="+", type=int, default=[4096, 2048, 1024, 512], help="tokens a pass")
    parser.add_argument("--timed-batch-size", type=int, default=4, help="pairs of a step whose time is taken")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.model = given.model or default_model()
    with tempfile.TemporaryDirectory() as store:
        os.environ["PREFTUNE_CACHE"] = store
        record = measure(given)
    rows = [
        [str(budget), f"{row['peak_gib']:.2f}", f"{row['passes']:.1f}", *map(spread, row["ratio"].values())]
        for budget, row in record["budgets"].items()
    ]
    title = f"{named(given.method, given.lora)}, {given.data.name}, at most {given.max_length} tokens"
    show(title, ["tokens a pass", "peak, GiB", "passes a step", "step / the largest's: clock", "processor"], rows)
    write_results("passes", {"machine": describe_machine(given.device), **record}, given.out)


if __name__ == "__main__":
    main()
