"""One run: what a method trains on becomes a trained policy, its metrics and its resumable state in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import TokenBallot, sent
from ..methods import Scored, Terms
from ..model import (
    Policy,
    ReferenceValues,
    Reward,
    RewardModel,
    StartCheck,
    Workbench,
    closed_on_error,
    fill_store,
    load_reward,
    ranks,
    response_keys,
    response_logprobs,
    start_check,
    start_policy,
)
from .online import PromptTraining, train_online
from .preparing import AnyTraining, Training
from .session import Session, run_session
from .votes import measure_held_out


def train_policy(
    bench: Workbench,
    training: Training,
    *,
    beta: float | None,
    seed: int,
    folder: Path,
    resume: bool,
    description: str,
    at_checkpoint: Callable[[int, Policy], None] = lambda step, policy: None,
    checkpoints: int = 1,
) -> Policy:
    """Train one policy on ballots, its metrics in `folder/metrics.jsonl` and its resumable state in `folder/state`.

    `at_checkpoint(step, policy)` runs at evenly spaced steps. With `resume` it goes on from the saved state; the
    result equals that of an uninterrupted run bit for bit. Raises UserError when the state belongs to other settings
    or data, and Interrupted after a request to stop.
    """
    settings = training.recipe.settings
    session = Session(folder, run_identity(bench, training, beta, seed), resume=resume)
    reference = reference_values(bench, training)
    start = None
    if training.method.uses_reference and session.record() is None:
        computed = () if settings.compile else reference.computed
        first, source = set(training.plan[0].micro_batches), f"a reference log-prob in {bench.store.path}"
        start = start_check(bench, first, computed, source)
    policy = start_policy(bench.base, seed=seed, **settings.policy_options())
    with closed_on_error(policy):
        beside = training.companion.start(bench.base.device) if training.companion else None
        parameters = policy.trainable()
        if beside:
            parameters |= dict(beside.named_parameters(prefix="preference"))
        loss = partial(loss_of_votes, policy, bench, training, reference.logprobs, beta or 0.0)
        run_session(
            session,
            lambda done: training.plan[done:],
            ranks().within(policy.model, partial(loss, beside=beside, start=start)),
            parameters=parameters,
            settings=settings,
            total=len(training.plan),
            tokens_of=lambda indices: sum(bench.layout.size(training.ballots[i]) for i in indices),
            description=description,
            at_checkpoint=lambda step: at_checkpoint(step, policy),
            checkpoints=checkpoints,
        )
    return policy


def train_any(
    bench: Workbench,
    training: AnyTraining,
    reward: Reward | None,
    *,
    beta: float | None,
    **given: Any,
) -> Policy:
    """`train_policy` on votes, or `train_online` on the policy's own samples; UserError if that has no reward."""
    if not isinstance(training, PromptTraining):
        return train_policy(bench, training, beta=beta, **given)
    if reward is None:
        raise RuntimeError(f"{training.method.name} learns from a reward, and none was fitted")
    return train_online(bench, training, reward, beta=float(beta or 0), **given)


def loss_of_votes(
    policy: Policy,
    bench: Workbench,
    training: Training,
    reference: Mapping[bytes, float],
    beta: float,
    indices: Sequence[int],
    beside: nn.Linear | None = None,
    start: StartCheck | None = None,
) -> Terms:
    """Forward pass and loss of one micro-batch of ballots, whose reference log-probs are given by content.

    `beside` is the score that the training's companion is read by; `start` looks at the first step.
    """
    ballots = [training.ballots[i] for i in indices]
    batch = bench.layout.lay_out(ballots).to(next(policy.model.parameters()).device)
    # the loop looks at every step's gradient; on a GPU, to look at log-probs too would be to wait for them, and of
    # several processes one alone would stop
    look = batch.ids_RT.device.type == "cpu" and ranks().world == 1
    logprob_B = response_logprobs(policy.model, batch, precision=bench.precision, look=look)
    reference_B = torch.zeros_like(logprob_B)
    keys = [key for ballot in ballots for key in response_keys(ballot)]
    if training.method.uses_reference:
        reference_B = sent(torch.tensor([reference[key] for key in keys], dtype=logprob_B.dtype), logprob_B.device)
    if start:
        start.see(indices, keys, logprob_B - reference_B, batch.lengths_B())
    score_B = training.companion.scores(beside, keys) if training.companion and beside else None
    scored = Scored(ballots, logprob_B, reference_B, batch.lengths_B(), score_B)
    return training.method.loss(scored, beta, training.recipe.options)


def reference_values(bench: Workbench, training: Training, layers: Sequence[int] = ()) -> ReferenceValues:
    """Reference log-probs of the ballots that the plan reaches, computed in the plan's own micro-batches."""
    if not training.method.uses_reference:
        return ReferenceValues({}, frozenset())
    seen: set[int] = set()
    groups = []
    for step in training.plan:
        for indices in step.micro_batches:
            if not seen.issuperset(indices):
                groups.append([training.ballots[i] for i in indices])
                seen.update(indices)
    return fill_store(
        bench.store, bench.reference, groups, layout=bench.layout, precision=bench.precision, layers=layers
    )


def run_identity(bench: Workbench, training: Training, beta: float | None, seed: int) -> dict[str, Any]:
    """What a saved state must agree with to be continued: what the method reads, and nothing else."""
    data = hashlib.sha256(repr(training.ballots).encode()).hexdigest()
    named = {"method": training.method.name, "seed": seed} | ({"beta": beta} if training.method.uses_reference else {})
    content = {"model": bench.base.sha256, "reference": bench.reference.sha256, "data": data}
    return named | training.recipe.counting() | content


def train_and_measure(
    bench: Workbench,
    training: AnyTraining,
    reward: Reward | None,
    held_out: Sequence[TokenBallot],
    **given: Any,
) -> tuple[Policy, dict[str, Any]]:
    """`train_any`, and what held-out votes say of the policy: at its last step, so that no request to stop loses it."""
    measured: dict[str, Any] = {}

    def measure(step: int, policy: Policy) -> None:
        measured.update(measure_held_out(policy, bench, held_out, training.recipe))

    policy = train_any(bench, training, reward, at_checkpoint=measure, **given)
    if not measured:  # it was, before the state was saved from which this run went on
        measure(training.steps, policy)
    return policy, measured


def open_reward(folder: str | Path, bench: Workbench, *, chats: bool = True) -> RewardModel:
    """The reward model of a folder, as it scores what the workbench lays out, `chats` among it or not."""
    base, layout, precision = bench.base, bench.layout, bench.precision
    return load_reward(folder, base, layout=layout, precision=precision, device=base.device, chats=chats)
