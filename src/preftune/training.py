"""Training by any method, from its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import run
from .ballots import Ballot
from .errors import UserError
from .methods import METHODS, OnlineMethod
from .preference_model import RewardModel
from .rewards import fit_or_load, train_reward
from .run import Run
from .settings import Settings, nearest
from .tokens import TokenBallot, TokenSet
from .workbench import Workbench


def train(method: str, ballots: Sequence[Ballot], *, model: str, out: str | Path, **options: Any) -> Run:
    """Train with one method, and leave the result in a folder.

    `reward` fits a reward model (`rewards.train_reward` has its options); every other method trains a policy
    (`run.train`), `ppo` and `rloo` after fitting a reward model of the given `kind` on the same votes, unless `reward`
    names one. Raises UserError for an unknown method and for anything else that the user can mend.
    """
    if method == "reward":
        return train_reward(ballots, model=model, out=out, **options)
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, [*METHODS, 'reward'])}")
    kind = options.pop("kind", None)
    if isinstance(METHODS[method], OnlineMethod):
        if options.get("reward") is None:
            options["reward"] = partial(_fit_first, kind)
    elif kind is not None or options.get("reward") is not None:
        name = "kind" if kind is not None else "reward"
        raise UserError(f"--{name}: {method} learns from votes and uses no reward model; leave it out")
    return run.train(method, ballots, model=model, out=out, **options)


def _fit_first(
    kind: str | None,
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    seed: int,
    folder: Path,
) -> RewardModel:
    """A reward model of the same votes, in the run's own folder."""
    kind = kind or ("lora" if settings.lora else "full")
    place = folder / "reward-model"
    return fit_or_load(bench, tokens, held_out, settings, kind=kind, seed=seed, folder=place)
