"""Pairs a second of training beside TRL's trainers, and the share of what the machine's arithmetic allows.

    python -m bench.throughput

Ours and TRL are processes that take turns, a step of 8 pairs each on the same token ids; ratios are medians over the
turns. TRL's best forward batch is looked for first, with the first method and rank (`--peer-batches`). Losses of the
first step, at the same weights away from the reference, must agree. The arithmetic limit of a step is 6·(trunk
parameters·unique tokens + head parameters·predicted tokens) floating-point operations, 4 instead of 6 where the weights
are frozen under LoRA, at the rate of a large matrix product measured between the turns.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contestants import BETA, arguments
from bench.inputs import default_model
from bench.machine import describe_machine, gemm_rate, median_ratio, named, need, show, spread, workers, write_results

TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}  # relative; bf16 rounds at 4e-3
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
MODULE = "bench.contestants"


def flags(given: argparse.Namespace, method: str, lora: int, steps: int) -> list[str]:
    """The command line of either worker."""
    shared = ["model", "data", "batch_size", "max_length", "micro_tokens", "precision", "device", "seed"]
    pairs = [(f"--{name.replace('_', '-')}", getattr(given, name)) for name in shared]
    chosen = [("--method", method), ("--lora", lora), ("--steps", steps)]
    switches = [f"--{name.replace('_', '-')}" for name in ("compile", "peer_compile") if getattr(given, name)]
    return switches + [str(part) for flag, value in pairs + chosen if value is not None for part in (flag, value)]


def best_peer(given: argparse.Namespace, method: str, lora: int) -> tuple[int, dict[int, dict[str, float]]]:
    """The forward batch at which TRL's second step is fastest, and what was measured of each; one needs no search."""
    found: dict[int, dict[str, float]] = {}
    if len(given.peer_batches) == 1:
        return given.peer_batches[0], found
    for size in given.peer_batches:
        command = [*flags(given, method, lora, 2), "--side", "trl", "--peer-batch", str(size)]
        with workers(MODULE, {"trl": command}) as running:
            running["trl"].ask()
            found[size] = [running["trl"].ask() for _ in range(2)][-1]
        print(f"TRL, {method}, {size} pairs a pass: {found[size]['seconds']:.1f} s a step", file=sys.stderr)
    return min(found, key=lambda size: found[size]["seconds"]), found


def compare(given: argparse.Namespace, method: str, lora: int, peer_batch: int) -> dict[str, Any]:
    """Ours and TRL in turn: a first step that is checked and not timed, then `given.turns` that are."""
    command = flags(given, method, lora, given.turns + 1)
    sides = {"ours": ["--side", "ours"], "trl": ["--side", "trl", "--peer-batch", str(peer_batch)]}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    rates = []
    with workers(MODULE, {name: command + given_side for name, given_side in sides.items()}) as running:
        reference = {name: running[name].ask()["reference_seconds"] for name in sides}
        for turn in range(given.turns + 1):
            rates.append(gemm_rate(DTYPES[given.precision], given.device))
            for name in sides:
                turns[name].append(running[name].ask())
            print(f"{method}, LoRA {lora}, turn {turn}: " + _line(turns), file=sys.stderr)
    agree = _agreement(method, turns["ours"][0]["loss"], turns["trl"][0]["loss"], TOLERANCE[given.precision])
    timed = {name: rows[1:] for name, rows in turns.items()}
    seconds = {name: [row["seconds"] for row in rows] for name, rows in timed.items()}
    shares = [
        limit_seconds(row, lora, rate) / row["seconds"] for row, rate in zip(timed["ours"], rates[1:], strict=True)
    ]
    return {
        "method": method,
        "lora": lora,
        "precision": given.precision,
        "compiled": {"ours": given.compile, "trl": given.peer_compile},
        "peer_batch": peer_batch,
        "first_loss": agree,
        "pairs_per_second": {name: given.batch_size / statistics.median(value) for name, value in seconds.items()},
        "ratio": median_ratio(seconds["trl"], seconds["ours"]),
        "share_of_limit": {"median": statistics.median(shares), "min": min(shares), "max": max(shares)},
        "gemm_gflops": [round(rate / 1e9, 1) for rate in rates],
        "reference_seconds": reference,
        "turns": timed,
    }


def _line(turns: dict[str, list[dict[str, float]]]) -> str:
    return ", ".join(f"{name} {rows[-1]['seconds']:.2f} s, loss {rows[-1]['loss']:.5f}" for name, rows in turns.items())


def limit_seconds(row: dict[str, float], lora: int, rate: float) -> float:
    """Seconds that the step's products take at `rate` FLOP/s."""
    operations = (4 if lora else 6) * (row["trunk"] * row["unique"] + row["head"] * row["predicted"])
    return operations / rate


def _agreement(method: str, ours: float, peer: float, tolerance: float) -> dict[str, float]:
    """Both first losses on one scale. TRL's IPO regresses h/β on 1/(2β): its loss is ours over β²."""
    ours = ours / BETA**2 if method == "ipo" else ours
    if abs(ours - peer) > tolerance * max(1.0, abs(peer)):
        sys.exit(f"{method}: the losses of the first step differ ({ours} and {peer}): not the same work")
    return {"ours": ours, "trl": peer, "difference": abs(ours - peer)}


def rows_of(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table's lines."""
    return [
        [
            named(record["method"], record["lora"]),
            f"{record['pairs_per_second']['ours']:.2f}",
            f"{record['pairs_per_second']['trl']:.2f}",
            spread(record["ratio"]),
            f"{record['share_of_limit']['median']:.0%}",
            f"{record['first_loss']['difference']:.0e}",
        ]
        for record in records
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["dpo", "ipo", "reward"])
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peer-batches", nargs="+", type=int, default=[1, 8], help="pairs in TRL's pass")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    need("trl")
    given.model = given.model or default_model()
    records: list[dict[str, Any]] = []
    result: dict[str, Any] = {"machine": describe_machine(given.device), "comparisons": records}
    peer_batch, result["peer_search"] = best_peer(given, given.methods[0], given.lora[0])
    for lora in given.lora:
        for method in given.methods:
            if method != "reward" or not lora:
                records.append(compare(given, method, lora, peer_batch))
                write_results("throughput", result, given.out)  # as it goes: the whole takes half an hour on a laptop
    title = f"{given.batch_size} pairs a step, {given.precision}; pairs/s, ratio: median (smallest–largest)"
    show(title, ["", "ours", "TRL", "ratio", "share of limit", "loss differs by"], rows_of(records))


if __name__ == "__main__":
    main()
