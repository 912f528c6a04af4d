"""Training by any method, from its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import run
from .ballots import Ballot
from .errors import UserError
from .judges import Reward
from .methods import AMORTIZED_IPO, METHODS, OnlineMethod
from .preference_model import RewardModel
from .preferences import check_preference, set_targets
from .rewards import default_kind, fit_or_load, train_reward
from .run import Run, Targets
from .settings import Settings, check_own, make_settings, nearest
from .tokens import TokenBallot, TokenSet
from .workbench import Workbench

TAKEN = ("beta", "reference", "eval_ballots", "eval_fraction", "seed", "resume")  # of `run.train`, no settings


def train(method: str, ballots: Sequence[Ballot], *, model: str, out: str | Path, **options: Any) -> Run:
    """Train with one method, and leave the result in a folder.

    `reward` fits a reward model (`rewards.train_reward` has its options); every other method trains a policy
    (`run.train`), `ppo` and `rloo` after fitting a reward model of the given `kind` on the same votes, `amortized-ipo`
    after fitting a preference, unless `reward` names one. Raises UserError for an unknown method and for anything else
    that the user can mend.
    """
    if method != "reward" and method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, [*METHODS, 'reward'])}")
    check_own(method, options)
    if method == "reward":
        return train_reward(ballots, model=model, out=out, **options)
    kind, reward = options.pop("kind", None), options.pop("reward", None)
    if METHODS[method] is AMORTIZED_IPO:
        settings = make_settings({name: value for name, value in options.items() if name not in TAKEN})
        kind = kind or default_kind([AMORTIZED_IPO], settings)
        check_preference(kind, settings)
        if reward is not None and (settings.head != "score" or settings.gamma is not None):
            other = f"--gamma {settings.gamma}" if settings.gamma is not None else f"--head {settings.head}"
            raise UserError(f"--reward: is a score that is there already, which {other} has no use for; leave one out")
        options["set_targets"] = partial(_set_targets, kind, reward)
    elif isinstance(METHODS[method], OnlineMethod):
        options["reward"] = partial(_fit_first, kind) if reward is None else reward
    elif kind is not None or reward is not None:
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


def _set_targets(
    kind: str,
    reward: str | Path | Reward | None,
    bench: Workbench,
    tokens: TokenSet,
    held_out: Sequence[TokenBallot],
    settings: Settings,
    seed: int,
    folder: Path,
) -> Targets:
    """Targets by a preference of the same votes, in the run's own folder, or by a reward model that is there."""
    judge = run.open_reward(reward, bench) if isinstance(reward, str | Path) else reward
    place = folder / "preference-model"
    return set_targets(bench, tokens, held_out, settings, seed, place, kind=kind, reward=judge)
