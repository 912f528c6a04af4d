"""A fitted preference v in use: opened or fitted, asked about every pair of a ballot, and put in the place of votes.

v is a reward model's score difference (`score` head: the very reward model of RLHF, of any kind), or a linear
preference of frozen features with another head. It is fitted to votes first and stays as it is while the policy is
trained, so that its targets are computed once.

Shapes: K responses of a ballot, D features, F parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..console import say
from ..data import TokenBallot, reference_table, vote_pairs
from ..errors import UserError
from ..evidence import Floats, quality, reliability, write_json
from ..model import Reward, RewardModel, Workbench, pooled_features, return_freed_memory, score_ballots
from .fitting import Fitting, check_fit
from .frozen import candidate_layers, rate_of, targets_of
from .linear import Head, fit_frozen, winner_first
from .rewards import fit_or_load
from .trained import prepare_held_out

TENSORS, RECORD = "preference.safetensors", "preference.json"
SCORED_TOKENS = 4096  # a pass without gradients: not `micro_tokens`, so that targets stay when that changes on a resume


@dataclass(frozen=True)
class Preference:
    """`logits(ballots)` gives logit v(a, b) of all pairs of each ballot, `[K, K]`; `info` says how v was fitted."""

    info: Mapping[str, Any]
    logits: Callable[[Sequence[TokenBallot]], list[Floats]]


def open_preference(job: Fitting, *, reward: Reward | None = None) -> Preference:
    """The preference that the settings describe: fitted to the votes and left in the folder, or what is there already.

    A `reward` is taken as the score. Raises UserError for votes that cannot be fitted.
    """
    check_fit(job.kind, job.recipe)
    if job.recipe.options.head != "score":
        return _fit_or_load(job)
    return of_reward(reward or fit_or_load(job), job.bench, job.recipe.settings.pass_tokens)


# --- a reward model's ------------------------------------------------------------------------------------------------


def of_reward(reward: Reward, bench: Workbench, micro_tokens: int) -> Preference:
    """logit v(a, b) = score_a − score_b. Frozen features come from the store, other scores from a forward pass."""

    def logits(ballots: Sequence[TokenBallot]) -> list[Floats]:
        return [s[:, None] - s[None, :] for s in _scores(reward, ballots, bench, micro_tokens)]

    info = {"head": "score", "reward": reward.sha256}
    return Preference(info | (dict(reward.info) if isinstance(reward, RewardModel) else {}), logits)


def _scores(reward: Reward, ballots: Sequence[TokenBallot], bench: Workbench, micro_tokens: int) -> list[Floats]:
    """Scores of the responses of each ballot, `[K]`."""
    if isinstance(reward, RewardModel) and reward.linear:
        layer, weight_D = reward.linear
        features_BD = pooled_features(bench, ballots, [layer], micro_tokens)[0]
        return _by_ballot(features_BD.astype(np.float64) @ weight_D.double().cpu().numpy(), ballots)
    return [np.array(own) for own in score_ballots(reward.scores, ballots, bench, SCORED_TOKENS)]


def _by_ballot(values: Any, ballots: Sequence[TokenBallot]) -> list[Any]:
    """Rows of all responses, cut ballot by ballot."""
    return np.split(values, np.cumsum([len(ballot.responses) for ballot in ballots])[:-1])


# --- a linear one ----------------------------------------------------------------------------------------------------


def _fit_or_load(job: Fitting) -> Preference:
    if not (job.folder / RECORD).exists():
        say(f"preference, seed {job.seed} ({job.recipe.options.head} head)")
        _fit(job, prepare_held_out(job.tokens.ballots), prepare_held_out(job.held_out))
        return_freed_memory()
    return load_linear(job.folder, job.bench, job.recipe.settings.pass_tokens)


def _fit(job: Fitting, training: Sequence[TokenBallot], held_out: Sequence[TokenBallot]) -> None:
    """Fit the head to the votes and write it with what was chosen and how good it is on held-out votes."""
    bench, options, folder, budget = job.bench, job.recipe.options, job.folder, job.recipe.settings.pass_tokens
    _, layers = candidate_layers(bench)
    ballots = [winner_first(b) for b in training] if options.head == "unconstrained" else training
    features_LBD = pooled_features(bench, ballots, layers, budget)
    target = targets_of(ballots, options)
    fit = fit_frozen(features_LBD, ballots, target, seed=job.seed, head=options.head, flip_rate=rate_of(options))
    layer = layers[fit.candidate]
    info = {"head": fit.head.name, "layer": layer, "penalty": fit.penalty, "cross_validated_log_loss": fit.log_loss}
    info |= {"flip_rate": fit.flip_rate} if fit.flip_rate else {}
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"weight": fit.weight, "directions": fit.head.directions, "center": fit.head.center}
    save_file({name: np.ascontiguousarray(value) for name, value in parts.items()}, folder / TENSORS)
    if held_out and options.head != "unconstrained":
        features_BD = pooled_features(bench, held_out, [layer], budget)[0]
        a, b = vote_pairs(held_out).T
        logits = fit.head.rows(features_BD[a], features_BD[b]) @ fit.weight
        table = replace(reference_table(held_out), difference=logits)
        info |= {"held_out": {"votes": len(table.p), "prompts": len(set(table.prompt)), **quality(table)}}
        info |= {"reliability": reliability(table)}
    write_json(folder / RECORD, {"model": bench.base.sha256, "info": info})


def load_linear(folder: Path, bench: Workbench, micro_tokens: int) -> Preference:
    """The linear preference of a folder. Raises UserError if it reads the features of another model."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if record["model"] != bench.base.sha256:
        raise UserError(f"{folder}: it reads the features of another model; name a new --out")
    parts, info = load_file(folder / TENSORS), record["info"]
    head = Head(info["head"], parts["directions"], parts["center"])

    def logits(ballots: Sequence[TokenBallot]) -> list[Floats]:
        features_BD = pooled_features(bench, ballots, [info["layer"]], micro_tokens)[0]
        return [_all_logits(head, parts["weight"], own) for own in _by_ballot(features_BD, ballots)]

    return Preference(info, logits)


def _all_logits(head: Head, weight: Floats, features_KD: Any) -> Floats:
    a, b = np.indices((len(features_KD), len(features_KD))).reshape(2, -1)
    return np.asarray(head.rows(features_KD[a], features_KD[b]) @ weight).reshape(len(features_KD), -1)
