"""A frozen base in few bits under LoRA: memory, time of a step, what rounding costs, and what is learned beside it.

    python -m bench.bits                                    a random Llama of 300 million weights
    python -m bench.bits --model M --data FILE --turns 0    the log-probs of a real model on real text

Every base is a process of its own. Memory is the resident set above that of the process with its libraries loaded: the
most while the model is read and probed, what is left of it, and the most in steps of DPO on two ballots of 512 tokens.
Steps are made in turns, and their times are ratios to the float32 base's of the same turn. The error of log-probs is
that of the same responses against the float32 base, both computed in float32. Then a small Llama is trained beside
every base on the same votes in the same order (the response with more words of one kind is preferred), and its losses
stand beside one another.
"""

import argparse
import gc
import random
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.inputs import training_ballots
from bench.machine import GIB, clock, describe_machine, median_ratio, serve, show, spread, workers, write_results

MODULE = "bench.bits"
BASES = ("fp32", "bf16", "int8", "nf4")
WORDS = 8000
PROMPT, RESPONSE, BALLOTS = 256, 128, 2
TEXTS = 8  # ballots of real text
CURVE = 4  # parts of a run whose mean losses are shown


def make_model(folder: Path, layers: int, width: int = 1024, words: int = WORDS) -> None:
    """A Llama, kept in bf16 as most models are: at this width of 12.8 million weights a layer and 16 million beside."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *(f"w{i}" for i in range(words))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)


def resident() -> float:
    """GiB that the process holds now, after it has given back what is free."""
    from preftune.model.engine import return_freed_memory

    gc.collect()
    return_freed_memory()
    fields = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in fields if line.startswith("VmRSS")) * 1024 / GIB


def forget_peak() -> None:
    """From here on the peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak() -> float:
    """The most GiB since then."""
    fields = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in fields if line.startswith("VmHWM")) * 1024 / GIB


class Side:
    """One base: its model, a policy beside it, and steps of DPO."""

    def __init__(self, given: argparse.Namespace) -> None:
        import torch

        import preftune.training.run  # noqa: F401  all libraries are loaded before memory is measured
        from preftune.model.workbench import open_workbench

        torch.manual_seed(0)
        self.given, self.libraries = given, resident()
        forget_peak()
        self.bench = open_workbench(given.model, base=given.base, precision=given.precision, device="cpu")
        self.reading, self.model = peak() - self.libraries, resident() - self.libraries
        self.ballots = self._ballots()
        self.errors = self._logprobs()

    def _ballots(self) -> list[Any]:
        from preftune.data.ballots import Vote
        from preftune.data.tokens import TokenBallot, tokenize

        if self.given.data:
            read = training_ballots(self.given.data, TEXTS, seed=0)
            return list(tokenize(read, self.bench.base.form, max_length=PROMPT + RESPONSE).ballots)
        rng, size = random.Random(0), self.bench.base.model.config.vocab_size

        def ids(count: int) -> tuple[int, ...]:
            return tuple(rng.randrange(2, size) for _ in range(count))

        return [TokenBallot(ids(PROMPT), (ids(RESPONSE), ids(RESPONSE)), (Vote(0, 1, 1.0),)) for _ in range(BALLOTS)]

    def _logprobs(self) -> list[float]:
        """In float32, a response each."""
        from preftune.model.logprobs import response_logprobs

        with self.bench.reference.alone() as model:
            batches = [self.bench.layout.lay_out([ballot]) for ballot in self.ballots]
            return [float(value) for batch in batches for value in response_logprobs(model, batch)]

    def start(self) -> dict[str, Any]:
        """An adapter, and an optimiser; what was seen so far."""
        import torch

        from preftune.model.policy import start_policy

        self.policy = start_policy(self.bench.base, lora=self.given.lora, seed=0)
        self.parameters = list(self.policy.trainable().values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True)
        self.reference = torch.tensor(self.errors)
        forget_peak()
        lengths = [len(ids) for ballot in self.ballots for ids in ballot.responses]
        seen = {"libraries": self.libraries, "reading": self.reading, "model": self.model}
        return seen | {"logprobs": self.errors, "lengths": lengths}

    def step(self) -> dict[str, float]:
        """One step of DPO on all ballots in one pass."""
        from preftune.model.logprobs import response_logprobs
        from preftune.objectives import dpo

        began = clock()
        batch = self.bench.layout.lay_out(self.ballots)
        ratio = response_logprobs(self.policy.model, batch, precision=self.given.precision) - self.reference
        loss = dpo(ratio[::2], ratio[1::2], beta=0.1).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"seconds": clock() - began, "peak": peak() - self.libraries, "loss": float(loss.detach())}

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return self.start() if asked.get("what") == "start" else self.step()


def measure(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Memory, times and errors of every base, in turns."""
    shared = ["--model", given.model, "--precision", given.precision, "--lora", str(given.lora)]
    shared += ["--data", str(given.data)] if given.data else []
    with workers(MODULE, {base: [*shared, "--base", base] for base in BASES}) as running:
        seen = {base: running[base].ask(what="start") for base in BASES}
        for base in BASES if given.turns else ():
            running[base].ask(what="step")  # the first one is not timed
        turns = [{base: running[base].ask(what="step") for base in BASES} for _ in range(given.turns)]
    logprobs = {base: seen[base].pop("logprobs") for base in BASES}
    for base, found in seen.items():
        pairs = zip(logprobs[base], logprobs["fp32"], found.pop("lengths"), strict=True)
        found["nats_per_token"] = statistics.mean(abs(a - b) / length for a, b, length in pairs)
        if turns:
            times = [turn[base]["seconds"] for turn in turns]
            found["training"] = max(turn[base]["peak"] for turn in turns)
            found["seconds"] = statistics.median(times)
            found["ratio"] = median_ratio(times, [turn["fp32"]["seconds"] for turn in turns])
    return seen


def learn(given: argparse.Namespace, place: Path) -> dict[str, dict[str, Any]]:
    """A run of DPO beside every base: its loss in parts of the run, and how far what was written is from it."""
    from preftune import Ballot, Vote, train

    rng = random.Random(0)

    def response() -> str:
        return " ".join(f"w{rng.randrange(200)}" for _ in range(8))

    def value(text: str) -> int:
        return sum(int(word[1:]) % 2 for word in text.split())

    texts = [(response(), response(), response()) for _ in range(given.train_ballots)]
    ballots = [
        Ballot(p, (a, b), (Vote(0, 1, (value(a) > value(b)) + (value(a) == value(b)) / 2),)) for p, a, b in texts
    ]
    make_model(place / "small", 2, width=128, words=200)
    options: dict[str, Any] = {"model": str(place / "small"), "beta": 0.1, "lora": given.lora, "lr": 2e-3}
    options |= {"batch_size": 8, "epochs": given.epochs, "device": "cpu", "precision": given.precision}
    found = {}
    for base in BASES:
        run = train("dpo", ballots, out=place / base, base=base, **options)
        losses = [row["loss"] for row in run.metrics]
        size = len(losses) / CURVE
        parts = [statistics.mean(losses[round(i * size) : round((i + 1) * size)]) for i in range(CURVE)]
        found[base] = {"loss": parts, "exported": run.record.get("exported", {}), "losses": losses}
    return found


def small_changes() -> list[dict[str, float]]:
    """What is left in bf16 of an adapter's small change to weights that are bf16 numbers: added to the weight, and to
    the output as our layer does it. The slope of what came of it on what should have."""
    import torch
    from peft import LoraConfig
    from torch import nn
    from torch.nn.functional import linear

    from preftune.model.adapters import AdaptedLinear

    torch.manual_seed(0)
    plain = nn.Linear(576, 1536, bias=False).requires_grad_(False)
    plain.weight.data = plain.weight.data.bfloat16().float()
    lora = AdaptedLinear(plain, "default", config=LoraConfig(r=16, lora_alpha=32), r=16, lora_alpha=32)
    a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    x, found = torch.randn(1024, 576).bfloat16(), []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = linear(x, plain.weight).float()
        for size in (1e-4, 3e-5, 1e-5):
            b.normal_(std=size)
            with torch.autocast("cpu", enabled=False):
                change, weight = 2 * (x.float() @ a.T) @ b.T, plain.weight + 2 * b @ a
            ways = {"added to the weight": linear(x, weight), "added to the output": lora(x)}
            left = {
                name: float(((y.float() - before) * change).sum() / change.square().sum()) for name, y in ways.items()
            }
            share = float((weight - plain.weight).abs().mean() / plain.weight.abs().mean())
            found.append({"share of the weights": share, **left})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--model", help="a folder (default: a random Llama of 300 million weights)")
    parser.add_argument("--data", type=Path, help="its texts instead of random tokens, with --model")
    parser.add_argument("--layers", type=int, default=22, help="of the random model")
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--lora", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--train-ballots", type=int, default=128)
    parser.add_argument("--epochs", type=float, default=4.0, help="of the small Llama; 0: it is not trained")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.worker:
        serve(Side(given).answer)
    with tempfile.TemporaryDirectory() as place:
        if given.model is None:
            given.model = place
            make_model(Path(place), given.layers)
        result: dict[str, Any] = {"machine": describe_machine(), "precision": given.precision, "bases": measure(given)}
        result["small_changes"] = small_changes()
        if given.epochs:
            result["learned"] = learn(given, Path(place))
    write_results("bits", result, given.out)
    tables(result)


def tables(result: dict[str, Any]) -> None:
    """What was found, to be read."""
    sizes, rows = ("reading", "model", "training"), []
    for base, one in result["bases"].items():
        cells = [f"{one[name]:.2f}" if name in one else "" for name in sizes]
        rows.append([base, *cells, spread(one["ratio"]) if "ratio" in one else "", f"{one['nats_per_token']:.2g}"])
    columns = ["base", "reading, GiB", "loaded, GiB", "training, GiB", "time of a step", "nats a token"]
    show(f"above the process with its libraries; {result['precision']}", columns, rows)
    columns = list(result["small_changes"][0])
    rows = [[f"{value:.2g}" for value in one.values()] for one in result["small_changes"]]
    show("what is left in bf16 of a small change", columns, rows)
    if "learned" in result:
        rows = [[base, *(f"{loss:.4f}" for loss in one["loss"])] for base, one in result["learned"].items()]
        show("loss of DPO, in parts of a run", ["base", *(f"part {i + 1}" for i in range(CURVE))], rows)


if __name__ == "__main__":
    main()
