"""Is a learned target better than the bare label? Amortized IPO beside IPO and DPO on the embedded experiment.

    python bench/amortized.py --out WORK                 # the whole grid; stopped, the same command goes on
    python bench/amortized.py --out WORK --seeds 0 --betas 0.1 --noises 0.2 --arms ipo     # one run, to time it

For every rate of label noise: IPO, DPO, amortized IPO (a Bradley–Terry score of frozen features) and, where labels are
flipped, amortized IPO whose likelihood knows at which rate; without flips that one is the plain one. "ipo, stopped
early" costs no training: it is the checkpoints of each IPO run up to the one with the lowest log-loss on a tenth of the
training prompts that nobody trains on, whose votes are flipped like the others. Arms are compared within a noise at the
KL that both have reached, with intervals paired over prompts and widened by seeds, corrected for all comparisons.

The JSON has every comparison, frontier and final row, how good each preference is on held-out votes, and how far its
targets and the labels lie from the preferences that the votes were drawn from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from preftune.data.ballots import Ballot, Vote
from preftune.data.tokens import tokenize
from preftune.demo.experiment import TEMPERATURE, Experiment, Size, prepare_demo, whole
from preftune.errors import Interrupted
from preftune.evidence.conclusion import verdict
from preftune.evidence.results import REFERENCE, Result, StudyRecord, read_study
from preftune.evidence.rows import write_json
from preftune.lab.worlds import Floats
from preftune.model.workbench import open_workbench
from preftune.preference.preferences import of_reward
from preftune.study.naming import condition_folder, slug
from preftune.study.plan import noisy_votes
from preftune.study.study import compare
from preftune.training.run import open_reward

# each vote is seen once: where votes are seen again, IPO learns them by heart and gains nothing more
SIZE = Size(256, 80, betas=(0.1, 0.5), seeds=(0, 1, 2), checkpoints=3, samples=4, tokens=12)
LEARNING_RATE = 5e-5
VALIDATION = 0.1
STOPPED = "ipo, stopped early"


def arms_of(noise: float) -> list[str]:
    """The arms that are trained at a rate of label noise."""
    aware = [f"amortized-ipo[flip_rate={noise:g}]"] if noise else []
    return ["ipo", "dpo", "amortized-ipo", *aware]


def run_grid(experiment: Experiment, out: Path, noise: float, given: argparse.Namespace) -> StudyRecord:
    """Train and evaluate every run at one rate of label noise, or what is left of them."""
    compare(
        given.arms or arms_of(noise),
        experiment.ballots,
        eval_ballots=experiment.eval_ballots,
        model=str(experiment.model),
        betas=given.betas,
        seeds=given.seeds,
        label_noise=[noise],
        validation_fraction=VALIDATION,
        votes_per_prompt=given.votes_per_prompt,
        out=out,
        prompts=experiment.prompts,
        checkpoints=SIZE.checkpoints,
        title=f"Learned targets with {noise:.0%} of the training votes flipped",
        **{**experiment.shared, "lr": LEARNING_RATE},
    )
    return of_seeds(read_study(out), given.seeds)


def of_seeds(study: StudyRecord, seeds: Sequence[int]) -> StudyRecord:
    """The study as if it had these seeds only: what else is in its folder may not be finished."""
    results = tuple(row for row in study.results if row.run == REFERENCE or row.seed in seeds)
    runs = {row.run for row in results}
    samples = tuple(sample for sample in study.samples if sample.run in runs)
    return replace(study, info={**study.info, "seeds": list(seeds)}, results=results, samples=samples)


# --- early stopping ---------------------------------------------------------------------------------------------------


def stopped_early(study: StudyRecord) -> StudyRecord:
    """The study with one more arm: every IPO run as if it had ended at its lowest validation log-loss."""
    rows = [row for row in study.trained() if row.arm == "ipo" and row.validation is not None]
    end = {run: _best(run, rows).step for run in dict.fromkeys(row.run for row in rows)}
    kept = {(row.run, row.step) for row in rows if row.step <= end[row.run]}
    more = [replace(r, run=f"{r.run}-stopped", arm=STOPPED) for r in rows if (r.run, r.step) in kept]
    samples = [replace(s, run=f"{s.run}-stopped") for s in study.samples if (s.run, s.step) in kept]
    info = {**study.info, "arms": [*study.info["arms"], *([STOPPED] if more else [])]}
    info["steps"] = {**study.info["steps"], STOPPED: 0}
    return replace(study, info=info, results=(*study.results, *more), samples=(*study.samples, *samples))


def _best(run: str, rows: Sequence[Result]) -> Result:
    return min((row for row in rows if row.run == run), key=lambda row: row.validation or 0.0)


# --- what the targets are worth ---------------------------------------------------------------------------------------


def target_errors(experiment: Experiment, folder: Path, study: StudyRecord, noise: float) -> dict[str, Any]:
    """Root mean squared error of labels and of each preference against the true preferences, on the voted pairs.

    The votes were drawn by Bradley–Terry from gold, so that the true preference of every pair is known. `entropy` is
    that of the true preferences, in nats: the lowest log-loss that any prediction of an unflipped vote can have. The
    labels are flipped anew, at the same rate.
    """
    bench = open_workbench(str(experiment.model), precision=str(experiment.shared["precision"]))
    tokens = tokenize(experiment.ballots, bench.base.form, max_length=int(experiment.shared["max_length"]))
    texts = {ballot.id: ballot for ballot in experiment.ballots}
    truth = np.concatenate([_true_preferences(experiment, texts[b.id], b.votes) for b in tokens.ballots])
    found: dict[str, Any] = {"entropy": float(-(truth * np.log(truth) + (1 - truth) * np.log1p(-truth)).mean())}
    for seed in study.info["seeds"]:
        noisy = noisy_votes(tokens, replace(tokens, ballots=()), seed, noise).tokens.ballots
        labels = np.array([vote.p for ballot in noisy for vote in ballot.votes])
        found.setdefault("labels", []).append(_distance(labels, truth))
        for arm in (arm for arm in study.info["arms"] if arm.startswith("amortized-ipo")):
            name = condition_folder(seed, noise)
            place = folder / "rewards" / (name if arm == "amortized-ipo" else f"{slug(arm)}-{name}")
            v = of_reward(open_reward(place / "reward", bench), bench, 4096)
            logits = v.logits(tokens.ballots)
            told = [z[vote.a, vote.b] for z, b in zip(logits, tokens.ballots, strict=True) for vote in b.votes]
            found.setdefault(arm, []).append(_distance(expit(np.array(told)), truth))
    return found


def _true_preferences(experiment: Experiment, ballot: Ballot, votes: Sequence[Vote]) -> Floats:
    reward = experiment.gold(whole([str(ballot.prompt)] * len(ballot.responses), ballot.responses))
    difference = np.array([reward[vote.a] - reward[vote.b] for vote in votes])
    return np.clip(expit(difference / TEMPERATURE), 1e-9, 1 - 1e-9)


def _distance(found: Floats, truth: Floats) -> float:
    return float(np.sqrt(np.mean((found - truth) ** 2)))


# --- the record -------------------------------------------------------------------------------------------------------


def describe(study: StudyRecord) -> dict[str, Any]:
    """What the study says, in numbers."""
    answer = verdict(study)
    pairs = [
        {
            **{"a": pair.a, "b": pair.b, "kl": pair.kl, "p": pair.p_value, "scope": pair.scope},
            **{"difference": pair.difference.value, "interval": pair.interval(), "level": pair.level},
        }
        for pair in answer.comparisons
        if pair.difference
    ]
    rows = [{name: value for name, value in asdict(row).items() if value is not None} for row in study.finals()]
    return {
        "sentence": answer.sentence,
        "comparisons": pairs,
        "not_compared": [{"a": p.a, "b": p.b, "why": p.why} for p in answer.comparisons if not p.difference],
        "frontiers": [asdict(fit) for fit in answer.frontiers],
        "finals": rows,
        "preferences": study.info.get("preferences", {}),
        "data": {**study.info["data"], "source": Path(study.info["data"]["source"]).name},
        "settings": study.info["settings"],
    }


def numbers(kind: type) -> Any:
    return lambda text: [kind(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="working folder; what is in it is not done again")
    parser.add_argument("--noises", type=numbers(float), default=[0.0, 0.2])
    parser.add_argument("--betas", type=numbers(float), default=list(SIZE.betas))
    parser.add_argument("--seeds", type=numbers(int), default=list(SIZE.seeds))
    parser.add_argument("--arms", default=None, help="arms instead of the default ones, such as dpo,ipo[flip_rate=0.2]")
    parser.add_argument("--votes-per-prompt", type=int, default=None)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "amortized.json")
    given = parser.parse_args()
    experiment = prepare_demo(given.out, SIZE)
    before = json.loads(given.json.read_text(encoding="utf-8")) if given.json.exists() else {}
    for noise in given.noises:
        folder = given.out / f"noise{noise:g}"
        study = run_grid(experiment, folder, noise, given)
        record = describe(stopped_early(study)) | {"targets": target_errors(experiment, folder, study, noise)}
        print(f"\nnoise {noise:g}: {record['sentence']}")
        before[f"noise {noise:g}"] = json.loads(json.dumps(record))
        given.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.json, before)


if __name__ == "__main__":
    try:
        main()
    except Interrupted as stop:
        sys.exit(f"{stop}; the same command goes on from here")
