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
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.special import expit

from .ballots import Vote
from .console import say
from .engine import return_freed_memory
from .errors import UserError
from .evaluate import reference_table
from .heads import Companion
from .judges import Reward
from .linear_preference import Floats, Head, fit_frozen, vote_pairs, winner_first
from .methods import AMORTIZED_IPO
from .preference_model import RewardModel
from .results import write_json
from .rewards import (
    candidate_layers,
    check_kind,
    fit_or_load,
    pooled_features,
    prepare_held_out,
    quality,
    rate_of,
    reliability,
    score_ballots,
    settings_of,
    stored_layers,
    targets_of,
)
from .rollouts import sample_responses
from .run import Targets, prepare_training, reference_values
from .settings import Settings
from .stores import response_keys
from .tokens import TokenBallot, TokenSet
from .workbench import Workbench, check_room

TENSORS, RECORD = "preference.safetensors", "preference.json"
SCORED_TOKENS = 4096  # a pass without gradients: not `micro_tokens`, so that targets stay when that changes on a resume


@dataclass(frozen=True)
class Preference:
    """`logits(ballots)` gives logit v(a, b) of all pairs of each ballot, `[K, K]`; `info` says how v was fitted."""

    info: Mapping[str, Any]
    logits: Callable[[Sequence[TokenBallot]], list[Floats]]


def check_preference(kind: str, settings: Settings) -> None:
    """Raises UserError for a kind that has no such head or cannot be trained jointly, or contradicts the settings."""
    if settings.gamma is not None and kind != "frozen":
        raise UserError(f"--gamma {settings.gamma}: joint training reads --kind frozen features, not --kind {kind}")
    check_kind(kind, settings_of(kind, settings))
    if settings.head != "score" and kind != "frozen":
        raise UserError(f"--head {settings.head}: needs --kind frozen; --kind {kind} has a score")


def open_preference(
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    *,
    kind: str,
    seed: int,
    folder: Path,
    reward: Reward | None = None,
) -> Preference:
    """The preference that the settings describe: fitted to the votes and left in `folder`, or what is there already.

    A `reward` is taken as the score. Raises UserError for votes that cannot be fitted.
    """
    check_preference(kind, settings)
    if settings.head != "score":
        return _fit_or_load(bench, tokens, held_out, settings, seed=seed, folder=folder)
    found = reward or fit_or_load(bench, tokens, held_out, settings, kind=kind, seed=seed, folder=folder)
    return of_reward(found, bench, settings.pass_tokens)


# --- a reward model's ------------------------------------------------------------------------------------------------


def of_reward(reward: Reward, bench: Workbench, micro_tokens: int) -> Preference:
    """logit v(a, b) = score_a − score_b. Frozen features come from the store, other scores from a forward pass."""

    def logits(ballots: Sequence[TokenBallot]) -> list[Floats]:
        return [s[:, None] - s[None, :] for s in _by_ballot(_scores(reward, ballots, bench, micro_tokens), ballots)]

    info = {"head": "score", "reward": reward.sha256}
    return Preference(info | (dict(reward.info) if isinstance(reward, RewardModel) else {}), logits)


def _scores(reward: Reward, ballots: Sequence[TokenBallot], bench: Workbench, micro_tokens: int) -> Floats:
    """Scores of all responses, in order, `[B]`."""
    if isinstance(reward, RewardModel) and reward.linear:
        layer, weight_D = reward.linear
        features_BD = pooled_features(bench, ballots, [layer], micro_tokens)[0]
        return np.asarray(features_BD.astype(np.float64) @ weight_D.double().cpu().numpy())
    device = bench.base.model.device
    return score_ballots(
        lambda group: reward.scores(bench.layout.lay_out(group).to(device)), ballots, bench, SCORED_TOKENS
    )


def _by_ballot(values: Any, ballots: Sequence[TokenBallot]) -> list[Any]:
    """Rows of all responses, cut ballot by ballot."""
    return np.split(values, np.cumsum([len(ballot.responses) for ballot in ballots])[:-1])


# --- a linear one ----------------------------------------------------------------------------------------------------


def _fit_or_load(
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    *,
    seed: int,
    folder: Path,
) -> Preference:
    if not (folder / RECORD).exists():
        say(f"preference, seed {seed} ({settings.head} head)")
        _fit(bench, prepare_held_out(tokens.ballots), prepare_held_out(held_out), settings, seed=seed, folder=folder)
        return_freed_memory()
    return load_linear(folder, bench, settings.pass_tokens)


def _fit(
    bench: Workbench,
    training: Sequence[TokenBallot],
    held_out: Sequence[TokenBallot],
    settings: Settings,
    *,
    seed: int,
    folder: Path,
) -> None:
    """Fit the head to the votes and write it with what was chosen and how good it is on held-out votes."""
    _, layers = candidate_layers(bench)
    ballots = [winner_first(b) for b in training] if settings.head == "unconstrained" else training
    features_LBD = pooled_features(bench, ballots, layers, settings.pass_tokens)
    target = targets_of(ballots, settings)
    fit = fit_frozen(features_LBD, ballots, target, seed=seed, head=settings.head, flip_rate=rate_of(settings))
    layer = layers[fit.candidate]
    info = {"head": fit.head.name, "layer": layer, "penalty": fit.penalty, "cross_validated_log_loss": fit.log_loss}
    info |= {"flip_rate": fit.flip_rate} if fit.flip_rate else {}
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"weight": fit.weight, "directions": fit.head.directions, "center": fit.head.center}
    save_file({name: np.ascontiguousarray(value) for name, value in parts.items()}, folder / TENSORS)
    if held_out and settings.head != "unconstrained":
        features_BD = pooled_features(bench, held_out, [layer], settings.pass_tokens)[0]
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


# --- targets ---------------------------------------------------------------------------------------------------------


def set_targets(
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    seed: int,
    folder: Path,
    *,
    kind: str,
    reward: Reward | None = None,
) -> Targets:
    """The ballots with v's word on every pair in the place of the votes; v is `open_preference`'s."""
    check_extra_responses(bench, tokens, settings)
    use = all_pairs if settings.pairs == "all" else voted_pairs
    if settings.target == "winner-loser" or settings.head == "unconstrained" or settings.gamma is not None:
        use = winners
    wide = add_responses(bench, tokens.ballots, settings, seed)
    blank = tuple(use(ballot, np.zeros((len(ballot.responses),) * 2)) for ballot in wide)
    if kind == "frozen":
        # what is computed of a ballot does not depend on its targets, so one pass gives log-probs and features
        plan = prepare_training(AMORTIZED_IPO, replace(tokens, ballots=blank), settings, bench.layout, seed)
        reference_values(bench, plan, stored_layers(bench))
    if settings.gamma is not None:
        return Targets(replace(tokens, ballots=blank), {"head": "score"}, 0, companion_of(bench, wide, settings))
    preference = open_preference(bench, tokens, held_out, settings, kind=kind, seed=seed, folder=folder, reward=reward)
    ballots = tuple(map(use, wide, preference.logits(wide)))
    sampled = _response_tokens(wide) - _response_tokens(tokens.ballots)
    counts = {"pairs": sum(len(ballot.votes) for ballot in ballots), "sampled_tokens": sampled}
    return Targets(replace(tokens, ballots=ballots), {**preference.info, **counts}, sampled)


def companion_of(bench: Workbench, ballots: Sequence[TokenBallot], settings: Settings) -> Companion:
    """Standardised features of the middle layer, for a score that is trained beside the policy (an ablation)."""
    _, layers = candidate_layers(bench)
    features_BD = pooled_features(bench, ballots, [layers[len(layers) // 2]], settings.pass_tokens)[0]
    scaled_BD = torch.tensor((features_BD - features_BD.mean(0)) / np.maximum(features_BD.std(0), 1e-6))
    keys = [key for ballot in ballots for key in response_keys(ballot)]
    return Companion(dict(zip(keys, scaled_BD, strict=True)))


def _response_tokens(ballots: Sequence[TokenBallot]) -> int:
    return sum(len(ids) for ballot in ballots for ids in ballot.responses)


def all_pairs(ballot: TokenBallot, logit_KK: Floats) -> TokenBallot:
    """v's word on all K(K−1)/2 pairs (but those of responses with the same tokens), each counting alike.

    Together they count as much as the votes did, so that prompts weigh what they weigh in IPO.
    """
    responses = ballot.responses
    pairs = [(a, b) for a, b in combinations(range(len(responses)), 2) if responses[a] != responses[b]]
    weight = sum(vote.weight for vote in ballot.votes) / len(pairs)
    votes = tuple(Vote(a, b, float(expit(logit_KK[a, b])), weight) for a, b in pairs)
    return replace(ballot, votes=votes, logits=tuple(float(logit_KK[a, b]) for a, b in pairs))


def voted_pairs(ballot: TokenBallot, logit_KK: Floats) -> TokenBallot:
    """v's word on the pairs that were voted on, weighted as the votes were (an ablation: the same pairs only)."""
    votes = tuple(replace(vote, p=float(expit(logit_KK[vote.a, vote.b]))) for vote in ballot.votes)
    return replace(ballot, votes=votes, logits=tuple(float(logit_KK[vote.a, vote.b]) for vote in ballot.votes))


def winners(ballot: TokenBallot, logit_KK: Floats) -> TokenBallot:
    """v's word on the pairs that were voted on, told from the winner's side (ablations that need to know it)."""
    told = winner_first(ballot)
    return replace(told, logits=tuple(float(logit_KK[vote.a, vote.b]) for vote in told.votes))


# --- extra responses -------------------------------------------------------------------------------------------------


def check_extra_responses(bench: Workbench, tokens: TokenSet, settings: Settings) -> None:
    """Raises UserError if a sampled response does not fit into what the model reads."""
    if settings.extra_responses:
        check_room(bench, max(len(ballot.prompt) for ballot in tokens.ballots), settings.max_new_tokens)


def add_responses(
    bench: Workbench, ballots: Sequence[TokenBallot], settings: Settings, seed: int
) -> tuple[TokenBallot, ...]:
    """The ballots with `settings.extra_responses` more responses each, sampled from the reference: pairs from μ.

    The samples are a function of (seed, prompt, sample), so a run that is gone on with has the same ones.
    """
    if not settings.extra_responses:
        return tuple(ballots)
    prompts = tuple(dict.fromkeys(ballot.prompt for ballot in ballots))
    with bench.reference.alone() as model:
        rollouts = sample_responses(
            model,
            prompts,
            stops=bench.base.form.stops,
            samples=settings.extra_responses,
            max_new_tokens=settings.max_new_tokens,
            seed=f"extra/{seed}",
            precision=bench.precision,
            description="extra responses",
        )
    drawn = {prompt: rollout.responses for prompt, rollout in zip(prompts, rollouts, strict=True)}
    return tuple(replace(ballot, responses=ballot.responses + drawn[ballot.prompt]) for ballot in ballots)
