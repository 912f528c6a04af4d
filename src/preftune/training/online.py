"""Training on the policy's own samples: prompts become scored rollouts, rollouts become steps of THE training loop.

Nothing here loops over optimiser steps: `Collector.steps` is an iterator that samples when the loop asks for more.
What is sampled is a function of (seed, iteration, prompt, sample), so a resumed run samples what it would have.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data import BranchBatch, Prompt, TextFormat, TokenBallot, fit_prompts
from ..errors import UserError
from ..methods import Experience, OnlineMethod, Terms, critic_loss, explained_variance
from ..model import (
    Policy,
    Reward,
    Rollout,
    Workbench,
    active_adapter,
    check_finite,
    check_room,
    chunked_comparison,
    chunked_logprobs,
    closed_on_error,
    head_of,
    predicting_states,
    response_keys,
    sample_responses,
    start_check,
    start_policy,
)
from ..objectives import adapted_beta
from ..text import excerpt
from .arms import Recipe
from .loop import Step, plan_steps
from .session import Session, run_session
from .settings import Settings

ADAM_EPS = 1e-5


# --- what it trains on ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptTraining:
    """The prompts that an online method samples from, the prompts of each iteration, and what was cut, by reason."""

    recipe: Recipe
    prompts: tuple[tuple[int, ...], ...]
    plan: tuple[Step, ...]
    passes: int
    left_out: Mapping[str, int]

    @property
    def method(self) -> OnlineMethod:
        """Whose training it is."""
        method: OnlineMethod = self.recipe.method
        return method

    @property
    def steps(self) -> int:
        """Optimiser steps: each iteration's samples are used `passes` times."""
        return len(self.plan) * self.passes


def prepare_prompts(recipe: Recipe, prompts: Sequence[Prompt], form: TextFormat, seed: int) -> PromptTraining:
    """Token ids of the distinct prompts, shortened to leave room for a response, and the plan of all iterations.

    Raises UserError when there is no room for a prompt.
    """
    settings, new = recipe.settings, recipe.options.max_new_tokens
    if new >= settings.max_length:
        raise UserError(
            f"--max-new-tokens {new}: must leave room for a prompt within --max-length {settings.max_length}"
        )
    fitted, left_out = fit_prompts(dict.fromkeys(prompts), form, settings.max_length - new)
    distinct = tuple(dict.fromkeys(ids for _, ids in fitted))
    if not distinct:
        raise UserError(
            f"--data: no prompt to sample from for {recipe.method.name} ({'; '.join(left_out) or 'no ballots'})"
        )
    passes = recipe.options.inner_epochs if recipe.method.reuses else 1
    return PromptTraining(recipe, distinct, plan_iterations(settings, len(distinct), seed), passes, left_out)


def plan_iterations(settings: Settings, prompts: int, seed: int) -> tuple[Step, ...]:
    """Which of so many prompts each iteration samples from."""
    ones = [1] * prompts
    plan = plan_steps(
        ones,
        ones,
        batch_size=settings.batch_size,
        micro_tokens=prompts,
        seed=seed,
        epochs=settings.epochs,
        steps=settings.steps,
    )
    return tuple(plan)


# --- the critic -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Critic:
    """The value of the state before each token: a linear head on a trunk of its own, an adapter or a copy.

    The head starts at 0, so that before anything is learned every state is worth nothing.
    """

    model: Any
    head: nn.Linear
    adapter: str | None

    def values(self, batch: BranchBatch, precision: str) -> Tensor:
        """`[N]`, at the places where the response's tokens are predicted."""
        with active_adapter(self.model, self.adapter) if self.adapter else nullcontext():
            hidden_ND = predicting_states(self.model, batch, precision)
        values_N: Tensor = self.head(hidden_ND.float())[:, 0]
        return values_N

    def trainable(self) -> dict[str, nn.Parameter]:
        """The head's parameters, and the trunk's where it is a copy (an adapter's are the policy model's)."""
        own = {} if self.adapter else {f"critic.{name}": p for name, p in self.model.get_decoder().named_parameters()}
        return own | {f"critic.head.{name}": p for name, p in self.head.named_parameters()}


def start_critic(policy: Policy, bench: Workbench) -> Critic:
    """A critic that starts from the base model: a second adapter in it, or a copy of all weights."""
    config = bench.base.model.config.get_text_config()
    device = next(policy.model.parameters()).device
    head = nn.Linear(config.hidden_size, 1).to(device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if policy.adapter is None:
        trunk = copy.deepcopy(bench.base.model).requires_grad_(True).to(device)
        return Critic(trunk.train(), head, None)
    before = {name: parameter.requires_grad for name, parameter in policy.model.named_parameters()}
    policy.adapter.add_adapter("value", policy.adapter.peft_config["default"])
    for name, parameter in policy.model.named_parameters():  # peft trains one adapter at a time; here two are
        parameter.requires_grad_(before.get(name, ".value." in name))
    return Critic(policy.model, head, "value")


# --- rollouts ---------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A micro-batch: which network it trains, and the prompts of the iteration whose experience it is."""

    trains: str  # "policy" or "critic"
    prompts: tuple[int, ...]


@dataclass
class Collector:
    """Samples with the live policy, scores, and cuts what came of it into optimiser steps.

    `beta` is the KL coefficient of now, which follows the option `kl_target` where one is set.
    """

    bench: Workbench
    training: PromptTraining
    reward: Reward
    seed: int
    beta: float
    policy: Policy
    critic: Critic | None
    batch: list[Experience] = field(default_factory=list)
    explained: float = 0.0

    def steps(self, done: int) -> Iterator[Step]:
        """The optimiser steps after the first `done` ones. Samples anew whenever the last batch is used up."""
        passes = self.training.passes
        for iteration in self.training.plan[done // passes :]:
            self.collect(iteration)
            groups = self.bench.layout.groups([e.ballot for e in self.batch], self.training.recipe.settings.pass_tokens)
            networks = ("policy", "critic") if self.critic else ("policy",)
            parts = tuple(Part(network, tuple(group)) for network in networks for group in groups)
            mass = sum(map(self.training.method.mass, self.batch))
            for number in range(passes):
                last = number + 1 == passes
                if last and self.training.recipe.options.kl_target:
                    self._follow_target()
                yield Step((iteration.number - 1) * passes + number + 1, parts, mass, whole=last)

    def collect(self, iteration: Step) -> None:
        """Sample, score and judge the responses of one iteration."""
        recipe = self.training.recipe
        prompts = [self.training.prompts[i] for group in iteration.micro_batches for i in group]
        with self.policy.merged():
            rollouts = sample_responses(
                self.policy.model,
                prompts,
                stops=self.bench.base.form.stops,
                samples=recipe.options.rollouts,
                max_new_tokens=recipe.options.max_new_tokens,
                seed=f"rollout/{self.seed}/{iteration.number}",
                precision=self.bench.precision,
                description=f"rollouts {iteration.number}",
            )
        ballots = [rollout.ballot for rollout in rollouts]
        batch: dict[int, Experience] = {}
        with self.bench.reference.at_hand():
            for group in self.bench.layout.groups(ballots, recipe.settings.pass_tokens):
                measured = self._measure([ballots[i] for i in group], [rollouts[i] for i in group])
                batch |= dict(zip(group, measured, strict=True))
        fresh = [batch[i] for i in range(len(ballots))]
        if iteration.number == 1:
            self._check_start(fresh)
        self.batch = self.training.method.judge(fresh, self.beta, recipe.options)
        self.explained = explained_variance(self.batch) if self.critic else 0.0

    @torch.no_grad()
    def _measure(self, ballots: Sequence[TokenBallot], rollouts: Sequence[Rollout]) -> list[Experience]:
        model, precision = self.policy.model, self.bench.precision
        batch = self.bench.layout.lay_out(ballots).to(next(model.parameters()).device)
        score_B = self.reward.scores(batch)
        if not bool(score_B.isfinite().all()):
            bad = int((~score_B.isfinite()).nonzero()[0])
            text = self.bench.base.form.text([ids for ballot in ballots for ids in ballot.responses][bad])
            raise UserError(
                f"--reward: its score of a response is {float(score_B[bad])}, not a number: {excerpt(text)}"
            )
        hidden_ND, head = predicting_states(model, batch, precision), head_of(model)
        with self.bench.reference.alone() as other:
            other_hidden_ND, other_head = predicting_states(other, batch, precision), head_of(other)
        compared = chunked_comparison(hidden_ND, head, other_hidden_ND, other_head, batch.target_N)
        check_finite(compared.logprob_N, "log-probs of samples", model)
        check_finite(compared.kl_N, "values of KL", model)
        columns = [*compared] + ([self.critic.values(batch, precision)] if self.critic else [])
        sizes = [sum(map(len, ballot.responses)) for ballot in ballots]
        tokens = zip(*(column.split(sizes) for column in columns), strict=True)
        scores = score_B.split([len(ballot.responses) for ballot in ballots])
        return [
            Experience(ballot, rollout.ended, score_K, *values)
            for ballot, rollout, score_K, values in zip(ballots, rollouts, scores, tokens, strict=True)
        ]

    def _check_start(self, batch: Sequence[Experience]) -> None:
        """The policy that nothing has moved yet against its reference, both on the same samples."""
        keys = [key for e in batch for key in response_keys(e.ballot)]
        check = start_check(self.bench, {1}, keys, "the reference model")
        ratio_B = torch.cat([e.by_response(e.logprob_N - e.reference_N) for e in batch])
        check.see(1, keys, ratio_B, torch.tensor([length for e in batch for length in e.lengths]))

    def _follow_target(self) -> None:
        count = sum(len(e.ended) for e in self.batch)
        kl = float(sum(e.kl_N.sum() for e in self.batch)) / count
        target = self.training.recipe.options.kl_target
        self.beta = adapted_beta(self.beta, kl, target=float(target or 0), samples=count)

    def loss(self, part: Part) -> Terms:
        """Forward pass and loss of one micro-batch of experience."""
        experience = [self.batch[i] for i in part.prompts]
        batch = self.bench.layout.lay_out([e.ballot for e in experience])
        batch = batch.to(next(self.policy.model.parameters()).device)
        if part.trains == "critic" and self.critic:
            return critic_loss(self.critic.values(batch, self.bench.precision), experience)
        hidden_ND = predicting_states(self.policy.model, batch, self.bench.precision)
        terms = self.training.method.loss(
            chunked_logprobs(hidden_ND, head_of(self.policy.model), batch.target_N), experience
        )
        count = terms.sums["weight"]
        shared = {"beta": self.beta} | ({"explained_variance": self.explained} if self.critic else {})
        return Terms(terms.loss, {**terms.sums, **{name: value * count for name, value in shared.items()}})

    def tokens_of(self, part: Part) -> int:
        """Tokens through the policy."""
        if part.trains == "critic":
            return 0
        return sum(self.bench.layout.size(self.batch[i].ballot) for i in part.prompts)


# --- one run ----------------------------------------------------------------------------------------------------------


def train_online(
    bench: Workbench,
    training: PromptTraining,
    reward: Reward,
    *,
    beta: float,
    seed: int,
    folder: Path,
    resume: bool,
    description: str,
    at_checkpoint: Callable[[int, Policy], None] = lambda step, policy: None,
    checkpoints: int = 1,
) -> Policy:
    """Train one policy on its own samples, scored by `reward`; else as `run.train_policy`.

    An iteration samples `rollouts` responses to `batch_size` prompts; an epoch passes once over all prompts.
    """
    settings = training.recipe.settings
    check_context(bench, training)
    session = Session(folder, online_identity(bench, training, reward, beta, seed), resume=resume)
    record = session.record()
    now = record["kept"]["beta"] if record else beta
    policy = start_policy(bench.base, seed=seed, **settings.policy_options())
    with closed_on_error(policy):
        critic = start_critic(policy, bench) if training.method.has_critic else None
        collector = Collector(bench, training, reward, seed, now, policy, critic)
        run_session(
            session,
            collector.steps,
            collector.loss,
            parameters=policy.trainable() | (critic.trainable() if critic else {}),
            settings=settings,
            total=training.steps,
            tokens_of=collector.tokens_of,
            description=description,
            at_checkpoint=lambda step: at_checkpoint(step, policy),
            checkpoints=checkpoints,
            kept=lambda: {"beta": collector.beta},
            eps=ADAM_EPS,
        )
    return policy


def online_identity(
    bench: Workbench, training: PromptTraining, reward: Reward, beta: float, seed: int
) -> dict[str, Any]:
    """What a saved state must agree with to be continued: what the method reads, and nothing else."""
    data = hashlib.sha256(repr(training.prompts).encode()).hexdigest()
    named = {"method": training.method.name, "beta": beta, "seed": seed}
    content = {"model": bench.base.sha256, "reference": bench.reference.sha256, "reward": reward.sha256, "data": data}
    return named | training.recipe.counting() | content


def check_context(bench: Workbench, training: PromptTraining) -> None:
    """Raises UserError, before anything is sampled, for what cannot work.

    A prompt and a response that do not fit into what the model reads; one response to a prompt where responses are
    compared; activations computed again in the backward pass, when another adapter is switched on.
    """
    method, options, settings = training.method, training.recipe.options, training.recipe.settings
    if not method.has_critic and options.rollouts < 2:
        raise UserError(f"--rollouts {options.rollouts}: {method.name} compares at least 2 responses")
    if method.has_critic and settings.lora and settings.grad_checkpointing:
        raise UserError("--grad-checkpointing does not go with --lora for ppo; leave out one of them")
    check_room(bench, max(map(len, training.prompts)), options.max_new_tokens)
