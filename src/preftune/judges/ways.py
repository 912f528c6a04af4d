"""The ways in which a server may be asked for a verdict, the one that says most first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .wording import LETTERS

# The same in every way. A verdict is a token, and JSON around it some more.
PARAMETERS: Mapping[str, Any] = {"temperature": 0, "max_tokens": 24}
SCHEMA: Mapping[str, Any] = {
    "name": "verdict",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": [*LETTERS, "tie"]}},
        "required": ["verdict"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Way:
    """A way to ask: its name, and the parameters that it adds."""

    name: str
    more: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        return {**PARAMETERS, **self.more}

    @property
    def logprobs(self) -> bool:
        """Whether it asks for log-probs."""
        return "logprobs" in self.more


WAYS = (
    Way("log-probs", {"logprobs": True, "top_logprobs": 20}),
    Way("5 log-probs", {"logprobs": True, "top_logprobs": 5}),  # the most that some servers have
    Way("JSON", {"response_format": {"type": "json_schema", "json_schema": SCHEMA}}),
    Way("last line", {}),
)
BY_NAME = {way.name: way for way in WAYS}
