"""A made-up but plausible study folder with known frontiers, for tests of the verdict and the report."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from preftune.evidence.results import REFERENCE, Result, Sample
from preftune.evidence.rows import write_json, write_records
from preftune.evidence.stats import Estimate, clustered_mean

OPENINGS = ("The film opens on", "I went in expecting", "A quiet drama about", "Nobody warned me about", "It begins as")
SUBJECTS = ("a tired detective", "two brothers", "the last summer", "a failed heist", "the sea", "an old theatre")
GOOD = ("and never lets go.", "told with wit and warmth.", "beautifully acted throughout.", "a small, lovely surprise.")
BAD = ("and goes nowhere.", "told without much care.", "that drags for two hours.", "a dull, noisy mess.")
CURVES = {"dpo": (0.46, 0.05), "ipo": (0.42, 0.06), "sft": (0.20, 0.02)}  # α, γ of gain = d(α − γ·d)


def write_synthetic_study(
    folder: Path,
    *,
    curves: Mapping[str, tuple[float, float]] = CURVES,
    arms: Sequence[str] = ("dpo", "ipo"),
    betas: Sequence[float] = (0.1, 0.5),
    seeds: Sequence[int] = (0,),
    steps: Sequence[int] = (8, 16, 24, 32),
    prompts: int = 64,
    samples: int = 2,
    gold: bool = True,
    unfinished: int = 0,
    rng_seed: int = 0,
) -> Path:
    """Write the folder; `unfinished` of the runs, counted from the end, have no files at all."""
    rng = np.random.default_rng(rng_seed)
    common = rng.normal(0, 0.5, (prompts, samples))  # what all policies share on a sample: keyed random numbers
    reference = _samples(REFERENCE, 0, np.zeros((prompts, samples)), common, gold, rng)
    rows, texts = [_result(REFERENCE, REFERENCE, REFERENCE, None, 0, 0, reference, reference, rng, gold)], [*reference]
    runs = [(arm, beta, seed) for arm in arms for beta in ([None] if arm == "sft" else betas) for seed in seeds]
    for arm, beta, seed in runs[: len(runs) - unfinished]:
        name = f"{arm}-{'none' if beta is None else beta}-{seed}"
        for step in steps:
            kl = 5.0 * (0.05 / (beta or 0.3)) ** 0.5 * (step / max(steps)) ** 1.5
            kls = kl * rng.gamma(4.0, 0.25, (prompts, samples))
            alpha, gamma = curves[arm]
            taste = rng.normal(0, 0.25, (prompts, 1)) + rng.normal(0, 0.15, (prompts, samples))
            drawn = _samples(
                name, step, kls, common + math.sqrt(kl) * (alpha - gamma * math.sqrt(kl)) + taste, gold, rng
            )
            rows.append(_result(name, arm, arm.split("[")[0], beta, seed, step, drawn, reference, rng, gold))
            texts += drawn
        path = folder / "runs" / name
        path.mkdir(parents=True)
        write_records(path / "metrics.jsonl", _metrics(max(steps), arm, beta or 0.3, rng))
    write_json(
        folder / "study.json", _info(arms, betas, seeds, prompts, gold) | {"steps": dict.fromkeys(arms, max(steps))}
    )
    write_records(folder / "results.jsonl", rows)
    write_records(folder / "samples.jsonl", texts)
    return folder


def _samples(run, step, kls, scores, gold, rng):
    count = len(kls)
    return [
        Sample(
            run=run,
            step=step,
            prompt_id=prompt,
            prompt=f'Movie review: "{OPENINGS[prompt % 5]} {SUBJECTS[prompt % 6]}',
            sample=number,
            response=f" {SUBJECTS[rng.integers(6)]}, {_ending(scores[prompt, number], rng)}",
            tokens=int(rng.integers(12, 21)),
            ended=bool(rng.random() < 0.4),
            kl=float(kls[prompt, number]),
            reward=float(scores[prompt, number]) if gold else None,
            extra={"vader": float(0.4 * scores[prompt, number] + rng.normal(0, 0.3))} if gold else {},
        )
        for prompt in range(count)
        for number in range(kls.shape[1])
    ]


def _ending(score, rng):
    return (GOOD if score > 0.2 else BAD)[rng.integers(4)]


def _result(run, arm, method, beta, seed, step, drawn, reference, rng, gold):
    prompts = [s.prompt_id for s in drawn]
    means: dict[str, Estimate] = {
        "kl": clustered_mean([s.kl for s in drawn], prompts),
        "length": clustered_mean([s.tokens for s in drawn], prompts),
    }
    extra: dict[str, float] = {}
    if gold:
        rewards, start = np.array([s.reward for s in drawn]), np.array([s.reward for s in reference])
        means["reward"] = clustered_mean(rewards, prompts)
        second = clustered_mean([s.extra["vader"] for s in drawn], prompts)
        extra = {"vader": second.value} | ({} if second.se is None else {"vader_se": second.se})
        if run != REFERENCE:
            means["gain"] = clustered_mean(rewards - start, prompts)
            means["win_rate"] = clustered_mean((rewards > start) + 0.5 * (rewards == start), prompts)
    kl = means["kl"].value
    # a stable hash: text differs between processes under `hash`
    noise = (zlib.crc32(f"{run}{step}".encode()) % 1000 - 500) / 50_000
    means["accuracy"] = Estimate(
        0.5 if run == REFERENCE else 0.5 + 0.09 * math.sqrt(kl) / (1 + 0.3 * kl) + noise, 0.019
    )
    means["log_loss"] = Estimate(math.log(2) - 0.4 * (means["accuracy"].value - 0.5), 0.008)
    values = {name: value for n, mean in means.items() for name, value in ((n, mean.value), (f"{n}_se", mean.se))}
    share = sum(s.ended for s in drawn) / len(drawn)
    return Result(run, arm, method, beta, seed, step, ended=share, extra=extra, **values)


def _metrics(steps, arm, beta, rng):
    for step in range(1, steps + 1):
        rise = 4 * (0.1 / beta) ** 0.5 * (step / steps) ** 1.3
        common = {
            "step": step,
            "loss": float(0.69 - 0.05 * rise + rng.normal(0, 0.03)),
            "grad_norm": float(rng.gamma(9, 0.4)),
            "lr": 1e-4 * min(step / 4, (steps - step + 1) / steps),
            "tokens": 8 * 4 * 20,
            "tokens_per_second": float(rng.normal(410, 15)),
        }
        if arm != "sft":
            common |= {
                "margin": float(beta * (0.9 * rise + rng.normal(0, 0.4))),
                "log_ratio_preferred": float(-0.2 * rise + rng.normal(0, 0.25)),
                "log_ratio_other": float(-1.1 * rise + rng.normal(0, 0.3)),
                "accuracy": float(np.clip(0.55 + 0.06 * rise + rng.normal(0, 0.06), 0, 1)),
                "length_preferred": 19.0,
                "length_other": 19.5,
            }
        yield common


def _info(arms, betas, seeds, prompts, gold):
    return {
        "title": "DPO against IPO on movie reviews",
        "command": "preftune demo --out demo-study",
        "created": "2026-11-21T20:14:00+00:00",
        "versions": {"preftune": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.12.8"},
        "machine": {"cpu_threads": 2, "device": "cpu"},
        "model": {
            "name": "SmolLM2-135M-Instruct",
            "sha256": "9c1f0e5b" * 8,
            "parameters": 134_515_008,
            "layout": "branch: the probe agreed with separate sequences within 4e-6 nats",
        },
        "data": {
            "source": "4 responses to each prompt, sampled from the reference"
            + ("; votes drawn from the gold reward" if gold else ""),
            "sha256": "17ab55d2" * 8,
            "rows": 320,
            "ballots_train": 256,
            "ballots_eval": prompts,
            "votes_train": 1503,
            "votes_eval": 377,
            "prompts_eval": prompts,
            "skipped": {"identical responses": 33},
            "shortened": {"prompt: oldest turns dropped": 3, "response cut, end-of-text not trained": 1},
        },
        "settings": {
            "lr": 1e-4,
            "batch_size": 8,
            "epochs": 1,
            "max_length": 64,
            "max_new_tokens": 20,
            "samples": 2,
            "precision": "bf16",
            "lora": None,
            "reduction": "sum",
        },
        "arms": list(arms),
        "betas": list(betas),
        "seeds": list(seeds),
        "runs": "exchangeable",
        "gold": {"name": "predicted human rating", "description": "ridge on TF-IDF of human ratings"} if gold else None,
        "targets": {f"ipo @ beta={b:g}": f"½/β = {0.5 / b:g} nats per sequence" for b in betas if "ipo" in arms},
        "notes": [
            "One seed and one small model: another seed or model may order the methods otherwise.",
            "The policies are stopped early; in so few steps the learning rate moves the KL as much as β does.",
        ],
        "seconds": {"gold": 3.1, "sample": 66.0, "reference": 22.4, "train": 310.5, "evaluate": 82.3},
    }
