"""Every flag, declared once: it means the same wherever it occurs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Parsed = Mapping[str, Any]


def numbers(kind: type) -> Callable[[Any], list[Any]]:
    """A list of numbers from `0.05,0.1`, a YAML list or a single number."""

    def parse(value: Any) -> list[Any]:
        parts = value if isinstance(value, list) else str(value).split(",")
        return [kind(part) for part in parts]

    parse.__name__ = f"{kind.__name__},..."
    return parse


def arms(value: Any) -> str:
    """Arms as one text, from `dpo,ipo` or a YAML list."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# name: (type, help); a flag that is left out takes the default of the library, which the help states
FLAGS: dict[str, tuple[Any, str]] = {
    "model": (str, "local folder, GGUF file or hub name of the model to start from"),
    "reference": (str, "model to stay close to (default: --model)"),
    "data": (str, "preference file (JSONL, JSON, CSV, Parquet, gz too) or hub data set"),
    "eval-data": (str, "preference file to evaluate on (default: part of --data)"),
    "eval-fraction": (
        float,
        "share of the prompts held out for evaluation (default: 0.1; train: none, but reward 0.1)",
    ),
    "prompts": (str, "file of prompts to sample from (default: held-out prompts)"),
    "eval-prompts": (int, "hold out, and sample from, at most so many prompts (default: 64)"),
    "out": (str, "folder to write (lab: file)"),
    "methods": (arms, "arms to compare, such as dpo,ipo,ipo[reduction=mean]"),
    "beta": (float, "strength of the KL term"),
    "betas": (numbers(float), "strengths of the KL term, such as 0.05,0.1"),
    "seeds": (numbers(int), "seeds, such as 0,1,2: one run of every arm and beta each (default: 0)"),
    "label-noise": (numbers(float), "rates at which training votes are flipped, such as 0,0.2 (default: 0)"),
    "votes-per-prompt": (int, "train on at most so many votes of each prompt (default: all)"),
    "validation-fraction": (float, "share of the training prompts that only measures a log-loss (default: 0)"),
    "seed": (int, "order of the data, first adapter, samples (default: 0)"),
    "reduction": (str, "log-ratios as the sum or the mean over tokens (default: sum)"),
    "label-smoothing": (float, "smooth preferences by this rate, as cDPO does (default: 0)"),
    "flip-rate": (float, "allow for votes that were flipped at this rate; dpo: as rDPO does (default: 0)"),
    "estimate-flips": (bool, "reward, amortized-ipo with --kind frozen: find that rate (default: false)"),
    "lr": (float, "peak learning rate (default: 5e-6; with --lora 1e-4)"),
    "epochs": (float, "passes over the ballots (default: 1)"),
    "steps": (int, "optimiser steps; goes over --epochs"),
    "batch-size": (int, "ballots per optimiser step (default: 32)"),
    "micro-tokens": (int, "tokens per forward pass; bounds memory, changes no result (default: 1024, on a GPU 4096)"),
    "grad-checkpointing": (bool, "less memory for more time (default: false)"),
    "compile": (bool, "faster steps but the first, half a minute longer; needs a C++ compiler (default: false)"),
    "max-length": (int, "tokens of a prompt and a response together (default: 1024)"),
    "max-new-tokens": (int, "tokens of a sampled response (default: 64)"),
    "samples": (int, "sampled responses per prompt (default: 1)"),
    "checkpoints": (int, "evaluations per run, evenly spaced (default: 3)"),
    "kind": (
        str,
        "reward model: full, lora, or frozen for small machines (default: full, with --lora R lora; for amortized-ipo "
        "frozen)",
    ),
    "reward": (str, "ppo, rloo, amortized-ipo: folder of a reward model (default: fit one on the same votes)"),
    "head": (str, "amortized-ipo: preference by a score, general, or unconstrained, an ablation (default: score)"),
    "pairs": (str, "amortized-ipo: targets on all pairs, or on those of votes, an ablation (default: all)"),
    "target": (str, "amortized-ipo: centred, or winner-loser, an ablation without the -1/2 (default: centred)"),
    "gamma": (float, "amortized-ipo: train the preference with the policy, its likelihood so weighted, an ablation"),
    "stop-gradient": (bool, "amortized-ipo with --gamma: false lets it follow the policy, an ablation (default: true)"),
    "extra-responses": (int, "amortized-ipo: sample so many more responses to each prompt (default: 0)"),
    "lora": (int, "rank of a LoRA adapter; 0 trains all weights (default: 0)"),
    "precision": (str, "fp32, or bf16 for matrix products (default: fp32)"),
    "device": (str, "cpu, cuda, ... (default: a GPU where there is one)"),
    "warmup": (float, "share of the steps over which the learning rate rises (default: 0.1)"),
    "clip-norm": (float, "largest norm of the gradient (default: 1)"),
    "rollouts": (int, "ppo, rloo: responses sampled to each prompt (default: 4)"),
    "inner-epochs": (int, "ppo: optimiser steps on each batch of samples (default: 4)"),
    "kl-target": (float, "ppo, rloo: let beta follow this KL, in nats per response"),
    "end-penalty": (float, "ppo, rloo: taken off the score of a response that does not end (default: 1)"),
    "whiten": (bool, "ppo: scale rewards, and scale and centre advantages, over each batch (default: true)"),
    "weight-decay": (float, "decoupled weight decay (default: 0)"),
    "prompt": (str, "a prompt, as text"),
    "size": (str, "default, or full for a larger grid"),
    "merge-prompts": (bool, "one ballot per prompt: responses joined, votes pooled (default: false)"),
    "quick": (bool, "fewer steps and seeds: a look, no result (default: false)"),
    "resume": (bool, "go on with an interrupted run (default: false)"),
    "stores": (bool, "stored reference log-probs and features, a sample computed anew (what is checked by default)"),
}
SWITCHES = {"resume", "estimate-flips", "merge-prompts", "grad-checkpointing", "compile", "quick", "stores"}
NARGS: dict[str, Any] = {"folders": "+", "what": "?"}  # positional arguments that may be many, or none
TRAINING = (
    *("reduction", "label-smoothing", "flip-rate", "lr", "epochs", "steps", "batch-size", "micro-tokens"),
    *("grad-checkpointing", "compile", "max-length", "lora", "precision", "device"),
    *("warmup", "clip-norm", "weight-decay"),
    *("rollouts", "max-new-tokens", "inner-epochs", "kl-target", "end-penalty", "whiten"),
    *("estimate-flips", "head", "pairs", "target", "gamma", "stop-gradient", "extra-responses"),
)
EVALUATION = ["eval-prompts", "samples"]


def flag_of(name: str) -> str:
    """A setting's flag, without its dashes."""
    return name.replace("_", "-")
