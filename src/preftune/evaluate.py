"""A policy on held-out prompts and ballots: what it samples, how far it has moved, how well it agrees with votes.

Every policy of a study meets the same prompts, the same ballots and the same random numbers. Every mean comes with a
standard error clustered by prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar

from .branches import pack
from .console import track
from .judges import Judge, Reward
from .logprobs import Layout, response_logprobs
from .results import Result, Sample
from .rollouts import Rollout, exact_kl, sample_responses
from .stats import Estimate, clustered_mean
from .stores import response_keys
from .tokens import TextFormat, TokenBallot
from .verdict import PROXY

Floats = npt.NDArray[np.float64]
Proxy = Callable[[Sequence[Rollout]], Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Questions:
    """What every policy of a study is asked: prompts to answer, ballots to agree with, and who judges the answers.

    `prompts` are token ids and `texts` what a person reads; `samples` responses are drawn to each. `judge` gives the
    reward, `others` are second opinions by name.
    """

    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    ballots: tuple[TokenBallot, ...]
    samples: int = 1
    max_new_tokens: int = 128
    seed: int = 0
    judge: Judge | None = None
    others: Mapping[str, Judge] = field(default_factory=dict)


@dataclass(frozen=True)
class VoteTable:
    """Held-out votes as a policy sees them, `[V]` each: log-ratio difference a − b in nats, p, weight, prompt."""

    difference: Floats
    p: Floats
    weight: Floats
    prompt: tuple[tuple[int, ...], ...]


# --- ballots ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def vote_table(
    model: Any,
    ballots: Sequence[TokenBallot],
    reference: Mapping[bytes, float],
    *,
    layout: Layout,
    precision: str,
    micro_tokens: int,
    reduction: str = "sum",
) -> VoteTable:
    """The policy's log-ratio differences on every vote of the ballots; `reference` holds log π_ref by response key."""
    device = next(model.parameters()).device
    ratios: dict[int, list[float]] = {}
    groups = evaluation_groups(ballots, layout, micro_tokens)
    for group in track(groups, "held-out ballots"):
        batch = layout.lay_out([ballots[i] for i in group]).to(device)
        logprobs = response_logprobs(model, batch, precision=precision).tolist()
        lengths = batch.lengths_B().tolist() if reduction == "mean" else [1] * len(logprobs)
        known = [reference[key] for i in group for key in response_keys(ballots[i])]
        values = iter([(lp - ref) / n for lp, ref, n in zip(logprobs, known, lengths, strict=True)])
        ratios |= {i: [next(values) for _ in ballots[i].responses] for i in group}
    differences = [ratios[i][vote.a] - ratios[i][vote.b] for i, ballot in enumerate(ballots) for vote in ballot.votes]
    return replace(reference_table(ballots), difference=np.array(differences))


def reference_table(ballots: Sequence[TokenBallot]) -> VoteTable:
    """The votes as the reference sees them: its log-ratios are 0 by definition, not up to rounding."""
    votes = [(vote, ballot.prompt) for ballot in ballots for vote in ballot.votes]
    return VoteTable(
        difference=np.zeros(len(votes)),
        p=np.array([vote.p for vote, _ in votes]),
        weight=np.array([vote.weight for vote, _ in votes]),
        prompt=tuple(prompt for _, prompt in votes),
    )


def evaluation_groups(ballots: Sequence[TokenBallot], layout: Layout, micro_tokens: int) -> list[list[int]]:
    """Micro-batches of held-out ballots: the same for every policy and for the reference."""
    return pack([layout.size(ballot) for ballot in ballots], micro_tokens)


def accuracy(table: VoteTable) -> Estimate:
    """Share of the vote weight that agrees with the sign of the difference; a tie on either side counts one half."""
    says_a = np.where(table.difference > 0, 1.0, np.where(table.difference < 0, 0.0, 0.5))
    return clustered_mean(table.p * says_a + (1 - table.p) * (1 - says_a), table.prompt, table.weight)


def log_loss(table: VoteTable) -> Estimate | None:
    """Mean of −p·log σ(cΔ) − (1 − p)·log σ(−cΔ) in nats per vote, c ≥ 0 fitted on the other half of the prompts.

    IPO's margin is no logit and every arm has a scale of its own; a fitted scale makes their log-losses comparable.
    None with fewer than two prompts, where there is no other half.
    """
    prompts = sorted(set(table.prompt))
    if len(prompts) < 2:
        return None
    number = {prompt: i for i, prompt in enumerate(prompts)}
    half = np.array([number[prompt] % 2 for prompt in table.prompt])
    losses = np.empty_like(table.difference)
    for side in (0, 1):
        here, there = half == side, half != side
        scale = _fit_scale(table.difference[there], table.p[there], table.weight[there])
        losses[here] = _vote_losses(scale * table.difference[here], table.p[here])
    return clustered_mean(losses, table.prompt, table.weight)


def _vote_losses(logits: Floats, p: Floats) -> Floats:
    return p * np.logaddexp(0, -logits) + (1 - p) * np.logaddexp(0, logits)


def _fit_scale(difference: Floats, p: Floats, weight: Floats) -> float:
    spread = float(np.sqrt(np.mean(difference**2)))
    if spread == 0:
        return 0.0

    def objective(scale: float) -> float:
        return float(weight @ _vote_losses(scale * difference / spread, p))

    return float(minimize_scalar(objective, bounds=(0, 100), method="bounded").x) / spread


# --- samples ---------------------------------------------------------------------------------------------------------


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
            prompt_id=i,
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


@torch.no_grad()
def score_rollouts(
    reward: Reward, rollouts: Sequence[Rollout], *, layout: Layout, micro_tokens: int, device: torch.device
) -> list[list[float]]:
    """The reward of every sampled response."""
    ballots = [TokenBallot(rollout.prompt, rollout.responses, ()) for rollout in rollouts]
    scores: dict[int, list[float]] = {}
    for group in track(evaluation_groups(ballots, layout, micro_tokens), "scores"):
        values = iter(reward.scores(layout.lay_out([ballots[i] for i in group]).to(device)).tolist())
        scores |= {i: [next(values) for _ in ballots[i].responses] for i in group}
    return [scores[i] for i in range(len(ballots))]


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
