"""Worlds so small that the optimum is known, and the judge of what `train` leaves in a folder.

The judge shares nothing with the training: it loads the saved folder with transformers, runs plain forward passes one
sequence at a time, and compares with the lab's optimum for this model's own π_ref, in probabilities renormalised over
the responses that occur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from preftune import Ballot, Vote
from preftune.lab import optima
from preftune.lab.worlds import Floats, wins_of

FAST = {"lr": 1e-2, "steps": 80, "clip_norm": 1e9, "warmup": 0.05, "device": "cpu"}


TOLERANCE = 0.01


@dataclass(frozen=True)
class World:
    """A prompt and its responses; `ended` adds the end-of-text token to each response."""

    prompt: str = "x"
    responses: tuple[str, ...] = ("a", "b", "c")
    ended: bool = False

    def ballot(self, *votes: Vote) -> Ballot:
        return Ballot(self.prompt, self.responses, votes, ended=(self.ended,) * len(self.responses))

    @torch.no_grad()
    def logprobs(self, folder: str | Path) -> Floats:
        """log π(y|x) of the responses, each from a plain forward pass of its own."""
        policy, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        prompt = tokenizer(self.prompt)["input_ids"]
        values = []
        for text in self.responses:
            response = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * self.ended
            logits = policy(torch.tensor([prompt + response])).logits[0].double().log_softmax(-1)
            values.append(sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(response)))
        return np.array(values)


def normalised(logprobs: Floats) -> Floats:
    weights = np.exp(logprobs - logprobs.max())
    return weights / weights.sum()


def wins(votes: Sequence[Vote], responses: int = 3) -> Floats:
    return wins_of(((vote.a, vote.b, vote.p, vote.weight) for vote in votes), responses)


def check(run: Path, reference: str, world: World, scores: Sequence[float] | Floats, beta: float = 1.0) -> None:
    """The run's policy is π_ref·exp(scores/β), renormalised over the responses."""
    wanted = optima.tilt(normalised(world.logprobs(reference)), np.array(scores), beta)
    np.testing.assert_allclose(normalised(world.logprobs(run / "policy")), wanted, rtol=0, atol=TOLERANCE)
