"""`preftune compare`: a study."""

from __future__ import annotations

import shlex
import sys

from .command import Command, exit_if_failed
from .flags import EVALUATION, TRAINING, Parsed


def run(given: Parsed) -> None:
    from ..data import read_ballots, read_prompts
    from ..study import compare

    options = dict(given)
    ballots = read_ballots(options.pop("data"))
    if "eval_data" in options:
        options["eval_ballots"] = read_ballots(options.pop("eval_data"))
    if "prompts" in options:
        options["prompts"] = read_prompts(options.pop("prompts"))
    command = "preftune " + " ".join(map(shlex.quote, sys.argv[1:]))
    exit_if_failed(compare(options.pop("methods"), ballots, command=command, **options).failed)


COMMAND = Command(
    run,
    "train every arm at every beta and seed on the same votes, evaluate them alike, draw the report",
    "preftune compare --model MODEL --data FILE --methods dpo,ipo --betas 0.05,0.1 --seeds 0,1,2 --out DIR",
    ["model", "data", "methods", "out"],
    [
        "betas",
        "seeds",
        "reference",
        "eval-data",
        "eval-fraction",
        "prompts",
        *EVALUATION,
        "label-noise",
        "votes-per-prompt",
        "validation-fraction",
        "checkpoints",
        "kind",
        *TRAINING,
    ],
)
