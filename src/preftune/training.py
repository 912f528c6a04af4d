"""Training by any method, from its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import run
from .ballots import Ballot
from .errors import UserError
from .methods import METHODS
from .rewards import train_reward
from .run import Run
from .settings import nearest


def train(method: str, ballots: Sequence[Ballot], *, model: str, out: str | Path, **options: Any) -> Run:
    """Train with one method, and leave the result in a folder.

    `reward` fits a reward model (`rewards.train_reward` has its options); every other method trains a policy
    (`run.train`). Raises UserError for an unknown method and for anything else that the user can mend.
    """
    if method == "reward":
        return train_reward(ballots, model=model, out=out, **options)
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, [*METHODS, 'reward'])}")
    if options.pop("kind", None) is not None:
        raise UserError(f"--kind: is of reward models; {method} trains a policy")
    return run.train(method, ballots, model=model, out=out, **options)
