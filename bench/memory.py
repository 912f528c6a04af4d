"""Peak memory of training beside TRL's trainers: the same pairs, token ids, weights and steps.

    python -m bench.memory

Every configuration is a process of its own that trains for a few steps; its peak is the largest resident set that the
system has seen (on a GPU, the largest allocation). It includes the interpreter and its libraries, and loading. Both run
all pairs of a step in one forward pass, and then less at a time: we 1,024 tokens, with plain and with compiled blocks,
TRL one pair, which is its fastest on a CPU. A process that the system ends for want of memory is in the table as that.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.contestants import arguments
from bench.inputs import default_model
from bench.machine import WorkerEnded, describe_machine, named, need, show, workers, write_results
from bench.throughput import MODULE, flags


def peak(given: argparse.Namespace, lora: int, side: list[str]) -> float | None:
    """GiB after `given.steps` steps of DPO; None if it did not get there."""
    try:
        with workers(MODULE, {"worker": [*flags(given, "dpo", lora, given.steps), *side]}) as running:
            running["worker"].ask()
            return max(running["worker"].ask()["peak_gib"] for _ in range(given.steps))
    except WorkerEnded as ended:
        print(ended, file=sys.stderr)
        return None


def measure(given: argparse.Namespace, lora: int) -> dict[str, Any]:
    """Our peak and TRL's, all pairs of a step at once and fewer at a time."""
    sides = {
        "ours": ["--side", "ours", "--micro-tokens", "4096"],
        "ours, 1,024 tokens": ["--side", "ours", "--micro-tokens", "1024"],
        "the same, compiled": ["--side", "ours", "--micro-tokens", "1024", "--compile"],
        f"TRL, {given.batch_size} pairs": ["--side", "trl", "--peer-batch", str(given.batch_size)],
        "TRL, 1 pair": ["--side", "trl", "--peer-batch", "1"],
    }
    found: dict[str, float | None] = {}
    for name, side in sides.items():
        found[name] = peak(given, lora, side)
        print(f"LoRA {lora}, {name}: {_words(found[name])}", file=sys.stderr)
    return {"lora": lora, "peak_gib": found}


def _words(peak_gib: float | None) -> str:
    return "no memory left" if peak_gib is None else f"{peak_gib:.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    need("trl")
    given.model = given.model or default_model()
    records: list[dict[str, Any]] = []
    result = {"machine": describe_machine(given.device), "peaks": records}
    for lora in given.lora:
        records.append(measure(given, lora))
        write_results("memory", result, given.out)
    rows = [[named("DPO", record["lora"]), *map(_words, record["peak_gib"].values())] for record in records]
    title = f"peak memory, {given.batch_size} pairs a step, {given.precision}"
    show(title, ["", *records[0]["peak_gib"]], rows)


if __name__ == "__main__":
    main()
