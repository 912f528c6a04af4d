"""`preftune evaluate`: trained policies met with the same questions."""

from __future__ import annotations

from .command import Command
from .flags import Parsed
from .reading import READING, asked_of, reading_of


def run(given: Parsed) -> None:
    from ..study import settle_folders

    settle_folders("evaluate", **asked_of(given))
    from ..study import evaluate_folders

    reading = reading_of(given)
    options = {name: value for name, value in given.items() if name not in reading}
    evaluate_folders(**options, reading=reading)


COMMAND = Command(
    run,
    "compare trained policies on prompts and on held-out votes",
    "preftune evaluate RUN1 RUN2 --prompts PROMPTS --out DIR",
    [],
    [
        "data",
        *READING,
        "prompts",
        "allow-overlap",
        "reference",
        "eval-prompts",
        "samples",
        "max-new-tokens",
        "seed",
        "max-length",
        "micro-tokens",
        "precision",
        "device",
        "template-options",
        "base",
        "out",
    ],
    {"folders": "folders that train or compare left, or plain models"},
)
