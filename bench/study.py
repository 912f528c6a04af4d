"""What does a study of several runs take, beside the same runs one by one?

    python -m bench.study

One `preftune compare` trains dpo and ipo at four β for an epoch each; then, or before, `preftune train` trains the same
eight policies, each in a process of its own that finds an empty store. Both sides train on the same ballots with the
same settings, write the same policies, and hold nothing out: there is no evaluation on either side. What counts is wall
time from the start of a process to its end, so that loading the model, computing reference log-probs and writing
policies are in it. Half of the single runs come before the study and half after it: a machine that drifts drifts on
both sides. The losses of every run must be the same on both sides.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import machine
from bench.inputs import default_model, training_ballots
from preftune.data.reading import write_ballots
from preftune.evidence.results import read_metrics

METHODS = ("dpo", "ipo")
BETAS = (0.05, 0.1, 0.2, 0.5)
MODES = {"full": 0, "lora": 16}
GOALS = {"full": 0.85, "lora": 0.75}
SEED = 0
TOLERANCE = 1e-4  # between the losses of the two sides


def timed(arguments: Sequence[str], cache: Path) -> float:
    """Seconds that one `preftune` command takes with an empty store. Stops the benchmark when it fails."""
    command = [sys.executable, "-c", "from preftune.cli import main; main()", *arguments]
    quiet = {"HF_HUB_OFFLINE": "1", "PREFTUNE_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **quiet}, cwd=machine.ROOT, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"preftune {' '.join(arguments)} failed")
    return time.perf_counter() - start


def flags(given: argparse.Namespace, data: Path, rank: int) -> list[str]:
    """What both sides are told."""
    values = {"model": given.model, "data": data, "batch-size": given.batch_size, "max-length": 1024, "epochs": 1}
    values |= {"precision": given.precision} | ({"lora": rank} if rank else {})
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def study(folder: Path, shared: Sequence[str]) -> float:
    """Seconds of the study: all methods and β, one seed, nothing held out, no samples."""
    own = ["--methods", ",".join(METHODS), "--betas", ",".join(map(str, BETAS)), "--seeds", str(SEED)]
    own += ["--eval-fraction", "0", "--samples", "0", "--checkpoints", "1"]
    return timed(["compare", *shared, *own, "--out", str(folder / "study")], folder / "cache-study")


def single(folder: Path, shared: Sequence[str], method: str, beta: float) -> float:
    """Seconds of one run by itself."""
    name = f"{method}-{beta}"
    own = ["--beta", str(beta), "--seed", str(SEED), "--out", str(folder / name)]
    return timed(["train", method, *shared, *own], folder / f"cache-{name}")


def largest_difference(folder: Path) -> float:
    """Of the losses of the same step of the same run on both sides. Stops the benchmark when they are not alike."""
    largest = 0.0
    for method in METHODS:
        for beta in BETAS:
            logs = (folder / f"{method}-{beta}", folder / "study" / "runs" / f"{method}-beta{beta:g}-seed{SEED}")
            a, b = ([row["loss"] for row in read_metrics(log / "metrics.jsonl")] for log in logs)
            largest = max(largest, *(abs(x - y) for x, y in zip(a, b, strict=True)))
    if largest > TOLERANCE:
        sys.exit(f"not equal work: losses differ by {largest}")
    return largest


def measure(given: argparse.Namespace, rank: int) -> dict[str, Any]:
    """Times of both sides, with all weights or an adapter of a rank in training."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "ballots.jsonl"
        write_ballots(training_ballots(given.data, given.ballots, SEED), data)
        shared = flags(given, data, rank)
        runs = [(method, beta) for beta in BETAS for method in METHODS]
        half = len(runs) // 2
        singles = [single(folder, shared, *run) for run in runs[:half]]
        together = study(folder, shared)
        singles += [single(folder, shared, *run) for run in runs[half:]]
        difference = largest_difference(folder)
    ratio = together / sum(singles)
    return {"study_seconds": together, "single_seconds": singles, "ratio": ratio, "largest_loss_difference": difference}


def table(record: Mapping[str, Any]) -> None:
    """Print what was measured."""
    rows = [
        [
            mode,
            f"{r['study_seconds']:.0f}",
            f"{sum(r['single_seconds']):.0f}",
            f"{r['ratio']:.2f}",
            f"{GOALS[mode]:.2f}",
        ]
        for mode, r in record["modes"].items()
    ]
    work = record["work"]
    title = (
        f"{len(METHODS) * len(BETAS)} runs of an epoch of {work['ballots']} ballots, {work['precision']}, in seconds"
    )
    machine.show(title, ["weights", "study", "single runs", "ratio", "goal, at most"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's folder (default: the model of `preftune demo`)")
    parser.add_argument("--data", default=str(machine.DATA), help="preference file")
    parser.add_argument("--ballots", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.model = given.model or default_model()
    work = {"methods": METHODS, "betas": BETAS, "ballots": given.ballots, "batch_size": given.batch_size}
    work |= {"precision": given.precision}
    record = {"machine": machine.describe_machine(), "model": Path(given.model).name, "data": Path(given.data).name}
    modes: dict[str, Any] = {}
    record |= {"work": work, "modes": modes}
    for mode in given.modes:
        modes[mode] = measure(given, MODES[mode])
        machine.write_results("study", record, given.out)  # as it goes
    table(record)


if __name__ == "__main__":
    main()
