"""What a run says of itself: its folder, its data, its cost, the versions behind its numbers."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, BallotSet, TokenSet
from ..model import Workbench
from .online import PromptTraining
from .preparing import AnyTraining, describe_counts

PACKAGES = ("preftune", "torch", "transformers", "peft", "numpy", "scipy")


@dataclass(frozen=True)
class Run:
    """A finished run: the trained policy, its metrics (one mapping per step), its folder, and what it was made of."""

    policy: Any
    tokenizer: Any
    metrics: tuple[Mapping[str, float], ...]
    folder: Path
    record: Mapping[str, Any]


def say_training(bench: Workbench, tokens: TokenSet, training: AnyTraining) -> None:
    """What is trained on, and what was skipped, shortened or left out of it."""
    say(f"layout: {bench.layout.name} ({bench.layout.reason})")
    say(f"{len(tokens.ballots)} ballots, {training.steps} steps; skipped: {describe_counts(tokens.skipped)}")
    say(f"shortened: {describe_counts(tokens.shortened)}; left out: {describe_counts(training.left_out)}")
    if training.recipe.settings.compile:
        say("compiling the model's blocks: the first step takes about half a minute longer")


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
        **({"noted": dict(known.noted)} if known.noted else {}),
    }


def budget(training: AnyTraining, metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a run cost, in three currencies: votes seen, tokens through the policy in training, tokens sampled.

    An online method sees no vote itself; its reward model does.
    """
    tokens = sum(row["tokens"] for row in metrics)
    if not isinstance(training, PromptTraining):
        seen = (len(training.ballots[i].votes) for step in training.plan for group in step.micro_batches for i in group)
        return {"votes_seen": sum(seen), "tokens_trained": tokens, "tokens_sampled": training.sampled}
    prompts = [sum(map(len, step.micro_batches)) for step in training.plan]
    sampled = [
        row["length"] * count * training.recipe.options.rollouts
        for row, count in zip(metrics[:: training.passes], prompts, strict=True)
    ]
    return {"votes_seen": 0, "tokens_trained": tokens, "tokens_sampled": round(sum(sampled))}


def trained_on_chats(ballots: Sequence[Ballot]) -> bool:
    """Whether most prompts are chats; then a prompt given as text is asked as a user's message."""
    return 2 * sum(not isinstance(ballot.prompt, str) for ballot in ballots) > len(ballots)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
