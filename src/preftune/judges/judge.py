"""Who decides on samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError


@dataclass(frozen=True)
class Judge:
    """A reward for responses: `score(prompts, responses)` gives one number each, higher is better.

    `description` says in a sentence what the number is and in which units; it is shown in the report.
    """

    name: str
    description: str
    score: Callable[[Sequence[str], Sequence[str]], Sequence[float]]

    def rewards(self, prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        """Rewards as float64. Raises UserError when the count is wrong or one is not finite."""
        rewards = np.asarray(self.score(prompts, responses), dtype=np.float64)
        if rewards.shape != (len(responses),):
            raise UserError(f"judge {self.name}: returned {rewards.shape} rewards for {len(responses)} responses")
        if not np.isfinite(rewards).all():
            bad = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise UserError(f"judge {self.name}: reward {rewards[bad]} for response {bad}; rewards must be finite")
        return rewards
