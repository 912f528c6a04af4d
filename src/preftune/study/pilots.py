"""Pilots: short trainings that choose an arm's learning rate before its runs, and that are never points of the study.

A pilot is the arm's own training at one rate, a quarter as long as a run, at the middle of the arm's β, on the first
seed's votes with the least noise. It is judged at its end by its cost on validation prompts, which nobody trains on and
where no policy is evaluated; the judges of the study are never asked. What is chosen (`rates`) is frozen for the arm.
What came of a pilot is in `pilots/<arm>-lr<rate>/pilot.json`. Shapes: P validation prompts, K samples.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..console import say
from ..data import Ballot, Prompt, TextFormat, TokenBallot, tokenize
from ..errors import Interrupted, UserError
from ..evidence import Estimate, Floats, read_metrics, read_record, scaled_losses, write_json
from ..methods import AMORTIZED_IPO, IPO, OnlineMethod, Scored
from ..model import Policy, exact_kl, remove_state, return_freed_memory, sample_responses
from ..stopping import stop_requests
from ..training import (
    AnyTraining,
    Arm,
    PromptTraining,
    check_context,
    held_out_reference,
    log_ratios,
    prepare,
    replanned,
    table_of,
    train_any,
)
from .beta_search import START
from .naming import run_seed, slug
from .plan import Plan, StudyData
from .questions import held_out_prompts
from .rates import Tried, rates_to_try
from .rewards import score_rollouts
from .runs import Runner, reason_of

SHARE = 4  # a pilot takes a quarter of the optimiser steps of a run, at least
LEAST_STEPS = 8
VALIDATION = 0.1  # of the training prompts, where the study takes none out by itself
PROMPTS, SAMPLES = 64, 4  # at most, and of each, where samples are judged


# --- what pilots are judged by ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """The validation ballots of which no prompt is evaluated on, and the prompts of the others, as token ids."""

    ballots: tuple[Ballot, ...]
    reported: frozenset[tuple[int, ...]]

    def of(self, ballots: Sequence[TokenBallot]) -> tuple[TokenBallot, ...]:
        """Those of the tokenised validation ballots that are among them."""
        return tuple(ballot for ballot in ballots if ballot.prompt not in self.reported)


def validation_share(plan: Plan, fraction: float) -> float:
    """The share of the training prompts to take out: what was asked for, or what pilots need."""
    if fraction or not plan.auto_lr:
        return fraction
    say(f"--lr auto: {VALIDATION:.0%} of the training prompts are taken out, for pilots to be judged on")
    return VALIDATION


def fresh_ballots(plan: Plan, data: StudyData, evaluated: Collection[Prompt], form: TextFormat) -> Fresh:
    """What pilots may be judged on: validation ballots, but those of prompts that policies are evaluated on.

    Raises UserError where pilots are to be made and there are fewer than two such prompts.
    """
    fresh: list[Ballot] = []
    reported: list[Ballot] = []
    for ballot in data.taken_out:
        (reported if ballot.prompt in evaluated else fresh).append(ballot)
    tokens = tokenize(reported, form, max_length=plan.settings.max_length).ballots
    found = Fresh(tuple(fresh), frozenset(ballot.prompt for ballot in tokens))
    count = len({ballot.prompt for ballot in found.of(data.validation.ballots)})
    if plan.piloted and count < 2:
        raise UserError(
            f"--lr auto: needs two validation prompts that are not evaluated on, and has {count}; "
            "raise --validation-fraction, or give more data"
        )
    return found


class Costs(NamedTuple):
    """A cost and a weight of every validation prompt, `[P]`, and the method's own loss where that is another."""

    costs: tuple[float, ...]
    weights: tuple[float, ...]
    losses: tuple[float, ...] = ()


def by_prompt(values: Floats, weights: Floats, prompts: Sequence[Hashable]) -> Costs:
    """Weighted means of what belongs to one prompt, `[N]` → `[P]`, and the sums of its weights."""
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    index = [numbers[prompt] for prompt in prompts]
    total = np.bincount(index, weights=weights)
    return Costs(tuple((np.bincount(index, weights=weights * values) / total).tolist()), tuple(total.tolist()))


@dataclass(frozen=True)
class Job:
    """The pilots of one arm: its training, what all of them share, and what they are judged on."""

    runner: Runner
    arm: Arm
    training: AnyTraining
    beta: float | None
    seed: int
    noise: float
    fresh: Fresh

    @property
    def own_seed(self) -> int:
        """What is random in a pilot: the same at every rate, and no run's."""
        return run_seed(self.seed, f"{self.arm.name}/pilot", self.beta)

    @property
    def plan_steps(self) -> int:
        """Steps of the pilot's plan: optimiser steps, or iterations of as many passes over the same samples."""
        passes = self.training.steps // len(self.training.plan)
        wanted = max(LEAST_STEPS, math.ceil(self.training.steps / SHARE))
        return min(len(self.training.plan), math.ceil(wanted / passes))

    def at(self, lr: float) -> AnyTraining:
        """The arm's training at that rate, a pilot long."""
        recipe = self.training.recipe
        recipe = replace(recipe, settings=replace(recipe.settings, lr=lr, steps=self.plan_steps))
        return replanned(replace(self.training, recipe=recipe), self.runner.bench.layout, self.own_seed)

    @property
    def ballots(self) -> tuple[TokenBallot, ...]:
        """The validation ballots that pilots are judged on, their votes as noisy as those that are learned from."""
        return self.fresh.of(self.runner.data.votes[self.seed, self.noise].validation)

    @property
    def preferred(self) -> list[TokenBallot]:
        """Those of them that the method keeps something of, as it does."""
        kept = [self.training.recipe.method.prepare(ballot, Counter()) for ballot in self.ballots]
        return [ballot for ballot in kept if ballot is not None]

    def measuring(self) -> dict[str, Any]:
        """How policies meet tokens."""
        bench, settings = self.runner.bench, self.training.recipe.settings
        return {"layout": bench.layout, "precision": bench.precision, "micro_tokens": settings.pass_tokens}


def cost_of_votes(job: Job, policy: Policy) -> Costs:
    """Log-loss of the validation votes in nats, as the results have it (`evidence.log_loss`), and the arm's own loss.

    The log-loss fits a scale, so that it does not see how far a policy has come; the own loss does.
    """
    ballots, how = job.ballots, job.measuring()
    known = held_out_reference(job.runner.bench, ballots, how["micro_tokens"])
    ratios = log_ratios(policy.model, ballots, known, reduction=job.training.recipe.reduction, **how)
    table = table_of(ballots, ratios)
    losses = scaled_losses(table)
    if losses is None:
        raise RuntimeError("two validation prompts were promised")
    costs = by_prompt(losses, table.weight, table.prompt)
    own = [own_loss(job, ballot, ratio) for ballot, ratio in zip(ballots, ratios, strict=True)]
    mass = np.array([sum(vote.weight for vote in ballot.votes) for ballot in ballots])
    return costs._replace(losses=by_prompt(np.array(own) / mass, mass, [ballot.prompt for ballot in ballots]).costs)


def own_loss(job: Job, ballot: TokenBallot, ratios: Sequence[float]) -> float:
    """What the arm's method makes of log-ratios that are reduced already: its loss, summed over the ballot's votes.

    For amortized IPO it is IPO's, which has the same optimum: its own is of a preference that these votes do not have.
    """
    recipe, ratio_K = job.training.recipe, torch.tensor(ratios, dtype=torch.float64)
    method = IPO if recipe.method is AMORTIZED_IPO else recipe.method
    scored = Scored([ballot], ratio_K, torch.zeros_like(ratio_K), torch.ones_like(ratio_K))
    return float(method.loss(scored, float(job.beta or 0), recipe.options).loss)


def cost_of_responses(job: Job, policy: Policy) -> Costs:
    """−(log π − log π_ref) of the preferred validation responses, in nats per token, weighted as sft weighs them."""
    ballots, how = job.preferred, job.measuring()
    if len({ballot.prompt for ballot in ballots}) < 2:
        raise UserError("fewer than two validation prompts have a preferred response; raise --validation-fraction")
    known = held_out_reference(job.runner.bench, ballots, how["micro_tokens"])
    ratios = np.array([ratio for own in log_ratios(policy.model, ballots, known, **how) for ratio in own])
    lengths = np.array([len(ids) for ballot in ballots for ids in ballot.responses])
    weights = np.array([weight for ballot in ballots for weight in ballot.weights]) * lengths
    return by_prompt(-ratios / lengths, weights, [ballot.prompt for ballot in ballots for _ in ballot.responses])


def validation_prompts(arm: Arm, plan: Plan, fresh: Fresh, runner: Runner) -> PromptTraining:
    """The prompts that samples are judged on, as the arm's method would sample from them."""
    chosen = held_out_prompts(fresh.ballots, PROMPTS)
    ballots = [ballot for ballot in fresh.ballots if ballot.prompt in chosen]
    found = prepare(plan.recipe(arm), ballots, runner.data.validation, runner.bench, 0)
    if not isinstance(found, PromptTraining):
        raise RuntimeError(f"{arm.name} does not learn from samples")
    check_context(runner.bench, found)
    return found


def cost_of_samples(job: Job, policy: Policy) -> Costs:
    """−(learned reward − β·KL) of samples to the validation prompts, in nats, less what not ending costs in training.

    KL is summed along each sample. Every pilot draws with the same random numbers.
    """
    runner, options, how = job.runner, job.training.recipe.options, job.measuring()
    bench, reward = runner.bench, runner.reward_of(job.seed, job.noise)
    if reward is None:
        raise RuntimeError(f"{job.arm.name} learns from a reward, and none was fitted")
    prompts = validation_prompts(job.arm, runner.plan, job.fresh, runner).prompts
    with policy.merged():
        rollouts = sample_responses(
            policy.model,
            prompts,
            stops=bench.base.form.stops,
            samples=SAMPLES,
            max_new_tokens=options.max_new_tokens,
            seed=f"pilot/{job.own_seed}",
            precision=bench.precision,
        )
    with bench.reference.at_hand():
        kl_PK = exact_kl(policy.model, bench.reference.alone, rollouts, **how)
        score_PK = score_rollouts(reward, rollouts, bench, how["micro_tokens"])
    unended_PK = ~np.array([rollout.ended for rollout in rollouts])
    worth_PK = np.array(score_PK) - options.end_penalty * unended_PK - float(job.beta or 0) * np.array(kl_PK)
    return Costs(tuple((-worth_PK.mean(1)).tolist()), (1.0,) * len(prompts))


class Criterion(NamedTuple):
    """What a pilot is judged by: in words, the sign that makes it a cost, the reference's own, how it is measured."""

    words: str
    sign: int
    start: float | None  # None: it is not known
    measure: Callable[[Job, Policy], Costs]


VOTES = Criterion("log-loss of validation votes, nats", 1, math.log(2), cost_of_votes)
RESPONSES = Criterion(
    "log-likelihood of preferred validation responses over the reference's, nats per token", -1, 0.0, cost_of_responses
)
SAMPLED = Criterion("learned reward − β·KL of samples to validation prompts, nats", -1, None, cost_of_samples)


def criterion_of(arm: Arm) -> Criterion:
    """What the arm's pilots are judged by."""
    if isinstance(arm.method, OnlineMethod):
        return SAMPLED
    return VOTES if arm.method.uses_reference else RESPONSES


# --- the pilots -------------------------------------------------------------------------------------------------------


def job_of(runner: Runner, arm: Arm, fresh: Fresh) -> Job:
    """The pilots of an arm."""
    plan = runner.plan
    searched = (START,) if arm.name in plan.searching else ()
    betas, noise = sorted(plan.arm_betas.get(arm.name, searched)), min(plan.noises)
    beta = betas[(len(betas) - 1) // 2] if betas else None  # of two in the middle the smaller, which goes further
    training = runner.training_of(arm, plan.seeds[0], noise)
    return Job(runner, arm, training, beta, plan.seeds[0], noise, fresh)


def tried_at(lr: float, record: Mapping[str, Any]) -> Tried:
    """A rate with what came of its pilot."""
    return Tried(lr, *(tuple(record.get(name, ())) for name in Costs._fields))


def rates_left(job: Job, tried: Sequence[Tried]) -> tuple[float, ...]:
    """The rates whose pilots are to be made next; they do not depend on each other."""
    return rates_to_try(tried, bool(job.training.recipe.settings.lora))


def folder_of(job: Job, lr: float) -> Path:
    """Where the pilot of a rate is kept."""
    return job.runner.folder / "pilots" / f"{slug(job.arm.name)}-lr{lr:g}"


def make_pilot(job: Job, lr: float) -> Mapping[str, Any]:
    """The record of the pilot at that rate, made unless it is there; one of another β, seed or noise is made anew."""
    folder = folder_of(job, lr)
    path, training = folder / "pilot.json", job.at(lr)
    what = {"arm": job.arm.name, "lr": lr, "beta": job.beta, "seed": job.seed, "noise": job.noise}
    what |= {"steps": training.steps, "criterion": criterion_of(job.arm).words}
    known: dict[str, Any] = read_record(path) if path.exists() else {}
    if any(known.get(name) != value for name, value in what.items()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(path, what)
    elif known.keys() > what.keys():
        return known
    with stop_requests() as stopping:
        outcome = train_pilot(job, training, folder)
        write_json(path, what | outcome)
        remove_state(folder / "state")
    return_freed_memory()
    told = outcome["out"] if "out" in outcome else f"{what['criterion']}: {Estimate(outcome['value'], outcome['se'])}"
    say(f"{job.arm.name}, pilot at learning rate {lr:g}: {told}")
    if stopping():
        raise Interrupted(f"{folder}: finished; stopped before the next pilot")
    return what | outcome


def train_pilot(job: Job, training: AnyTraining, folder: Path) -> dict[str, Any]:
    """Train, and say what the policy costs at its end: `value` ± `se` of the criterion, `costs` by prompt, the
    method's own mean `loss` where that is another; or why it is `out`."""
    criterion, runner, found = criterion_of(job.arm), job.runner, list[Costs]()

    def measure(step: int, policy: Policy) -> None:
        found.append(criterion.measure(job, policy))

    try:
        policy = train_any(
            runner.bench,
            training,
            runner.reward_of(job.seed, job.noise),
            beta=job.beta,
            seed=job.own_seed,
            folder=folder,
            resume=True,
            description=folder.name,
            at_checkpoint=measure,
        )
        with closing(policy):
            if not found:  # it was measured before the state was saved from which this one went on
                measure(training.steps, policy)
            check_pilot(policy, read_metrics(folder / "metrics.jsonl"), found[-1])
    except UserError as error:  # a gradient, log-probs or samples that are not finite
        return {"out": reason_of(error)}
    one = Tried(0.0, *found[-1])
    own = {"loss": one.loss.value} if one.losses else {}
    return {"value": criterion.sign * one.mean.value, "se": one.mean.se, **own, **found[-1]._asdict()}


def check_pilot(policy: Policy, metrics: Sequence[Mapping[str, float]], cost: Costs) -> None:
    """Raises UserError if a loss, a weight or a cost is not finite."""
    for what, finite in (
        ("its loss", all(math.isfinite(row["loss"]) for row in metrics)),
        ("a weight", all(bool(weight.isfinite().all()) for weight in policy.trainable().values())),
        ("its cost", all(map(math.isfinite, (*cost.costs, *cost.losses)))),
    ):
        if not finite:
            raise UserError(f"{what} is not finite")
