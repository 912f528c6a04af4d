"""`preftune compare`: a study."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from ..methods import METHODS
from .command import Command, exit_if_failed
from .flags import Parsed, option_flags, settings_flags
from .reading import READING, read_ballots, reading_of

JUDGING = ("judge", "judge-fraction", "judge-template", "judge-model", "judge-budget")
PLACING = ("executor", "workers", "address", "resources")
LATER = (  # what is looked at when the data and the model are there
    *("model", "reference", "data", "eval_data", "prompts", "out", "allow_overlap"),
)


def settled(given: Parsed) -> dict[str, Any]:
    """The keywords of `compare`: what is compared is settled first, then the files are read. No torch."""
    from ..data import read_prompts
    from ..judges import settle_judges
    from ..study import settle_placement, settle_study

    options = {name: value for name, value in given.items() if name not in reading_of(given)}
    judging = {name: options[name] for flag in JUDGING if (name := flag.replace("-", "_")) in options}
    jury = settle_judges(**judging)
    placing = {name: options[name] for name in PLACING if name in options}
    settle_placement(**placing)
    known = {*LATER, *judging, *placing}
    told = {name: value for name, value in options.items() if name not in known}
    settle_study(**told, scored=bool(jury.specs), fits_judge=jury.fits)
    options["ballots"] = read_ballots(options.pop("data"), given)
    if "eval_data" in options:
        options["eval_ballots"] = read_ballots(options.pop("eval_data"), given)
    if "prompts" in options:
        options["prompts"] = read_prompts(options.pop("prompts"))
    options["arms"] = options.pop("methods")
    return options


def run(given: Parsed) -> None:
    """Settle what is compared, read the files, and only then load what trains."""
    options = settled(given)
    from ..study import compare

    command = "preftune " + " ".join(map(shlex.quote, sys.argv[1:]))
    exit_if_failed(compare(command=command, **options).failed)


COMMAND = Command(
    run,
    "train every arm at every beta and seed on the same votes, evaluate them alike, draw the report",
    "preftune compare --model MODEL --data FILE --methods dpo,ipo --seeds 0,1 --out DIR",
    ["model", "data", "methods", "out"],
    [
        "betas",
        "seeds",
        "reference",
        "eval-data",
        "eval-fraction",
        "allow-overlap",
        *READING,
        "prompts",
        "eval-prompts",
        "samples",
        "max-new-tokens",
        "label-noise",
        "votes-per-prompt",
        "validation-fraction",
        "checkpoints",
        *JUDGING,
        "until",
        "hours",
        *PLACING,
        "kind",
        *settings_flags(),
        *(flag for flag in option_flags(METHODS) if flag != "max-new-tokens"),
    ],
)
