"""The reward models of a study, and what they think of samples above what they think of the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..model import Reward, RewardModel, Rollout, Workbench, sample_responses, score_ballots
from ..preference import Fitting, fit_or_load
from .evaluate import Proxy
from .naming import condition_folder
from .plan import Plan, StudyData
from .questions import Questions


@dataclass(frozen=True)
class StudyReward:
    """The reward model of a seed and noise, and its score of the reference's own samples, by prompt."""

    model: RewardModel
    reference: tuple[float, ...]


def fit_rewards(
    folder: Path,
    bench: Workbench,
    plan: Plan,
    data: StudyData,
    questions: Questions,
    digests: frozenset[str],
) -> dict[tuple[int, float], StudyReward]:
    """One reward model per seed and noise, in `folder/rewards`; what is there already is used again."""
    found = {}
    rollouts: list[Rollout] = []
    for where in plan.conditions():
        place = folder / "rewards" / condition_folder(*where)
        votes = data.votes[where].tokens
        model = fit_or_load(
            Fitting(bench, votes, data.held_out.ballots, plan.reward_recipe, plan.kind, where[0], place, digests)
        )
        if questions.prompts and not rollouts:
            rollouts = reference_rollouts(bench, questions, questions.samples, questions.seed)
        scores = mean_scores(model, rollouts, bench, plan.settings.pass_tokens) if rollouts else ()
        found[where] = StudyReward(model, scores)
    return found


def reference_rollouts(bench: Workbench, questions: Questions, samples: int, seed: int | str) -> list[Rollout]:
    """Samples of the reference to the study's prompts."""
    with bench.reference.alone() as model:
        return sample_responses(
            model,
            questions.prompts,
            stops=bench.base.form.stops,
            samples=samples,
            max_new_tokens=questions.max_new_tokens,
            seed=seed,
            precision=bench.precision,
        )


def above_reference(reward: Reward, reference: Sequence[float], bench: Workbench, micro_tokens: int) -> Proxy:
    """What a reward model thinks of samples, less its mean over the reference's samples of the same prompt."""

    def proxy(rollouts: Sequence[Rollout]) -> list[list[float]]:
        scores = score_rollouts(reward, rollouts, bench, micro_tokens)
        return [[s - start for s in row] for row, start in zip(scores, reference, strict=True)]

    return proxy


def mean_scores(reward: Reward, rollouts: Sequence[Rollout], bench: Workbench, micro_tokens: int) -> tuple[float, ...]:
    """The mean score of the samples of each prompt."""
    return tuple(float(np.mean(row)) for row in score_rollouts(reward, rollouts, bench, micro_tokens))


def score_rollouts(
    reward: Reward, rollouts: Sequence[Rollout], bench: Workbench, micro_tokens: int
) -> list[list[float]]:
    """The reward of every sampled response."""
    return score_ballots(reward.scores, [rollout.ballot for rollout in rollouts], bench, micro_tokens)
