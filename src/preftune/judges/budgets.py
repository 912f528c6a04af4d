"""What may be spent on an endpoint: calls or tokens, counted by many threads."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class Budget:
    """At most so many calls, or so many tokens of questions and answers."""

    most: int
    tokens: bool = False

    def __str__(self) -> str:
        return f"{self.most:,} {'tokens' if self.tokens else 'calls'}"


def parse_budget(text: str) -> Budget:
    """`2000` is calls, `500000tokens` is tokens."""
    match = re.fullmatch(r"([1-9][0-9]*)(tokens)?", text.strip(), re.ASCII)
    if not match:
        raise UserError(f"--judge-budget {text}: give a number of calls, as 2000, or of tokens, as 500000tokens")
    return Budget(int(match[1]), tokens=match[2] is not None)


class Meter:
    """What was spent, in calls and in tokens. A call is counted before it is made: many together stay in the budget."""

    def __init__(self, budget: Budget | None) -> None:
        self.budget = budget
        self.calls = self.tokens = 0
        self._lock = threading.Lock()

    def take(self, tokens: int) -> bool:
        """Count a call of about so many tokens; False where the budget has no room for it."""
        with self._lock:
            if self.budget and (self.tokens + tokens if self.budget.tokens else self.calls + 1) > self.budget.most:
                return False
            self.calls += 1
            self.tokens += tokens
            return True

    def give_back(self, tokens: int) -> None:
        """The call was not answered by a model: nobody is paid for it."""
        with self._lock:
            self.calls -= 1
            self.tokens -= tokens

    def correct(self, guessed: int, used: int) -> None:
        """The call took other tokens than was thought."""
        with self._lock:
            self.tokens += used - guessed
