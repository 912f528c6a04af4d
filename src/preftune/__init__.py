"""Align a language model with human preferences, and find out which method earned it.

Names load when they are first used: reading preference data or a study's results needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preftune.ballots import Ballot, BallotSet, Vote
    from preftune.readers import read_ballots
    from preftune.run import Run
    from preftune.study import Study, compare
    from preftune.training import train

__version__ = "0.2.0"

__all__ = ["Ballot", "BallotSet", "Run", "Study", "Vote", "compare", "read_ballots", "train"]

_HOMES = {
    "Ballot": "preftune.ballots",
    "BallotSet": "preftune.ballots",
    "Vote": "preftune.ballots",
    "read_ballots": "preftune.readers",
    "Run": "preftune.run",
    "train": "preftune.training",
    "Study": "preftune.study",
    "compare": "preftune.study",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'preftune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
