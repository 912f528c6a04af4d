"""`preftune evaluate`: trained policies met with the same questions."""

from __future__ import annotations

from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    from ..study import evaluate_folders

    evaluate_folders(**given)


COMMAND = Command(
    run,
    "compare trained policies on prompts and on held-out votes",
    "preftune evaluate RUN1 RUN2 --prompts PROMPTS --out DIR",
    [],
    [
        "data",
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
        "out",
    ],
    {"folders": "folders that train or compare left, or plain models"},
)
