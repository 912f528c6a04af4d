"""Peak memory of training beside TRL's trainers: the same pairs, token ids, weights and steps.

    python -m bench.memory

Every configuration is a process of its own that trains for a few steps; its peak is the largest resident set that the
system has seen (on a GPU, the largest allocation). It includes the interpreter and its libraries, and loading. TRL runs
all pairs of a step in one forward pass and, as in `bench.throughput`, one pair a pass, which holds the least.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.contestants import arguments
from bench.inputs import default_model
from bench.machine import describe_machine, need, show, workers, write_results
from bench.throughput import MODULE, flags


def peak(given: argparse.Namespace, lora: int, side: list[str]) -> float:
    """GiB after `given.steps` steps of DPO."""
    with workers(MODULE, {"worker": [*flags(given, "dpo", lora, given.steps), *side]}) as running:
        running["worker"].ask()
        found = max(running["worker"].ask()["peak_gib"] for _ in range(given.steps))
    print(f"LoRA {lora}, {' '.join(side)}: {found:.2f} GiB", file=sys.stderr)
    return found


def measure(given: argparse.Namespace, lora: int) -> dict[str, Any]:
    """Our peak and TRL's, all pairs of a step at once and one at a time."""
    sides = {"ours": ["--side", "ours"]}
    for size in (given.batch_size, 1):
        sides[f"trl, {size} a pass"] = ["--side", "trl", "--peer-batch", str(size)]
    return {"lora": lora, "peak_gib": {name: peak(given, lora, side) for name, side in sides.items()}}


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
    records = [measure(given, lora) for lora in given.lora]
    names = list(records[0]["peak_gib"])
    rows = []
    for record in records:
        peaks = record["peak_gib"]
        ratios = [f"{peaks[name]:.2f} ({peaks['ours'] / peaks[name]:.2f} ×)" for name in names[1:]]
        rows.append([f"DPO, LoRA {record['lora']}" if record["lora"] else "DPO", f"{peaks['ours']:.2f}", *ratios])
    title = f"peak GiB, {given.batch_size} pairs a step, {given.precision}; in brackets ours as a share"
    show(title, ["", *names], rows)
    write_results("memory", {"machine": describe_machine(given.device), "peaks": records}, given.out)


if __name__ == "__main__":
    main()
