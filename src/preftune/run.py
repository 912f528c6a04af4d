"""One run: a method, a β and a seed become a folder with a policy and its metrics."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit
from torch import nn

from .alarms import held_out_alarms, run_alarms, say_alarms
from .ballots import Ballot, BallotSet, split_by_prompt
from .console import say
from .engine import remove_state
from .errors import UserError
from .evaluate import accuracy, evaluation_groups, log_loss, vote_table
from .heads import Companion
from .invariants import StartCheck
from .judges import Reward
from .logprobs import Layout, response_logprobs
from .loop import Step, plan_steps
from .methods import AnyMethod, LossOptions, Method, OnlineMethod, Scored, Selection, Terms
from .models import Policy, closed_on_error, start_policy
from .objectives import ipo_target, smooth, unbias
from .online import PromptTraining, prepare_prompts, train_online
from .preference_model import RewardModel, load_reward
from .reference import ReferenceValues, fill_store
from .results import read_metrics, write_json
from .session import Session, run_session
from .settings import Settings, find_method, make_settings
from .stopping import LOCK, only_writer, stop_requests
from .stores import response_keys
from .tokens import TokenBallot, TokenSet, tokenize
from .workbench import Workbench, open_workbench, start_check

PACKAGES = ("preftune", "torch", "transformers", "peft", "numpy", "scipy")


# --- what a method trains on -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What one method trains on: its prepared ballots, the plan of its steps, what it left out, by reason, the
    tokens that were sampled for it, and what a preference that is trained beside the policy reads."""

    method: Method
    ballots: tuple[TokenBallot, ...]
    plan: tuple[Step, ...]
    left_out: Mapping[str, int]
    sampled: int = 0
    companion: Companion | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.plan)


def prepare_training(method: Method, tokens: TokenSet, settings: Settings, layout: Layout, seed: int) -> Training:
    """Keep what the method trains on and plan every step. Raises UserError, with the reasons, when nothing is left."""
    left_out: Counter[str] = Counter()
    prepared = [method.prepare(ballot, left_out) for ballot in tokens.ballots]
    kept = tuple(ballot for ballot in prepared if ballot is not None)
    if len(kept) < len(prepared):
        left_out[f"ballot: nothing in it for {method.name}"] += len(prepared) - len(kept)
    if not kept:
        reasons = Counter(tokens.skipped) + left_out
        why = describe_counts(reasons) if reasons else "there are no ballots"
        raise UserError(f"--data: nothing is left to train {method.name} on ({why})")
    plan = plan_steps(
        [layout.size(ballot) for ballot in kept],
        [method.mass(ballot) for ballot in kept],
        batch_size=settings.batch_size,
        micro_tokens=settings.pass_tokens,
        seed=seed,
        epochs=settings.epochs,
        steps=settings.steps,
    )
    return Training(method, kept, tuple(plan), dict(left_out))


def prepare_targets(method: Method, targets: Targets, settings: Settings, layout: Layout, seed: int) -> Training:
    """`prepare_training` on ballots that have targets."""
    training = prepare_training(method, targets.tokens, settings, layout, seed)
    return replace(training, sampled=targets.sampled, companion=targets.companion)


@dataclass(frozen=True)
class Targets:
    """Ballots with a fitted preference's word in the place of their votes, how it was fitted, the tokens that were
    sampled to have more pairs, and a companion if it is not fitted before but while the policy is trained."""

    tokens: TokenSet
    info: Mapping[str, Any]
    sampled: int
    companion: Companion | None = None


AnyTraining = Training | PromptTraining
SetTargets = Callable[[Workbench, TokenSet, Sequence[TokenBallot], Settings, int, Path], Targets]
FitReward = Callable[[Workbench, TokenSet, Sequence[TokenBallot], Settings, int, Path], Reward]


def prepare(
    method: AnyMethod, ballots: Sequence[Ballot], tokens: TokenSet, bench: Workbench, settings: Settings, seed: int
) -> AnyTraining:
    """What the method trains on: the votes, or the prompts of the same ballots."""
    if isinstance(method, Selection):
        raise UserError(f"{method.name}: trains nothing; compare shows it beside policies that were trained")
    if isinstance(method, OnlineMethod):
        return prepare_prompts(method, [ballot.prompt for ballot in ballots], bench.base.form, settings, seed)
    return prepare_training(method, tokens, settings, bench.layout, seed)


def describe_counts(counts: Mapping[str, int]) -> str:
    """`12 × reason; 3 × reason`, or `nothing`."""
    return "; ".join(f"{count} × {reason}" for reason, count in counts.items()) or "nothing"


def describe_target(training: AnyTraining, options: LossOptions) -> str | None:
    """What the target of IPO or amortized IPO means for these votes, in nats per sequence and per token.

    None for other methods, and for amortized IPO as long as it has no targets.
    """
    targets = _targets(training, options)
    if isinstance(training, PromptTraining) or not targets:
        return None
    votes = [vote for ballot in training.ballots for vote in ballot.votes]
    weight = sum(vote.weight for vote in votes)
    mean = sum(v.weight * abs(ipo_target(p, beta=options.beta)) for v, p in zip(votes, targets, strict=True)) / weight
    length = sum(len(ids) for b in training.ballots for ids in b.responses) / sum(
        len(b.responses) for b in training.ballots
    )
    hard = abs(ipo_target(_label(1.0, options), beta=options.beta))
    what = f"votes ({hard:.3g} for a hard label)" if training.method.name == "ipo" else "pairs"
    own, other, factor = (
        ("sequence", "token", 1 / length) if options.reduction == "sum" else ("token", "sequence", length)
    )
    return (
        f"IPO's target at beta {options.beta:g}, {options.reduction} over tokens: a log-ratio difference of "
        f"{mean:.3g} nats per {own} on average over these {what}, "
        f"about {mean * factor:.3g} nats per {other} at the mean length of {length:.1f} tokens"
    )


def _targets(training: AnyTraining, options: LossOptions) -> list[float]:
    """What stands in the place of p in IPO's loss, for every vote."""
    if isinstance(training, PromptTraining) or training.companion:
        return []
    if training.method.name == "ipo":
        votes = [vote for ballot in training.ballots for vote in ballot.votes]
        return [_label(vote.p, options) for vote in votes]
    if training.method.name == "amortized-ipo":
        return [float(expit(z)) + 0.5 - options.centre for ballot in training.ballots for z in ballot.logits]
    return []


def _label(p: float, options: LossOptions) -> float:
    return unbias(smooth(p, options.label_smoothing), options.flip_rate)


# --- training --------------------------------------------------------------------------------------------------------


def train_policy(
    bench: Workbench,
    training: Training,
    settings: Settings,
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
    options = settings.loss_options(beta)
    session = Session(folder, run_identity(bench, training, settings, beta, seed), resume=resume)
    reference = reference_values(bench, training)
    start = None
    if training.method.uses_reference and session.record() is None:
        computed = () if settings.compile else reference.computed
        first, source = set(training.plan[0].micro_batches), f"a reference log-prob in {bench.store.path}"
        start = start_check(bench, first, computed, source)
    policy = start_policy(bench.base, seed=seed, **settings.policy_options())
    with closed_on_error(policy):
        beside = training.companion.start(bench.base.model.device) if training.companion else None
        parameters = policy.trainable()
        if beside:
            parameters |= dict(beside.named_parameters(prefix="preference"))
        run_session(
            session,
            lambda done: training.plan[done:],
            partial(loss_of_votes, policy, bench, training, reference.logprobs, options, beside=beside, start=start),
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
    settings: Settings,
    reward: Reward | None,
    *,
    beta: float | None,
    **given: Any,
) -> Policy:
    """`train_policy` on votes, or `train_online` on the policy's own samples; UserError if that has no reward."""
    if not isinstance(training, PromptTraining):
        return train_policy(bench, training, settings, beta=beta, **given)
    if reward is None:
        raise UserError(f"--reward: {training.method.name} needs a reward model; preftune train reward makes one")
    return train_online(bench, training, reward, settings, beta=float(beta or 0), **given)


def loss_of_votes(
    policy: Policy,
    bench: Workbench,
    training: Training,
    reference: Mapping[bytes, float],
    options: LossOptions,
    indices: Sequence[int],
    beside: nn.Linear | None = None,
    start: StartCheck | None = None,
) -> Terms:
    """Forward pass and loss of one micro-batch of ballots, whose reference log-probs are given by content.

    `beside` is the score that the training's companion is read by; `start` looks at the first step.
    """
    ballots = [training.ballots[i] for i in indices]
    batch = bench.layout.lay_out(ballots).to(next(policy.model.parameters()).device)
    logprob_B = response_logprobs(policy.model, batch, precision=bench.precision)
    reference_B = torch.zeros_like(logprob_B)
    keys = [key for ballot in ballots for key in response_keys(ballot)]
    if training.method.uses_reference:
        reference_B = logprob_B.new_tensor([reference[key] for key in keys])
    if start:
        start.see(indices, keys, logprob_B - reference_B, batch.lengths_B())
    score_B = training.companion.scores(beside, keys) if training.companion and beside else None
    scored = Scored(ballots, logprob_B, reference_B, batch.lengths_B(), score_B)
    return training.method.loss(scored, options)


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


def run_identity(
    bench: Workbench, training: Training, settings: Settings, beta: float | None, seed: int
) -> dict[str, Any]:
    """What a saved state must agree with to be continued: what the method reads, and nothing else."""
    data = hashlib.sha256(repr(training.ballots).encode()).hexdigest()
    named = {"method": training.method.name, "seed": seed} | ({"beta": beta} if training.method.uses_reference else {})
    content = {"model": bench.base.sha256, "reference": bench.reference.sha256, "data": data}
    return named | content | settings.read_by(training.method.name)


# --- the public function ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A finished run: the trained policy, its metrics (one mapping per step), its folder, and what it was made of."""

    policy: Any
    tokenizer: Any
    metrics: tuple[Mapping[str, float], ...]
    folder: Path
    record: Mapping[str, Any]


def train(
    method: str,
    ballots: Sequence[Ballot],
    *,
    model: str,
    beta: float | None = None,
    out: str | Path,
    reference: str | None = None,
    eval_ballots: Sequence[Ballot] | None = None,
    eval_fraction: float = 0.0,
    reward: str | Reward | FitReward | None = None,
    set_targets: SetTargets | None = None,
    seed: int = 0,
    resume: bool = False,
    **options: Any,
) -> Run:
    """Train one policy with one method, and leave it in a folder.

    Writes `out/policy/` (a folder that transformers loads), `out/metrics.jsonl` (a line per optimiser step),
    `out/run.json` (settings, versions, counts of everything skipped or shortened and, when ballots are held out,
    accuracy and log-loss on them).

    Args:
        method: `dpo`, `ipo`, `amortized-ipo`, `sft`, `ppo` or `rloo`.
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        beta: strength of the KL term; `sft` has none.
        out: the folder to make; it must be new or empty, unless `resume`.
        reference: another model to take as the reference; by default the start.
        eval_ballots: ballots to evaluate on; or `eval_fraction` of the prompts, held out.
        reward: what scores the samples of `ppo` and `rloo`: the folder of a reward model, anything with `scores` and
            `sha256`, or a function that fits one (`preftune.train` fits one on the same votes by default).
        set_targets: what amortized-ipo is told by (`preftune.train` fits a preference to the same votes).
        seed: order of the data and initial adapter.
        resume: go on with an interrupted run.
        options: the fields of `Settings`.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    chosen = find_method(method, beta)
    settings = make_settings(options)
    folder = check_out(Path(out), resume=resume)
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval-fraction {eval_fraction}: must be at least 0 and below 1")
    if eval_ballots is None:
        training_ballots, eval_ballots = split_by_prompt(ballots, eval_fraction, seed=seed)
    else:
        training_ballots = tuple(ballots)
    with only_writer(folder), stop_requests():
        bench = open_workbench(model, reference=reference, precision=settings.precision, device=settings.device)
        tokens = tokenize(training_ballots, bench.base.form, max_length=settings.max_length)
        held_out = tokenize(eval_ballots, bench.base.form, max_length=settings.max_length)
        training = prepare(chosen, training_ballots, tokens, bench, settings, seed)
        say_training(bench, tokens, training, settings)
        if callable(reward):
            reward = reward(bench, tokens, held_out.ballots, settings, seed, folder)
        judge = open_reward(reward, bench) if isinstance(reward, str | Path) else reward
        told: Mapping[str, Any] = {}
        if set_targets and isinstance(training, Training):
            targets = set_targets(bench, tokens, held_out.ballots, settings, seed, folder)
            training = prepare_targets(training.method, targets, settings, bench.layout, seed)
            told = {"preference": dict(targets.info)}
        target = describe_target(training, settings.loss_options(beta))
        if target:
            say(target)
        given = {"beta": beta, "seed": seed, "folder": folder, "resume": resume, "description": method}
        policy, measured = train_and_measure(bench, training, settings, judge, held_out.ballots, **given)
        policy.save(folder)
        metrics = read_metrics(folder / "metrics.jsonl")
        agreement = measured.get("accuracy", {})
        found = run_alarms(metrics) + held_out_alarms(agreement.get("value"), agreement.get("se"))
        say_alarms(found)
        record: dict[str, Any] = {
            "method": method,
            "beta": beta,
            "seed": seed,
            "model": {"name": model, "sha256": bench.base.sha256},
            "reference": {"name": reference or model, "sha256": bench.reference.sha256},
            "chat": trained_on_chats(training_ballots),
            "layout": asdict(bench.layout),
            "settings": settings.record(),
            "data": describe_training_data(ballots, tokens) | {"left_out": dict(training.left_out)},
            "target": target,
            **told,
            **({"held_out": measured} if measured else {}),
            "alarms": found,
            "budget": budget(training, metrics, settings),
            "versions": versions(),
        }
        write_json(folder / "run.json", record)
        remove_state(folder / "state")
    return Run(policy.model, policy.form.tokenizer, metrics, folder, record)


def train_and_measure(
    bench: Workbench,
    training: AnyTraining,
    settings: Settings,
    reward: Reward | None,
    held_out: Sequence[TokenBallot],
    **given: Any,
) -> tuple[Policy, dict[str, Any]]:
    """`train_any`, and what held-out votes say of the policy: at its last step, so that no request to stop loses it."""
    measured: dict[str, Any] = {}

    def measure(step: int, policy: Policy) -> None:
        measured.update(_held_out(policy, bench, held_out, settings))

    policy = train_any(bench, training, settings, reward, at_checkpoint=measure, **given)
    if not measured:  # it was, before the state was saved from which this run went on
        measure(training.steps, policy)
    return policy, measured


def say_training(bench: Workbench, tokens: TokenSet, training: AnyTraining, settings: Settings) -> None:
    """What is trained on, and what was skipped, shortened or left out of it."""
    say(f"layout: {bench.layout.name} ({bench.layout.reason})")
    say(f"{len(tokens.ballots)} ballots, {training.steps} steps; skipped: {describe_counts(tokens.skipped)}")
    say(f"shortened: {describe_counts(tokens.shortened)}; left out: {describe_counts(training.left_out)}")
    if settings.compile:
        say("compiling the model's blocks: the first step takes about half a minute longer")


def open_reward(folder: str | Path, bench: Workbench) -> RewardModel:
    """The reward model of a folder, as it scores what the workbench lays out."""
    device = next(bench.base.model.parameters()).device
    return load_reward(folder, bench.base, layout=bench.layout, precision=bench.precision, device=device)


def describe_training_data(ballots: Sequence[Ballot], tokens: TokenSet) -> dict[str, Any]:
    """Where the votes of a run came from, and what was skipped or shortened, by reason."""
    known = ballots if isinstance(ballots, BallotSet) else BallotSet(tuple(ballots), len(ballots), source="")
    return {
        "source": known.source,
        "sha256": known.sha256,
        "ballots": len(tokens.ballots),
        "votes": sum(len(ballot.votes) for ballot in tokens.ballots),
        "skipped": dict(known.skipped) | dict(tokens.skipped),
        "shortened": dict(tokens.shortened),
    }


def _held_out(
    policy: Policy, bench: Workbench, ballots: Sequence[TokenBallot], settings: Settings
) -> dict[str, dict[str, float | None]]:
    """Accuracy and log-loss on held-out votes, each with its standard error; nothing if there are none."""
    if not ballots:
        return {}
    table = vote_table(
        policy.model,
        ballots,
        held_out_reference(bench, ballots, settings.pass_tokens),
        layout=bench.layout,
        precision=bench.precision,
        micro_tokens=settings.pass_tokens,
        reduction=settings.reduction,
    )
    estimates = {"accuracy": accuracy(table), "log_loss": log_loss(table)}
    return {name: {"value": e.value, "se": e.se} for name, e in estimates.items() if e is not None}


def held_out_reference(bench: Workbench, ballots: Sequence[TokenBallot], micro_tokens: int) -> dict[bytes, float]:
    """Reference log-probs of held-out ballots, in the micro-batches in which policies are evaluated on them."""
    groups = [[ballots[i] for i in group] for group in evaluation_groups(ballots, bench.layout, micro_tokens)]
    return fill_store(bench.store, bench.reference, groups, layout=bench.layout, precision=bench.precision).logprobs


def check_out(folder: Path, *, resume: bool) -> Path:
    """The output folder. Raises UserError if it holds something already that this does not go on with."""
    if folder.is_file():
        raise UserError(f"--out {folder}: is a file; name a folder")
    if (folder / "run.json").exists():
        raise UserError(f"--out {folder}: holds a finished run already; name another folder")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()) and not resume:
        raise UserError(f"--out {folder}: is not empty; add --resume to go on with it, or name another folder")
    return folder


def budget(training: AnyTraining, metrics: Sequence[Mapping[str, float]], settings: Settings) -> dict[str, float]:
    """What a run cost, in three currencies: votes seen, tokens through the policy in training, tokens sampled.

    An online method sees no vote itself; its reward model does.
    """
    tokens = sum(row["tokens"] for row in metrics)
    if not isinstance(training, PromptTraining):
        seen = (len(training.ballots[i].votes) for step in training.plan for group in step.micro_batches for i in group)
        return {"votes_seen": sum(seen), "tokens_trained": tokens, "tokens_sampled": training.sampled}
    prompts = [sum(map(len, step.micro_batches)) for step in training.plan]
    sampled = [
        row["length"] * count * settings.rollouts
        for row, count in zip(metrics[:: training.passes], prompts, strict=True)
    ]
    return {"votes_seen": 0, "tokens_trained": tokens, "tokens_sampled": round(sum(sampled))}


def trained_on_chats(ballots: Sequence[Ballot]) -> bool:
    """Whether most prompts are chats; then a prompt given as text is asked as a user's message."""
    return 2 * sum(not isinstance(ballot.prompt, str) for ballot in ballots) > len(ballots)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
