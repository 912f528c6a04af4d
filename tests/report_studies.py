"""Synthetic studies that have everything a report can show: all methods, label noise, every alarm, or 200 runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from report_pages import change, set_info
from synthetic_study import write_synthetic_study

from preftune.evidence.results import REFERENCE, Result, read_results, read_samples, read_study
from preftune.evidence.rows import write_records

ALL_CURVES = {
    "dpo": (0.46, 0.05),
    "ipo": (0.42, 0.06),
    "amortized-ipo": (0.47, 0.05),
    "ppo": (0.62, 0.06),
    "rloo": (0.56, 0.07),
    "sft": (0.20, 0.02),
}


def write_full_study(folder: Path, prompts: int = 24) -> Path:
    """All methods, two β, two seeds: a learned reward, calibration, costs, preferences, and a search for β."""
    arms = tuple(ALL_CURVES)
    write_synthetic_study(folder, curves=ALL_CURVES, arms=arms, seeds=(0, 1), prompts=prompts)
    change(folder, "results.jsonl", read_results, _with_proxy)
    finals = read_study(folder).finals()
    told = {"value": 0.68, "se": 0.02}, {"value": 0.61, "se": 0.01}
    held = {"accuracy": told[0], "log_loss": told[1]}
    models = {str(seed): {"held_out": held, "reliability": _bins(1.0), "baselines": {"tfidf": held, "length": held}}
              for seed in (0, 1)}  # fmt: skip
    cost = {"votes_seen": 1503, "tokens_trained": 61234.0, "tokens_sampled": 0}
    return set_info(
        folder,
        title="Which method turns these votes into the better model?",
        reward={"kind": "frozen", **models},
        opinions={"vader": "sentiment by a lexicon", "proxy": "the learned reward of the same seed"},
        calibration={row.run: _bins(1.0 if "ipo" in row.arm else 0.7) for row in finals if row.beta is not None},
        budgets={row.run: cost for row in finals},
        preferences={row.run: {"held_out": held} for row in finals if row.arm == "amortized-ipo"},
        search={"ended": True, "tried": [{"arm": "dpo", "beta": 0.1, "kl": 1.2, "why": "where every arm starts"}]},
    )


def _with_proxy(row: Result) -> Result:
    kl = row.kl or 0.0
    return replace(row, extra={**row.extra, "proxy": 0.9 * math.sqrt(kl), "proxy_se": 0.05}) if row.step else row


def _bins(slope: float) -> list[dict[str, float]]:
    return [
        {
            "predicted": p + 0.025,
            "observed": 0.5 + slope * (p - 0.475),
            "votes": 90 * (1 - p),
        }
        for p in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
    ]


def write_noisy_study(folder: Path, prompts: int = 24) -> Path:
    """Two arms at two rates of label noise, each run once at either."""
    write_synthetic_study(folder, seeds=(0, 1), prompts=prompts)

    def double(rows: tuple[Any, ...]) -> list[Any]:
        return [*rows, *(replace(row, run=f"{row.run}-noise0.2") for row in rows if row.run != REFERENCE)]

    def noisy(row: Any) -> Any:
        worse = isinstance(row, Result) and "noise" in row.run and row.gain is not None
        return replace(row, noise=0.2, gain=0.7 * row.gain) if worse else row

    write_records(folder / "results.jsonl", [noisy(row) for row in double(read_results(folder / "results.jsonl"))])
    write_records(folder / "samples.jsonl", double(read_samples(folder / "samples.jsonl")))
    return set_info(folder, noises=[0.0, 0.2])


def write_alarming_study(folder: Path, prompts: int = 24) -> Path:
    """Every alarm at once."""
    write_full_study(folder, prompts)
    rows = read_results(folder / "results.jsonl")
    runs = list(dict.fromkeys(row.run for row in rows if row.run != REFERENCE))
    last = max(row.step for row in rows)

    def spoil(row: Result) -> Result:
        where = runs.index(row.run) if row.run in runs else -1
        spoilt: Mapping[int, dict[str, Any]] = {
            0: {"kl": math.nan},
            1: {"kl": -0.5},
            2: {"accuracy": 0.31, "accuracy_se": 0.01},
            3: {"log_loss": 0.93, "log_loss_se": 0.01},
            4: {"length": 40.0},
            5: {"accuracy": 0.5, "accuracy_se": 0.0},
            6: {"extra": {**row.extra, "vader": -2.0}},
        }
        fell = {"gain": 0.1, "gain_se": 0.01} if where in (12, 13, 14) and row.step == last else {}
        return replace(row, **(spoilt.get(where, {}) if row.step == last else {}), **fell)

    change(folder, "results.jsonl", read_results, spoil)
    for run, column in ((runs[7], "loss"), (runs[8], "grad_norm"), (runs[9], "accuracy")):
        path = folder / "runs" / run / "metrics.jsonl"
        steps = [dict(step) for step in read_study(folder).metrics[run]]
        for i, step in enumerate(steps):
            step["reference_loss"] = 0.69
            step[column] = {"loss": 0.7 + 0.05 * i, "grad_norm": 1.3**i, "accuracy": 0.2}[column]
        write_records(path, steps)
    return folder


def write_large_study(folder: Path, runs: int = 200, checkpoints: int = 10, samples: int = 256) -> Path:
    """Four arms × 10 β × 5 seeds, so many checkpoints and so many samples of each: one to a prompt."""
    arms, seeds = ("dpo", "ipo", "amortized-ipo", "rloo"), (0, 1, 2, 3, 4)
    betas = [round(0.01 * 1.6**i, 3) for i in range(runs // 20)]
    steps = [4 * (i + 1) for i in range(checkpoints)]
    return write_synthetic_study(
        folder, curves=ALL_CURVES, arms=arms, betas=betas, seeds=seeds, steps=steps, prompts=samples, samples=1
    )
