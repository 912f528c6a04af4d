"""What is fitted to votes, by which recipe, and where it is left. No torch: a wrong kind is answered at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import TokenBallot, TokenSet
from ..errors import UserError, nearest
from ..methods import KINDS, REWARD, AnyMethod, LikelihoodOptions
from ..model import check_library
from ..training import Recipe, Settings

if TYPE_CHECKING:
    from ..model import Workbench


@dataclass(frozen=True)
class Fitting:
    """What is to be fitted to votes: to which ballots, measured on which held-out ones, how, and where it is left.

    `recipe` is that of the policy that it is fitted for, or of the reward model itself; `kind` is a reward model's:
    `frozen`, `lora` or `full`; `folder` keeps what is fitted, and the `digests` of the prompts of its votes.
    """

    bench: Workbench
    tokens: TokenSet
    held_out: Sequence[TokenBallot]
    recipe: Recipe
    kind: str
    seed: int
    folder: Path
    digests: frozenset[str] = frozenset()


def reward_recipe(kind: str, recipe: Recipe) -> Recipe:
    """How a reward model of that kind is fitted for a policy: one pass over the votes, an adapter only for `lora`."""
    return Recipe(REWARD, settings_of(kind, recipe.settings), likelihood_of(vars(recipe.options)))


def settings_of(kind: str, settings: Settings) -> Settings:
    """The policies' settings as a reward model of that kind is trained with them."""
    return replace(settings, steps=None, epochs=1.0, lora=settings.lora if kind == "lora" else 0)


def likelihood_of(options: dict[str, Any]) -> LikelihoodOptions:
    """What a likelihood reads of some options."""
    return LikelihoodOptions(**{f.name: options[f.name] for f in fields(LikelihoodOptions) if f.name in options})


def default_kind(methods: Iterable[AnyMethod], settings: Settings) -> str:
    """A whole model, or an adapter where policies have one; frozen features where scores are only regressed on."""
    if all(method.needs != "reward" and method is not REWARD for method in methods):
        return "frozen"
    return "lora" if settings.lora else "full"


def check_kind(kind: str, settings: Settings, options: LikelihoodOptions) -> None:
    """Raises UserError for an unknown kind, or one that contradicts the settings."""
    if kind not in KINDS:
        raise UserError(f"--kind {kind!r}: unknown{nearest(kind, KINDS)}")
    if kind == "lora" and not settings.lora:
        raise UserError("--kind lora: add --lora R, the rank of the adapter")
    if kind == "full" and settings.base != "fp32":
        how = "use --kind lora with --lora R, or --kind frozen"
        raise UserError(f"--base {settings.base}: --kind full trains all weights, and these are frozen; {how}")
    check_library(settings.base)
    if kind != "frozen" and options.estimate_flips:
        raise UserError(f"--estimate-flips: needs --kind frozen; give --kind {kind} a known rate with --flip-rate")
    if kind != "lora" and settings.lora:
        raise UserError(f"--lora {settings.lora}: --kind {kind} has no adapter; leave one of them out")


def check_fit(kind: str, recipe: Recipe) -> None:
    """`check_kind` for what is fitted before a policy is trained by the recipe, and what its options ask of it."""
    options = recipe.options
    gamma, head = getattr(options, "gamma", None), getattr(options, "head", "score")
    if gamma is not None and kind != "frozen":
        raise UserError(f"--gamma {gamma}: joint training reads --kind frozen features, not --kind {kind}")
    fitted = reward_recipe(kind, recipe)
    check_kind(kind, fitted.settings, fitted.options)
    if head != "score" and kind != "frozen":
        raise UserError(f"--head {head}: needs --kind frozen; --kind {kind} has a score")
