"""Training on a GPU beside TRL: Llama shapes of about 1.2 and 3 billion random weights, real HH pairs, bf16.

    python -m bench.gpu

A process for each side and shape does a few optimiser steps of DPO for each way to run it (ours: attention ballot by
ballot or in one call, tokens a pass, blocks compiled or not; TRL: pairs a pass), one process at a time: the GPU is
theirs. Beside pairs a second the table has our unique tokens a second, the share of what the device's measured matrix
rate allows (as in `bench.throughput`), and the largest allocation of a step. Losses of the first step must agree. The
arithmetic of a step does not depend on what the weights are, so they are drawn on the device and never written; the
tokens are those of SmolLM2's tokenizer. What does not fit into the device's memory is said. Neither side has cuDNN's
attention, which makes a plan for every new length: it would be in TRL's steps too.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.contestants import Ours, arguments, peer_trainer
from bench.inputs import default_model
from bench.machine import (
    Turns,
    clock,
    describe_machine,
    gemm_rate,
    named,
    need,
    peak_memory,
    show,
    workers,
    write_results,
)
from bench.throughput import DTYPES, TOLERANCE, limit_seconds

SHAPES: Mapping[str, Mapping[str, int]] = {
    "1.2B": {"hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 32, "intermediate_size": 8192},
    "3B": {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "intermediate_size": 8192},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "intermediate_size": 128},
}
KEY_HEADS = 8
WARM_UP = 2  # steps that are not timed


def random_base(given: argparse.Namespace) -> Any:
    """A Llama of that shape, its weights drawn on the device: the same for whoever asks."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from preftune.data.tokens import text_format
    from preftune.model.engine import pick_device
    from preftune.model.loading import Base

    tokenizer, place = AutoTokenizer.from_pretrained(given.model), pick_device(given.device)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        **SHAPES[given.shape],
        num_key_value_heads=KEY_HEADS,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        **ends,
    )
    torch.manual_seed(0)
    with torch.device(place):
        model = LlamaForCausalLM(config).eval()
    return Base(model, text_format(tokenizer), given.shape, f"random {given.shape}", place)


# --- the two sides ---------------------------------------------------------------------------------------------------


def ways(given: argparse.Namespace) -> list[dict[str, Any]]:
    """How a side is run, one way after the other."""
    if given.side == "trl":
        return [{"peer_batch": size} for size in given.peer_batches if size <= given.batch_size]
    plain = [(attention, size, False) for size in given.micro for attention in given.attention]
    found = plain if "plain" in given.blocks else []
    if "compiled" in given.blocks:
        found += [("one call", size, True) for size in given.micro]
    return [{"attention": a, "micro_tokens": size, "compile": c} for a, size, c in found]


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """For every way what was measured of each step, or that memory did not suffice."""
    side = {"ours": our_steps, "trl": peer_steps}[given.side]
    for way in ways(given):
        vars(given).update(way)
        try:
            yield way | {"steps": side(given)}
        except torch.OutOfMemoryError:
            yield way | {"steps": [], "out_of_memory": True}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def forget_peak(device: str) -> None:
    """The largest allocation is counted from here on."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def our_steps(given: argparse.Namespace) -> list[dict[str, float]]:
    """Steps of our loop."""
    from preftune.model.attention import use_branch_attention
    from preftune.model.layout import probe_layout
    from preftune.model.policy import Reference
    from preftune.model.stores import Store
    from preftune.model.workbench import Workbench, store_key

    base = random_base(given)
    layout = probe_layout(base.model, given.precision)
    print(f"layout: {layout.name} ({layout.reason})", file=sys.stderr)
    assert use_branch_attention(base.model) and layout.name == "branch"
    if given.attention == "loop":
        layout = replace(layout, attention="by ballot")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), store_key(base, layout, given.precision, base.device))
        ours = Ours(given, Workbench(base, Reference(base), layout, given.precision, store))
        gc.collect()
        forget_peak(given.device)
        rows = []
        for number in range(given.steps):
            rows.append(ours.step(number))
            print(f"ours, {given.attention}, {given.micro_tokens} tokens a pass: {rows[-1]}", file=sys.stderr)
    return rows


def peer_steps(given: argparse.Namespace) -> list[dict[str, float]]:
    """Steps of TRL's trainer. The reference log-probs are there by then."""
    import trl.trainer.dpo_trainer as dpo
    from transformers import TrainerCallback

    dpo.hash_module = lambda model: given.shape  # of all weights, for a cache: minutes, and no part of a step
    model = random_base(given).model
    rows: list[dict[str, float]] = []
    losses: list[float] = []

    class Timed(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            losses.clear()
            self.start = clock(given.device)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds = clock(given.device) - self.start
            rows.append({"seconds": seconds, "loss": sum(losses) / len(losses), "peak_gib": peak_memory(given.device)})
            print(f"TRL, {given.peer_batch} pairs a pass: {rows[-1]}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = peer_trainer(given, folder, model)
        compute = trainer.compute_loss

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

        trainer.compute_loss = compute_loss
        trainer.add_callback(Timed())
        gc.collect()
        forget_peak(given.device)
        trainer.train()
        trainer.accelerator.free_memory()
    return rows


# --- the table -------------------------------------------------------------------------------------------------------


def flags(given: argparse.Namespace, side: str, shape: str, lora: int) -> list[str]:
    """The command line of a worker."""
    names = ["batch_size", "max_length", "precision", "device", "seed", "data", "model"]
    pairs = [(f"--{name.replace('_', '-')}", [getattr(given, name)]) for name in names]
    pairs += [("--side", [side]), ("--shape", [shape]), ("--rank", [lora]), ("--turns", [given.turns])]
    pairs += [("--micro", given.micro), ("--attention", given.attention), ("--peer-batches", given.peer_batches)]
    pairs += [("--blocks", given.blocks)]
    switches = ["--peer-compile"] if given.peer_compile else []
    return switches + [str(part) for flag, values in pairs for part in (flag, *values)]


def measure(given: argparse.Namespace, shape: str, lora: int, result: dict[str, Any]) -> None:
    """Every way of both sides on one shape, added to the result and written as it comes."""
    rate = gemm_rate(DTYPES[given.precision], given.device)
    record: dict[str, Any] = {"shape": shape, "lora": lora, "gemm_gflops": round(rate / 1e9, 1)}
    result["comparisons"].append(record)
    commands = {side: flags(given, side, shape, lora) for side in given.sides}
    with workers("bench.gpu", commands) as running:  # a side takes nothing of the GPU before it is asked
        for side in given.sides:
            record[side] = []
            for _ in range(running[side].ask()["ways"]):
                record[side].append(summary(given, running[side].ask(), lora, rate))
                write_results("gpu", result, given.out)
            running[side].close()  # with all that it holds of the GPU
    first = {side: rows[0]["first_loss"] for side in given.sides if (rows := fitting(record[side]))}
    if len(first) == 2 and abs(first["ours"] - first["trl"]) > TOLERANCE[given.precision] * max(1.0, first["trl"]):
        sys.exit(f"the losses of the first step differ ({first}): not the same work")


def summary(given: argparse.Namespace, way: dict[str, Any], lora: int, rate: float) -> dict[str, Any]:
    """A way, with medians over its timed steps."""
    steps = way["steps"]
    timed = steps[WARM_UP:]
    if not timed:
        return way
    way["first_loss"] = steps[0]["loss"]
    way["peak_gib"] = max(row["peak_gib"] for row in steps)
    # steps differ in length, so all pairs over all seconds
    way["pairs_per_second"] = given.batch_size * len(timed) / sum(row["seconds"] for row in timed)
    if "unique" in timed[0]:
        seconds = sum(row["seconds"] for row in timed)
        way["unique_tokens_per_second"] = sum(row["unique"] for row in timed) / seconds
        shares = [limit_seconds(row, lora, rate) / row["seconds"] for row in timed]
        way["share_of_limit"] = statistics.median(shares)
    return way


def fitting(ways: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that memory sufficed for."""
    return [way for way in ways if "pairs_per_second" in way]


def lines(record: dict[str, Any]) -> list[list[str]]:
    """The table's lines: every way, and how it compares with TRL's fastest."""
    best = max(fitting(record.get("trl", [])), key=lambda way: way["pairs_per_second"], default=None)
    found = []
    for side in ("ours", "trl"):
        for way in record.get(side, []):
            how = (
                f"{way['attention']}, {way['micro_tokens']} tokens" + (", compiled" if way["compile"] else "")
                if side == "ours"
                else f"TRL, {way['peer_batch']} pairs"
            )
            row = [named(record["shape"], record["lora"]), how]
            if "pairs_per_second" not in way:
                found.append([*row, "out of memory", "", "", "", "", ""])
                continue
            share, tokens = way.get("share_of_limit"), way.get("unique_tokens_per_second")
            row += [f"{way['pairs_per_second']:.1f}", f"{way['peak_gib']:.1f}"]
            row += [f"{share:.0%}" if share else "", f"{tokens:,.0f}" if tokens else ""]
            row += [
                f"{way['pairs_per_second'] / best['pairs_per_second']:.2f}" if best else "",
                f"{way['peak_gib'] / best['peak_gib']:.2f}" if best else "",
            ]
            found.append(row)
    return found


def worker(given: argparse.Namespace) -> None:
    """Answer a line for every way."""
    turns = Turns()
    given.lora, given.steps, given.method = given.rank, given.turns + WARM_UP, "dpo"
    turns.wait()
    turns.answer(ways=len(ways(given)))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        for found in measured(given):
            turns.wait()
            turns.answer(**found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, parents=[arguments()], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(device="cuda", precision="bf16", batch_size=64)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["1.2B", "3B"])
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--turns", type=int, default=4, help="timed steps")
    parser.add_argument("--micro", nargs="+", type=int, default=[8192], help="our tokens a pass")
    parser.add_argument("--attention", nargs="+", choices=("loop", "one call"), default=["loop", "one call"])
    parser.add_argument("--blocks", nargs="+", choices=("plain", "compiled"), default=["plain", "compiled"])
    parser.add_argument("--peer-batches", nargs="+", type=int, default=[4, 8, 16], help="pairs in TRL's pass")
    parser.add_argument("--sides", nargs="+", choices=("ours", "trl"), default=["ours", "trl"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given)
        return
    if "trl" in given.sides:
        need("trl")
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU here")
    given.model = given.model or default_model()
    result: dict[str, Any] = {"machine": describe_machine(given.device), "batch_size": given.batch_size}
    result["comparisons"] = []
    for shape in given.shapes:
        for lora in given.lora:
            measure(given, shape, lora, result)
    title = f"DPO, {given.batch_size} pairs a step, {given.precision}; the last two columns: over TRL's fastest way"
    columns = ["", "", "pairs/s", "peak GiB", "share of limit", "our tokens/s", "pairs/s ×", "memory ×"]
    show(title, columns, [line for record in result["comparisons"] for line in lines(record)])


if __name__ == "__main__":
    main()
