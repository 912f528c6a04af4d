"""A run settled before anything is loaded: its recipe, what is fitted for it, where it goes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..launch import launched
from ..methods import METHODS, REWARD, AnyMethod, OnlineMethod, Selection
from ..preference import check_fit, check_kind, default_kind
from ..training import Recipe, check_beta, check_out, make_recipe
from .limits import check_asked


@dataclass(frozen=True)
class Settled:
    """What is known of a run before a model is loaded: nothing in it can be a mistake of the user's any more.

    `kind` is that of what is fitted to the votes first, or of the reward model itself; "" where nothing is.
    """

    recipe: Recipe
    beta: float | None
    kind: str
    folder: Path
    eval_fraction: float


def settle_run(
    method: str,
    *,
    out: str | Path,
    beta: float | None = None,
    reference: str | None = None,
    eval_fraction: float | None = None,
    kind: str | None = None,
    reward: Any = None,
    resume: bool = False,
    **options: Any,
) -> Settled:
    """Check everything about a run that needs no model and no data. Raises UserError for what the user can mend."""
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, list(METHODS))}")
    if options.get("lr") == "auto":
        raise UserError("--lr auto: auto is for compare, which makes pilots; give a number")
    recipe = make_recipe(method, options)
    if recipe.method is REWARD:
        for name, value in (("beta", beta), ("reference", reference)):
            if value is not None:
                raise UserError(f"--{name}: a reward model has none; leave it out")
    if isinstance(recipe.method, Selection):
        raise UserError(f"{method}: trains nothing; compare shows it beside policies that were trained")
    kind = settle_kind(recipe, kind, reward)
    if launched():
        check_ranks(recipe.method, kind, reward)
    check_beta(recipe.method, beta)
    folder = check_out(Path(out), resume=resume)
    fraction = (0.1 if recipe.method is REWARD else 0.0) if eval_fraction is None else eval_fraction
    check_asked(eval_fraction=fraction)
    return Settled(recipe, beta, kind, folder, fraction)


def check_ranks(method: AnyMethod, kind: str, reward: Any) -> None:
    """Raises UserError for what several processes cannot train together."""
    if isinstance(method, OnlineMethod):
        raise UserError(f"{method.name}: samples from a policy that one process has whole; start it without torchrun")
    if method.needs and kind != "frozen" and reward is None:
        raise UserError(
            f"--kind {kind}: several processes train one model, and {method.name} would need another before; train "
            "reward first, and give it with --reward, or take --kind frozen"
        )


def settle_kind(recipe: Recipe, kind: str | None, reward: Any) -> str:
    """The kind of what is fitted to the votes. Raises UserError for one that the method or its options cannot have."""
    method, options = recipe.method, recipe.options
    if method is REWARD:
        if reward is not None:
            raise UserError("--reward: is a reward model already; leave it out, or train a policy with it")
        kind = kind or default_kind([method], recipe.settings)
        check_kind(kind, recipe.settings, options)
        return kind
    if not method.needs:
        for name, value in (("kind", kind), ("reward", reward)):
            if value is not None:
                raise UserError(f"--{name}: {method.name} learns from votes and uses no reward model; leave it out")
        return ""
    kind = kind or default_kind([method], recipe.settings)
    if method.needs == "preference" or reward is None:
        check_fit(kind, recipe)
    if method.needs == "preference" and reward is not None:
        check_no_other_head(vars(options))
    return kind


def check_no_other_head(options: Mapping[str, Any]) -> None:
    """Raises UserError for options of amortized-ipo that have no use for a score that is there already."""
    if options["head"] != "score" or options["gamma"] is not None:
        other = f"--gamma {options['gamma']}" if options["gamma"] is not None else f"--head {options['head']}"
        raise UserError(f"--reward: is a score that is there already, which {other} has no use for; leave one out")
