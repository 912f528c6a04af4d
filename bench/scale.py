"""One process and two that train the same policy: time of a step, and bytes of tensors that each process keeps.

    python -m bench.scale [--model M]

DPO with all weights and with an adapter, by one process, by two that have all weights each (`ddp`), and by two that
have half each (`fsdp`). Every run is a `preftune train` of its own, started as a user would start it; within a turn
they follow each other, and what counts is the median over turns. Bytes are those of parameters (the frozen start's
too), gradients and moments at the optimiser's step, on the process that has the most. Without `--model` it is a random
Llama on random words: how fast it learns is not asked here.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.machine import ROOT, clock, describe_machine, median_ratio, named, show, spread, write_results
from preftune import Ballot, Vote, train

SIDES = {"1 process": (1, "auto"), "2, ddp": (2, "ddp"), "2, fsdp": (2, "fsdp")}
KINDS = ("parameters", "gradients", "moments")
MIB = 2**20
VOCABULARY = 2000


def random_model(folder: Path, width: int, layers: int) -> None:
    """A Llama of that size with a token a word."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer([f"w{i}" for i in range(VOCABULARY)])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def pairs(count: int, tokens: int) -> list[Ballot]:
    """Pairs of random words, half of the tokens in the prompt."""
    rng = random.Random(0)

    def words(length: int) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(length))

    return [
        Ballot(words(tokens // 2), (words(tokens // 4), words(tokens // 4)), (Vote(0, 1, 1),)) for _ in range(count)
    ]


# --- one process of a run ---------------------------------------------------------------------------------------------


def kept(tensors: Sequence[Any]) -> int:
    """Bytes that tensors take on this process, those in the same memory once."""
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in local}.values())


def work(given: argparse.Namespace) -> None:
    """Train, and leave what was seen at the optimiser's steps in a file of this process's own."""
    from torch.optim import AdamW

    import preftune.training.run as running

    models: list[Any] = []
    times: list[float] = []
    bytes_of: dict[str, int] = {}
    start, step = running.start_policy, AdamW.step

    def started(base: Any, **options: Any) -> Any:
        policy = start(base, **options)
        models.extend((base.model, policy.model))
        return policy

    def stepped(optimizer: Any, *rest: Any) -> Any:
        result = step(optimizer, *rest)
        times.append(clock(given.device))
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        bytes_of["parameters"] = kept([p for model in models for p in model.parameters()])
        bytes_of["gradients"] = kept([p.grad for p in trained if p.grad is not None])
        bytes_of["moments"] = kept([value for state in optimizer.state.values() for value in state.values()])
        return result

    with patch.object(running, "start_policy", started), patch.object(AdamW, "step", stepped):
        ballots = pairs(given.batch_size * given.steps, given.tokens)
        how = {"steps": given.steps, "batch_size": given.batch_size, "micro_tokens": given.micro_tokens}
        how |= {"lora": given.lora[0], "parallel": given.parallel, "device": given.device, "lr": 1e-5}
        train("dpo", ballots, model=given.model, beta=0.1, out=given.out / "run", **how)
    seen = {"steps": [b - a for a, b in pairwise(times[1:])], "bytes": bytes_of}
    (given.out / f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(seen), encoding="utf-8")


# --- all of them ------------------------------------------------------------------------------------------------------


def run(given: argparse.Namespace, lora: int, side: str) -> dict[str, Any]:
    """Seconds a step, and the bytes of the process that has the most."""
    world, parallel = SIDES[side]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        options = {"model": given.model, "lora": lora, "parallel": parallel, "device": given.device, "out": folder}
        options |= {name: getattr(given, name) for name in ("steps", "batch_size", "micro_tokens", "tokens")}
        flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, *launcher, "-m", "bench.scale", "--worker", *flags]
        cores = {"PREFTUNE_CACHE": folder, "OMP_NUM_THREADS": str(given.threads)}
        subprocess.run(command, cwd=ROOT, env=os.environ | cores, check=True, capture_output=not given.verbose)
        seen = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("rank*.json"))]
    most = max(seen, key=lambda each: sum(each["bytes"].values()))
    return {"seconds": statistics.median(seen[0]["steps"]), "bytes": most["bytes"]}


def measure(given: argparse.Namespace, lora: int) -> dict[str, Any]:
    """Every side in turn, as often as is asked for."""
    turns = [{side: run(given, lora, side) for side in SIDES} for _ in range(given.repeats)]
    seconds = {side: [turn[side]["seconds"] for turn in turns] for side in SIDES}
    one = "1 process"
    return {
        "lora": lora,
        "seconds": seconds,
        "ratio": {side: median_ratio(seconds[side], seconds[one]) for side in SIDES},
        "bytes": {side: turns[0][side]["bytes"] for side in SIDES},
        "share_of_one": {
            side: sum(turns[0][side]["bytes"].values()) / sum(turns[0][one]["bytes"].values()) for side in SIDES
        },
    }


def rows_of(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line of the table for every side."""
    for side in SIDES:
        parts = [f"{record['bytes'][side].get(kind, 0) / MIB:.1f}" for kind in KINDS]
        seconds = f"{statistics.median(record['seconds'][side]):.2f}"
        share = f"{record['share_of_one'][side]:.2f}"
        yield [f"{named('DPO', record['lora'])}: {side}", seconds, spread(record["ratio"][side]), *parts, share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; by default a random Llama of --width and --layers")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--lora", nargs="+", type=int, default=[0, 16], help="ranks; 0 is full fine-tuning")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256, help="of a pair")
    parser.add_argument("--micro-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1, help="of a process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beside", default="", help="what else ran on the machine, for the record")
    parser.add_argument("--verbose", action="store_true", help="show what the runs say")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--parallel", default="auto", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given)
        return
    asked = {name: value for name, value in vars(given).items() if name not in ("worker", "parallel", "out", "verbose")}
    with tempfile.TemporaryDirectory() as folder:
        if given.model is None:
            random_model(Path(folder), given.width, given.layers)
            given.model = folder
        records = [measure(given, lora) for lora in given.lora]
    write_results("scale", {"machine": describe_machine(given.device), "asked": asked, "runs": records}, given.out)
    columns = ["", "s a step", "ratio to one", *(f"{kind}, MiB" for kind in KINDS), "share of one"]
    show("one process and two", columns, [row for record in records for row in rows_of(record)])


if __name__ == "__main__":
    main()
