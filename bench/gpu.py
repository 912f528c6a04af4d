"""Training on a GPU beside TRL: Llama shapes of about 1.2 and 3 billion random weights, real HH pairs, bf16.

    python -m bench.gpu

Steps, turns and the check of the first losses are `bench.throughput`'s; TRL runs at the number of pairs a pass at which
it is fastest, looked for on each shape. Beside pairs a second the table has our unique tokens a second, the share of
what the device's measured matrix rate allows, and the largest allocation of either side. The arithmetic of a step does
not depend on what the weights are; the tokens are those of SmolLM2's tokenizer.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.contestants import arguments
from bench.inputs import default_model
from bench.machine import describe_machine, named, need, show, write_results
from bench.throughput import best_peer, compare, rows_of
from preftune.model.stores import cache_folder

SHAPES: Mapping[str, Mapping[str, int]] = {
    "1.2B": {"hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 32, "intermediate_size": 8192},
    "3B": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "intermediate_size": 8192},
}
KEY_HEADS = 8


def random_model(name: str) -> str:
    """The folder of a Llama of that shape, its weights drawn once; about 2 bytes a weight on disk."""
    folder = cache_folder() / "bench" / f"llama-{name}"
    if not (folder / "config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(default_model())
        config = LlamaConfig(
            **SHAPES[name],
            num_key_value_heads=KEY_HEADS,
            vocab_size=len(tokenizer),
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        )
        torch.manual_seed(0)
        print(f"drawing the weights of {folder}", file=sys.stderr)
        tokenizer.save_pretrained(folder)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)  # the configuration comes last
    return str(folder)


def measure(given: argparse.Namespace, shape: str, lora: int) -> dict[str, Any]:
    """DPO on one shape: TRL's best number of pairs a pass, then both sides in turn."""
    given.model = random_model(shape)
    peer_batch, search = best_peer(given, "dpo", lora)
    record = compare(given, "dpo", lora, peer_batch)
    ours = record["turns"]["ours"]
    return record | {
        "shape": shape,
        "peer_search": search,
        "unique_tokens_per_second": statistics.median(row["unique"] / row["seconds"] for row in ours),
        "peak_gib": {name: max(row["peak_gib"] for row in rows) for name, rows in record["turns"].items()},
    }


def line(record: dict[str, Any]) -> list[str]:
    """A record in the table."""
    peak = record["peak_gib"]
    more = [f"{record['unique_tokens_per_second']:,.0f}", f"{peak['ours']:.1f} / {peak['trl']:.1f}"]
    return [named(record["shape"], record["lora"]), *rows_of([record])[0][1:], *more]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(device="cuda", precision="bf16")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--peer-batches", nargs="+", type=int, default=[1, 2, 4, 8], help="pairs in TRL's pass")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    need("trl")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    records: list[dict[str, Any]] = []
    result = {"machine": describe_machine(given.device), "comparisons": records}
    for shape in given.shapes:
        for lora in given.lora:
            records.append(measure(given, shape, lora))
            write_results("gpu", result, given.out)
    title = f"DPO, {given.batch_size} pairs a step, {given.precision}; ratio: median (smallest–largest)"
    columns = [
        "",
        "pairs/s",
        "TRL's",
        "ratio",
        "share of limit",
        "loss differs by",
        "our tokens/s",
        "peak GiB: ours / TRL's",
    ]
    show(title, columns, [line(record) for record in records])


if __name__ == "__main__":
    main()
