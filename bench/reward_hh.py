"""How good is a reward model on real human preferences, beside what costs nothing?

    python bench/reward_hh.py --model MODEL --data helpful-base.test.jsonl.gz harmless-base.test.jsonl.gz

Fits a reward model to 80% of the prompts of each file and prints accuracy and log-loss on the votes of the other 20%,
beside TF-IDF and length fitted to the same votes. Nothing is tuned on the held-out part. The JSON has all of it.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from preftune import train
from preftune.data.reading import read_ballots
from preftune.preference.rewards import quality_table

HELD_OUT = 0.2


def measure(model: str, data: Path, kind: str, max_length: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The record of one reward model, without the place of its files."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            "reward",
            read_ballots(data),
            model=model,
            out=Path(folder) / "run",
            kind=kind,
            eval_fraction=HELD_OUT,
            max_length=max_length,
            seed=seed,
            **options,
        )
    record = {**run.record, "model": {**run.record["model"], "name": Path(model).name}}
    record["data"] = {**record["data"], "source": data.name}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="local folder, GGUF file or hub name")
    parser.add_argument("--data", required=True, nargs="+", type=Path, help="preference files")
    parser.add_argument("--kind", default="frozen", help="frozen, lora or full (default: frozen)")
    parser.add_argument("--lora", type=int, default=0, help="rank of the adapter")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "reward_hh.json")
    given = parser.parse_args()
    records = []
    for data in given.data:
        options = {"lora": given.lora} if given.lora else {}
        records.append(measure(given.model, data, given.kind, given.max_length, given.seed, options))
        print(f"{data.name}, {given.kind}, {records[-1]['model']['name']}\n{quality_table(records[-1]['reward'])}\n")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
