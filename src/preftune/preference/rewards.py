"""Fitting a Bradley–Terry reward model to votes, and saying how good it is beside what costs nothing.

`lora` and `full` train a score head with the trunk below it in THE training loop; `frozen` fits a linear score to the
mean-pooled response tokens of a middle layer, for which one forward pass over the responses is enough. Whatever is
chosen by looking at votes is chosen on training votes: `frozen` chooses layer and penalty by cross-validation over
prompts; `lora` and `full` keep the checkpoint of the lowest log-loss on prompts that are taken out of the training
ones, with one exception that the record names: `train reward` itself has them look at the held-out votes.

Shapes: V votes, F features, L layers, D hidden size.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import TextFormat, TokenBallot, TokenSet, fit_baselines, keep_digests, score_table
from ..errors import UserError
from ..evidence import VoteTable, number, quality, read_record, reliability, write_json
from ..files import missing, sizes
from ..model import RewardModel, check_fits, ranks, remove_state, return_freed_memory
from ..stopping import stop_requests
from ..training import (
    open_reward,
    prepare_training,
)
from .fitting import Fitting, check_kind, reward_recipe
from .frozen import fit_linear_score
from .trained import fit_trained_score, prepare_held_out

VALIDATION = 10  # one of so many training prompts says when `lora` and `full` stop


def fit_reward(job: Fitting, *, resume: bool = False, validation: Sequence[TokenBallot] | None = None) -> RewardModel:
    """Fit a reward model of the base model to votes; leave it in `folder/reward`, and return it as it is loaded there.

    `lora` and `full` keep the checkpoint of the lowest log-loss on `validation`, by default the held-out ballots. Its
    `info` has what was chosen and, with held-out ballots, accuracy, log-loss and reliability on them beside the
    baselines. Scores are centred on the responses of the training ballots: samples of the reference, where those are
    what people compared. Raises UserError for votes or settings that cannot be trained on.
    """
    check_kind(job.kind, job.recipe.settings, job.recipe.options)
    check_fits(job.bench, (*job.tokens.ballots, *job.held_out))
    training = prepare_training(job.recipe, job.tokens, job.bench.layout, job.seed)
    held = prepare_held_out(job.held_out)
    if job.kind == "frozen":
        info, scores = ranks().led(lambda: fit_linear_score(job, training, held))
    else:
        stop_on = ("held-out votes", held)
        if validation is not None:
            stop_on = ("votes taken out of the training ones", prepare_held_out(validation))
        info, scores = fit_trained_score(job, training, held, stop_on, resume=resume)
    if held:
        info |= judge(score_table(scores, held), training.ballots, held, job.bench.base.form)
    if ranks().leads:
        path = job.folder / "reward" / "reward.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "info": info})
        keep_digests(job.folder, job.digests)
    ranks().meet()
    return open_reward(job.folder / "reward", job.bench)


def fit_or_load(job: Fitting) -> RewardModel:
    """`fit_reward` for policies that learn from it, or what it left in the folder before: `done.json` says it is whole.

    The recipe is the policies'; `reward_recipe` says what the reward model makes of it. A tenth of the prompts says
    when `lora` and `full` stop. Raises UserError if what is there is of another kind.
    """
    done = job.folder / "done.json"
    check_fitted(job.folder, job.kind)
    if done.exists() and (lost := missing(job.folder, read_record(done).get("files", {}))):
        say(f"{job.folder}: {lost} is not what was written; the reward model is fitted again")
        done.unlink()
    if done.exists():
        remove_state(job.folder / "state")
        return open_reward(job.folder / "reward", job.bench)
    say(f"reward model, seed {job.seed} ({job.kind})")
    job = replace(job, recipe=reward_recipe(job.kind, job.recipe))
    validation: Sequence[TokenBallot] = ()
    if job.kind != "frozen":
        tokens, validation = take_out(job.tokens, seed=job.seed)
        job = replace(job, tokens=tokens)
    with stop_requests():
        reward = fit_reward(job, resume=True, validation=validation)
        write_json(done, {"kind": job.kind, "seed": job.seed, "files": sizes(job.folder, ["reward"])})
    remove_state(job.folder / "state")
    return_freed_memory()
    return reward


def check_fitted(folder: Path, kind: str) -> None:
    """Raises UserError if what was fitted in the folder is of another kind."""
    done = folder / "done.json"
    try:
        there = read_record(done).get("kind") if done.exists() else kind
    except UserError:  # cut, as what it speaks of may be
        done.unlink()
        there = kind
    if there != kind:
        raise UserError(f"--kind {kind}: {folder} holds one of kind {there}; give --kind {there}, or a new --out")


def take_out(tokens: TokenSet, *, seed: int) -> tuple[TokenSet, tuple[TokenBallot, ...]]:
    """(what is left, the ballots of a tenth of the prompts, rounded down)."""
    prompts = sorted({ballot.prompt for ballot in tokens.ballots})
    random.Random(f"validation/{seed}").shuffle(prompts)
    chosen = set(prompts[: len(prompts) // VALIDATION])
    left = tuple(ballot for ballot in tokens.ballots if ballot.prompt not in chosen)
    return replace(tokens, ballots=left), tuple(ballot for ballot in tokens.ballots if ballot.prompt in chosen)


def judge(
    table: VoteTable, training: Sequence[TokenBallot], held_out: Sequence[TokenBallot], form: TextFormat
) -> dict[str, Any]:
    """How good the scores are on held-out votes, beside the baselines on the same ones."""
    return {
        "held_out": {"votes": len(table.p), "prompts": len(set(table.prompt)), **quality(table)},
        "reliability": reliability(table),
        "baselines": fit_baselines(training, held_out, form),
    }


def quality_table(info: Mapping[str, Any]) -> str:
    """Accuracy and log-loss of the reward model and the baselines, and its reliability, as text."""
    if "held_out" not in info:
        return "no held-out votes: nothing measured"
    held = info["held_out"]
    rows = {"reward model": held, "TF-IDF": info["baselines"].get("tfidf"), "length": info["baselines"]["length"]}
    lines = [f"{held['votes']} held-out votes on {held['prompts']} prompts (± one standard error)", ""]
    lines.append(f"{'':14}{'accuracy':>16}{'log-loss, nats':>18}")
    for name, row in rows.items():
        if row:
            lines.append(f"{name:14}{_plus_minus(row['accuracy']):>16}{_plus_minus(row['log_loss']):>18}")
    lines += ["", f"{'predicted':>12}{'observed':>12}{'votes':>10}"]
    lines += [f"{r['predicted']:12.3f}{r['observed']:12.3f}{r['votes']:10g}" for r in info["reliability"]]
    return "\n".join(lines)


def _plus_minus(estimate: Mapping[str, float | None]) -> str:
    value, se = estimate["value"] or 0.0, estimate["se"]
    return f"{value:.3f}" if se is None else f"{number(value, se)} ± {number(se, se)}"
