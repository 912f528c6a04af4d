"""`preftune sample`: the same prompt through several policies."""

from __future__ import annotations

from .command import Command
from .flags import Parsed
from .reading import asked_of


def run(given: Parsed) -> None:
    from ..study import settle_folders

    settle_folders("sample", **asked_of(given))
    from ..study import sample_folders

    sample_folders(**given)


COMMAND = Command(
    run,
    "the same prompt through several policies, side by side",
    "preftune sample RUN1 RUN2 --prompt 'Movie review: \"I came'",
    ["prompt"],
    ["samples", "max-new-tokens", "seed", "precision", "device", "base"],
    {"folders": "folders that train or compare left, or plain models"},
)
