"""A policy on held-out prompts and ballots: what it samples, how far it has moved, how well it agrees with votes.

Every policy of a study meets the same prompts, the same ballots and the same random numbers. Every mean comes with a
standard error clustered by prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data import TextFormat
from ..evidence import (
    PROXY,
    Estimate,
    Floats,
    Result,
    Sample,
    VoteTable,
    accuracy,
    clustered_mean,
    log_loss,
    reliability,
)
from ..model import Layout, Rollout, exact_kl, sample_responses
from .questions import Questions

Proxy = Callable[[Sequence[Rollout]], Sequence[Sequence[float]]]


def answer(
    model: Any,
    reference: Any,
    questions: Questions,
    form: TextFormat,
    *,
    run: str,
    step: int,
    layout: Layout,
    precision: str,
    micro_tokens: int,
    merged: Any,
    proxy: Proxy | None = None,
) -> list[Sample]:
    """Sample the policy's responses to all prompts, with their KL and rewards.

    `reference` and `merged` make context managers: the one yields the reference model (None: the policy is the
    reference, and its KL is 0), within the other the policy samples with its adapter folded in. `proxy` says what a
    reward model thinks of the samples.
    """
    with merged():
        rollouts = sample_responses(
            model,
            questions.prompts,
            stops=form.stops,
            samples=questions.samples,
            max_new_tokens=questions.max_new_tokens,
            seed=questions.seed,
            precision=precision,
        )
    if reference is None:
        kl = [[0.0] * questions.samples for _ in rollouts]
    else:
        kl = exact_kl(model, reference, rollouts, layout=layout, precision=precision, micro_tokens=micro_tokens)
    scores = proxy(rollouts) if proxy else None
    return make_samples(rollouts, kl, questions, form, run=run, step=step, proxy=scores)


def make_samples(
    rollouts: Sequence[Rollout],
    kl: Sequence[Sequence[float]],
    questions: Questions,
    form: TextFormat,
    *,
    run: str,
    step: int,
    proxy: Sequence[Sequence[float]] | None = None,
) -> list[Sample]:
    """Rollouts of all prompts as records, with what the judges say of them."""
    samples = [
        Sample(
            run=run,
            step=step,
            prompt_id=questions.first + i,
            prompt=questions.texts[i],
            sample=k,
            response=form.text(ids),
            tokens=len(ids),
            ended=rollout.ended[k],
            kl=kl[i][k],
            extra={PROXY: proxy[i][k]} if proxy else {},
        )
        for i, rollout in enumerate(rollouts)
        for k, ids in enumerate(rollout.responses)
    ]
    return _judged(samples, questions)


def best_of(rollouts: Sequence[Rollout], scores: Sequence[Sequence[float]], n: int) -> list[Rollout]:
    """Of the first n responses to each prompt, the one with the highest score (of equals the first)."""
    chosen = [max(range(n), key=lambda k: row[k]) for row in scores]
    pairs = zip(rollouts, chosen, strict=True)
    return [Rollout(r.prompt, (r.responses[k],), (r.ended[k],)) for r, k in pairs]


def _judged(samples: list[Sample], questions: Questions) -> list[Sample]:
    prompts, responses = [s.prompt for s in samples], [s.response for s in samples]
    if questions.judge is not None:
        rewards = questions.judge.rewards(prompts, responses)
        samples = [replace(s, reward=float(r)) for s, r in zip(samples, rewards, strict=True)]
    for name, judge in questions.others.items():
        rewards = judge.rewards(prompts, responses)
        samples = [replace(s, extra={**s.extra, name: float(r)}) for s, r in zip(samples, rewards, strict=True)]
    return samples


def summarise(
    samples: Sequence[Sample],
    reference: Sequence[Sample],
    table: VoteTable | None,
    validation: VoteTable | None = None,
    **identity: Any,
) -> Result:
    """The means over prompts of one policy's samples and votes, as a row of results.

    `reference` are the reference's samples of the same prompts; gain and win rate are paired with them by prompt.
    `table` has held-out votes, `validation` votes that were taken out of the training ones.
    """
    prompts = [sample.prompt_id for sample in samples]
    estimates: dict[str, Estimate | None] = {}
    if samples:
        estimates["kl"] = clustered_mean([s.kl for s in samples], prompts)
        estimates["length"] = clustered_mean([s.tokens for s in samples], prompts)
        if samples[0].reward is not None:
            estimates |= _rewards(samples, reference)
    if table is not None:
        estimates |= {"accuracy": accuracy(table), "log_loss": log_loss(table)}
    if validation is not None:
        estimates["validation"] = log_loss(validation)
    values: dict[str, Any] = {}
    for name, estimate in estimates.items():
        if estimate is not None:
            values |= {name: estimate.value, f"{name}_se": estimate.se}
    extra: dict[str, float] = {}
    for name in samples[0].extra if samples else ():
        opinion = clustered_mean([s.extra[name] for s in samples], prompts)
        extra |= {name: opinion.value, f"{name}_se": opinion.se or 0.0}
    ended = float(np.mean([s.ended for s in samples])) if samples else None
    return Result(**identity, **values, ended=ended, extra=extra)


HALF_AND_MARGIN = ("ipo", "amortized-ipo")  # their target is h = p − ½, so that they predict p = ½ + h
WITHOUT_PREDICTION = ("sft", "gpo", "best-of-n")


def calibration(table: VoteTable, method: str, beta: float | None) -> list[dict[str, float]]:
    """Bins of what a policy's margins h = β·Δlog-ratio predict of votes, against the votes (`reliability`).

    σ(h) is the prediction of an implicit Bradley–Terry reward, ½ + h (within 0 and 1) that of IPO. Empty for a method
    whose margins predict no probability.
    """
    if beta is None or method in WITHOUT_PREDICTION:
        return []
    margin = beta * table.difference
    if method in HALF_AND_MARGIN:
        predicted = np.clip(0.5 + margin, 1e-6, 1 - 1e-6)
        margin = np.log(predicted / (1 - predicted))
    return reliability(replace(table, difference=margin))


def _rewards(samples: Sequence[Sample], reference: Sequence[Sample]) -> dict[str, Estimate | None]:
    own, other = _rewards_by_prompt(samples), _rewards_by_prompt(reference)
    prompts = sorted(own)
    gains = [np.mean(own[i]) - np.mean(other[i]) for i in prompts]
    wins = [_win_rate(np.array(own[i]), np.array(other[i])) for i in prompts]
    return {
        "reward": clustered_mean([np.mean(own[i]) for i in prompts], prompts),
        "gain": clustered_mean(gains, prompts),
        "win_rate": clustered_mean(wins, prompts),
    }


def _rewards_by_prompt(samples: Sequence[Sample]) -> dict[int, list[float]]:
    rewards: dict[int, list[float]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: (s.prompt_id, s.sample)):
        rewards[sample.prompt_id].append(sample.reward if sample.reward is not None else float("nan"))
    return rewards


def _win_rate(own: Floats, other: Floats) -> float:
    """Share of pairs that the policy wins, ties one half.

    Samples with the same number share their random numbers, so pairs are made across numbers, where there are two.
    """
    wins = (own[:, None] > other) + 0.5 * (own[:, None] == other)
    if len(own) == 1:
        return float(wins.mean())
    return float(wins[~np.eye(*wins.shape, dtype=np.bool_)].mean())
