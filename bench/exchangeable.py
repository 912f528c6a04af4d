"""Are the runs of a study exchangeable, and how often does the verdict tell an arm from itself?

    python -m bench.exchangeable [--seeds 24]

A study of a tiny Llama in a world of words: dpo and ipo at two β each, many seeds, judged by what the words are worth.
*Before* does what versions of before 0.3 did: the runs of one seed share their order of the data. Printed are
correlations over seeds, of gain and of gain/√KL, between the two β of an arm and between the arms; then how often two
halves of one arm's seeds, three and three, are told apart when they are called two arms (500 random splits, the verdict
of records in memory).
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.machine import describe_machine, show, write_results
from bench.words import WordWorld, pretrained
from preftune.console import console, track
from preftune.evidence import Result, Sample, StudyRecord, verdict
from preftune.judges import Judge
from preftune.study import compare

TRAINED, HELD_OUT, PROMPTS = 240, 60, 64
BETAS: Mapping[str, Sequence[float]] = {"dpo": (0.1, 0.5), "ipo": (0.05, 0.2)}
SETTINGS = {"lr": 3e-4, "batch_size": 8, "max_length": 32, "max_new_tokens": 6, "samples": 2, "checkpoints": 1}
SPLITS, EACH = 500, 3


def study(folder: Path, model: str, seeds: int, lora: int, *, before: bool) -> StudyRecord:
    """The runs of both arms."""
    world = WordWorld.of(0, TRAINED + HELD_OUT)
    ballots = world.ballots([0.1] * (TRAINED + HELD_OUT))
    judge = Judge("worth", "what the words are worth", lambda _, texts: [world.worth(text) for text in texts])
    as_before = patch("preftune.study.runs.run_seed", lambda seed, arm, beta: seed) if before else nullcontext()
    with as_before, patch.dict(os.environ, PREFTUNE_CACHE=str(folder.with_suffix(".store"))):
        made = compare(
            list(BETAS),
            ballots[:TRAINED],
            model=model,
            betas=BETAS,
            seeds=range(seeds),
            eval_ballots=ballots[TRAINED:],
            prompts=[ballot.prompt for ballot in WordWorld.of(1, PROMPTS).ballots([0.0] * PROMPTS)],
            eval_prompts=PROMPTS,
            judge=judge,
            out=folder,
            device="cpu",
            lora=lora,
            **(SETTINGS | ({"lr": 3 * SETTINGS["lr"]} if lora else {})),
        )
    return made.study


def correlations(record: StudyRecord) -> dict[str, float]:
    """Over seeds, of the two β of an arm and of the arms at their first and their second β."""
    measures: dict[str, Callable[[Result], float]] = {
        "gain": lambda row: row.gain or 0.0,
        "gain / d": lambda row: (row.gain or 0.0) / max(row.kl or 0.0, 1e-9) ** 0.5,
    }
    found = {}
    for name, measure in measures.items():
        columns = {
            (arm, beta): [
                measure(row)
                for row in sorted(record.finals(), key=lambda row: row.seed)
                if (row.arm, row.beta) == (arm, beta)
            ]
            for arm, betas in BETAS.items()
            for beta in betas
        }
        for a, b in combinations(columns, 2):
            if a[0] == b[0] or BETAS[a[0]].index(a[1]) == BETAS[b[0]].index(b[1]):
                told = f"{a[0]} {a[1]:g} and {b[0]} {b[1]:g}"
                found[f"{name}: {told}"] = float(np.corrcoef(columns[a], columns[b])[0, 1])
    return found


def split(record: StudyRecord, arm: str, one: Sequence[int], other: Sequence[int]) -> StudyRecord:
    """The runs of two sets of an arm's seeds as if they were two arms."""
    names = {seed: name for name, seeds in (("one", one), ("other", other)) for seed in seeds}
    runs = {row.run: names[row.seed] for row in record.trained() if row.arm == arm and row.seed in names}

    def kept(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(row for row in rows if row.run in runs or row.run == "reference")

    results = tuple(replace(row, arm=runs.get(row.run, row.arm)) for row in kept(record.results))
    info = {**record.info, "arms": ["one", "other"], "seeds": [*one, *other], "arm_betas": {}, "steps": {}}
    samples: tuple[Sample, ...] = kept(record.samples)
    return replace(record, info=info, results=results, samples=samples, metrics={})


def false_verdicts(record: StudyRecord, arm: str, splits: int = SPLITS) -> dict[str, float]:
    """How often an arm is told from itself, and is compared at all."""
    rng = np.random.default_rng(0)
    seeds = sorted({row.seed for row in record.trained()})
    told, made = 0, 0
    for _ in range(splits):
        drawn = rng.permutation(seeds)[: 2 * EACH].tolist()
        (pair,) = verdict(split(record, arm, drawn[:EACH], drawn[EACH:])).comparisons
        told, made = told + pair.distinct, made + (pair.difference is not None)
    return {"false": told / splits, "compared": made / splits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    console.quiet = True
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        model = pretrained(Path(work) / "model", 0)
        for lora in (0, 4):
            for before in (True, False):
                name = f"{'LoRA' if lora else 'all weights'}, {'before' if before else 'now'}"
                record = study(Path(work) / name.replace(" ", "-"), model, given.seeds, lora, before=before)
                splits = {arm: false_verdicts(record, arm) for arm in track(BETAS, "splits")}
                found[name] = {"correlations": correlations(record), "splits": splits}
    head, of = ["", *found], list(found.values())
    rows = [[told, *(f"{one['correlations'][told]:+.2f}" for one in of)] for told in of[0]["correlations"]]
    for arm in BETAS:
        told_apart = [one["splits"][arm] for one in of]
        rates = [f"{rate['false']:.3f} ({rate['compared']:.2f})" for rate in told_apart]
        rows.append([f"{arm} told from itself (compared)", *rates])
    show(f"{given.seeds} seeds", head, rows)
    write_results("exchangeable", {"machine": describe_machine(), "seeds": given.seeds, "found": found}, given.out)


if __name__ == "__main__":
    main()
