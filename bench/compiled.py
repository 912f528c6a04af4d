"""A step of training with compiled blocks beside a step with plain ones, and what compiling takes.

    python -m bench.compiled

One process, one policy: every turn does the same step of DPO both ways, on the same pairs. The first compiled step,
with no compiled code kept from earlier processes, is timed apart.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.contestants import Ours, arguments
from bench.inputs import default_model
from bench.machine import describe_machine, median_ratio, named, show, spread, write_results
from preftune.model.blocks import compile_blocks, plain_blocks


def measure(given: argparse.Namespace, lora: int) -> dict[str, Any]:
    """Seconds of the same steps both ways."""
    told = {"method": "dpo", "lora": lora, "steps": given.turns + 1}
    ours = Ours(argparse.Namespace(**vars(given) | told))
    model = ours.policy.model
    seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
    for turn in range(given.turns + 1):
        for way, switch in (("plain", plain_blocks), ("compiled", compile_blocks)):
            switch(model)
            seconds[way].append(ours.step(turn)["seconds"])
        latest = ", ".join(f"{way} {values[-1]:.2f} s" for way, values in seconds.items())
        print(f"{named('dpo', lora)}, turn {turn}: {latest}", file=sys.stderr)
    first = {way: values.pop(0) for way, values in seconds.items()}
    ratio = median_ratio(seconds["compiled"], seconds["plain"])
    return {"lora": lora, "first_step_seconds": first, "seconds": seconds, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.model = given.model or default_model()
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["PREFTUNE_CACHE"] = empty
        records = [measure(given, lora) for lora in given.lora]
    rows = []
    for record in records:
        first = record["first_step_seconds"]
        times = [spread(record["ratio"]), f"{first['compiled']:.0f} / {first['plain']:.0f}"]
        rows.append([named("dpo", record["lora"]), *times])
    title = f"a compiled step's time over a plain one's, {given.precision}, {given.turns} turns"
    show(title, ["", "ratio", "first step, s: compiled / plain"], rows)
    result = {"machine": describe_machine(given.device), "precision": given.precision, "comparisons": records}
    write_results("compiled", result, given.out)


if __name__ == "__main__":
    main()
