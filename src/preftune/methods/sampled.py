"""What methods that learn from the policy's own samples can be told."""

from __future__ import annotations

from dataclasses import dataclass

from .options import option
from .voting import LikelihoodOptions


@dataclass(frozen=True)
class SampleOptions(LikelihoodOptions):
    """Options of learning from samples; those of the likelihood are the reward model's."""

    rollouts: int = option(4, "responses sampled to each prompt", above=0)
    max_new_tokens: int = option(64, "tokens of a sampled response", above=0, in_arms=False)
    kl_target: float | None = option(
        None, "KL that β is to follow, nats per response", above=0, default_text="β stays", in_arms=False
    )
    end_penalty: float = option(1.0, "taken off the score of a response that does not end")
