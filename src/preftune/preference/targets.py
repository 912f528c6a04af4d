"""A fitted preference put in the place of votes: its word on every pair of a ballot. Shapes: K responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from scipy.special import expit

from ..data import TokenBallot, TokenSet, Vote
from ..evidence import Floats
from ..methods import AmortizedOptions
from ..model import Companion, Reward, Workbench, check_room, pooled_features, response_keys, sample_responses
from ..training import Targets, prepare_training, reference_values
from .fitting import Fitting
from .frozen import candidate_layers, stored_layers
from .linear import winner_first
from .preferences import open_preference


def set_targets(job: Fitting, *, reward: Reward | None = None) -> Targets:
    """The ballots with v's word on every pair in the place of the votes; v is `open_preference`'s."""
    bench, tokens, options = job.bench, job.tokens, job.recipe.options
    check_extra_responses(bench, tokens, options)
    use = all_pairs if options.pairs == "all" else voted_pairs
    if options.target == "winner-loser" or options.head == "unconstrained" or options.gamma is not None:
        use = winners
    wide = add_responses(bench, tokens.ballots, options, job.seed)
    blank = tuple(use(ballot, np.zeros((len(ballot.responses),) * 2)) for ballot in wide)
    if job.kind == "frozen":
        # what is computed of a ballot does not depend on its targets, so one pass gives log-probs and features
        plan = prepare_training(job.recipe, replace(tokens, ballots=blank), bench.layout, job.seed)
        reference_values(bench, plan, stored_layers(bench))
    if options.gamma is not None:
        companion = companion_of(bench, wide, job.recipe.settings.pass_tokens)
        return Targets(replace(tokens, ballots=blank), {"head": "score"}, 0, companion)
    preference = open_preference(job, reward=reward)
    ballots = tuple(map(use, wide, preference.logits(wide)))
    sampled = _response_tokens(wide) - _response_tokens(tokens.ballots)
    counts = {"pairs": sum(len(ballot.votes) for ballot in ballots), "sampled_tokens": sampled}
    return Targets(replace(tokens, ballots=ballots), {**preference.info, **counts}, sampled)


def companion_of(bench: Workbench, ballots: Sequence[TokenBallot], micro_tokens: int) -> Companion:
    """Standardised features of the middle layer, for a score that is trained beside the policy (an ablation)."""
    _, layers = candidate_layers(bench)
    features_BD = pooled_features(bench, ballots, [layers[len(layers) // 2]], micro_tokens)[0]
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


def check_extra_responses(bench: Workbench, tokens: TokenSet, options: AmortizedOptions) -> None:
    """Raises UserError if a sampled response does not fit into what the model reads."""
    if options.extra_responses:
        check_room(bench, max(len(ballot.prompt) for ballot in tokens.ballots), options.max_new_tokens)


def add_responses(
    bench: Workbench, ballots: Sequence[TokenBallot], options: AmortizedOptions, seed: int
) -> tuple[TokenBallot, ...]:
    """The ballots with `options.extra_responses` more responses each, sampled from the reference: pairs from μ.

    The samples are a function of (seed, prompt, sample), so a run that is gone on with has the same ones.
    """
    if not options.extra_responses:
        return tuple(ballots)
    prompts = tuple(dict.fromkeys(ballot.prompt for ballot in ballots))
    with bench.reference.alone() as model:
        rollouts = sample_responses(
            model,
            prompts,
            stops=bench.base.form.stops,
            samples=options.extra_responses,
            max_new_tokens=options.max_new_tokens,
            seed=f"extra/{seed}",
            precision=bench.precision,
            description="extra responses",
        )
    drawn = {prompt: rollout.responses for prompt, rollout in zip(prompts, rollouts, strict=True)}
    return tuple(replace(ballot, responses=ballot.responses + drawn[ballot.prompt]) for ballot in ballots)
