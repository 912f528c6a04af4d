"""What a method trains on: the ballots or prompts it keeps, the plan of its steps, and what it left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.special import expit

from ..data import Ballot, TokenBallot, TokenSet
from ..errors import UserError
from ..methods import Method, OnlineMethod, Selection, target_of
from ..model import Companion, Layout, Workbench, check_fits, ranks
from ..objectives import ipo_target
from .arms import Recipe
from .loop import Step, plan_steps
from .online import PromptTraining, plan_iterations, prepare_prompts


@dataclass(frozen=True)
class Training:
    """What one method trains on: its prepared ballots, the plan of its steps, what it left out, by reason, the
    tokens that were sampled for it, and what a preference that is trained beside the policy reads."""

    recipe: Recipe
    ballots: tuple[TokenBallot, ...]
    plan: tuple[Step, ...]
    left_out: Mapping[str, int]
    sampled: int = 0
    companion: Companion | None = None

    @property
    def method(self) -> Method:
        """Whose training it is."""
        method: Method = self.recipe.method
        return method

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.plan)


def prepare_training(recipe: Recipe, tokens: TokenSet, layout: Layout, seed: int) -> Training:
    """Keep what the method trains on and plan every step. Raises UserError, with the reasons, when nothing is left."""
    method = recipe.method
    left_out: Counter[str] = Counter()
    prepared = [method.prepare(ballot, left_out) for ballot in tokens.ballots]
    kept = tuple(ballot for ballot in prepared if ballot is not None)
    if len(kept) < len(prepared):
        left_out[f"ballot: nothing in it for {method.name}"] += len(prepared) - len(kept)
    if not kept:
        reasons = Counter(tokens.skipped) + left_out
        why = describe_counts(reasons) if reasons else "there are no ballots"
        raise UserError(f"--data: nothing is left to train {method.name} on ({why})")
    return Training(recipe, kept, plan_ballots(recipe, kept, layout, seed), dict(left_out))


def plan_ballots(recipe: Recipe, ballots: Sequence[TokenBallot], layout: Layout, seed: int) -> tuple[Step, ...]:
    """Which of the prepared ballots each optimiser step sees. Raises UserError if some process would see none."""
    settings, world = recipe.settings, ranks().world
    for what, count in (("--data", len(ballots)), ("--batch-size", settings.batch_size)):
        if count < world:
            raise UserError(f"{what}: {count} ballots for {world} processes; start fewer, so that each has one a step")
    plan = plan_steps(
        [layout.size(ballot) for ballot in ballots],
        [recipe.method.mass(ballot) for ballot in ballots],
        batch_size=settings.batch_size,
        micro_tokens=settings.pass_tokens,
        seed=seed,
        epochs=settings.epochs,
        steps=settings.steps,
        world=world,
    )
    return tuple(plan)


def prepare_targets(recipe: Recipe, targets: Targets, layout: Layout, seed: int) -> Training:
    """`prepare_training` on ballots that have targets."""
    training = prepare_training(recipe, targets.tokens, layout, seed)
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


def prepare(recipe: Recipe, ballots: Sequence[Ballot], tokens: TokenSet, bench: Workbench, seed: int) -> AnyTraining:
    """What the method trains on: the votes, or the prompts of the same ballots."""
    if isinstance(recipe.method, Selection):
        raise UserError(f"{recipe.method.name}: trains nothing; compare shows it beside policies that were trained")
    if isinstance(recipe.method, OnlineMethod):
        return prepare_prompts(recipe, [ballot.prompt for ballot in ballots], bench.base.form, seed)
    check_fits(bench, tokens.ballots)
    return prepare_training(recipe, tokens, bench.layout, seed)


def replanned(training: AnyTraining, layout: Layout, seed: int) -> AnyTraining:
    """The same training with its steps in the order of another seed."""
    if isinstance(training, PromptTraining):
        return replace(training, plan=plan_iterations(training.recipe.settings, len(training.prompts), seed))
    return replace(training, plan=plan_ballots(training.recipe, training.ballots, layout, seed))


def describe_counts(counts: Mapping[str, int]) -> str:
    """`12 × reason; 3 × reason`, or `nothing`."""
    return "; ".join(f"{count} × {reason}" for reason, count in counts.items()) or "nothing"


def describe_target(training: AnyTraining, beta: float | None) -> str | None:
    """What the target of IPO or amortized IPO means for these votes, in nats per sequence and per token.

    None for other methods, and for amortized IPO as long as it has no targets.
    """
    targets, options = _targets(training), training.recipe.options
    if isinstance(training, PromptTraining) or not targets or beta is None:
        return None
    votes = [vote for ballot in training.ballots for vote in ballot.votes]
    weight = sum(vote.weight for vote in votes)
    mean = sum(v.weight * abs(ipo_target(p, beta=beta)) for v, p in zip(votes, targets, strict=True)) / weight
    length = sum(len(ids) for b in training.ballots for ids in b.responses) / sum(
        len(b.responses) for b in training.ballots
    )
    hard = abs(ipo_target(target_of(1.0, options), beta=beta))
    what = f"votes ({hard:.3g} for a hard label)" if training.method.name == "ipo" else "pairs"
    own, other, factor = (
        ("sequence", "token", 1 / length) if options.reduction == "sum" else ("token", "sequence", length)
    )
    return (
        f"IPO's target at beta {beta:g}, {options.reduction} over tokens: a log-ratio difference of "
        f"{mean:.3g} nats per {own} on average over these {what}, "
        f"about {mean * factor:.3g} nats per {other} at the mean length of {length:.1f} tokens"
    )


def _targets(training: AnyTraining) -> list[float]:
    """What stands in the place of p in IPO's loss, for every vote."""
    if isinstance(training, PromptTraining) or training.companion:
        return []
    if training.method.name == "ipo":
        votes = [vote for ballot in training.ballots for vote in ballot.votes]
        return [target_of(vote.p, training.recipe.options) for vote in votes]
    if training.method.name == "amortized-ipo":
        return [
            float(expit(z)) + 0.5 - training.recipe.options.centre for ballot in training.ballots for z in ballot.logits
        ]
    return []
