"""Recipes and arms: a method with its settings and options, made from keywords or from `ipo[reduction=mean]`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..errors import UserError, nearest
from ..methods import (
    METHODS,
    AnyMethod,
    check_known,
    check_own,
    find_method,
    flag,
    names_of,
    parse_option,
    whose,
)
from ..model import check_base
from .settings import Settings


@dataclass(frozen=True)
class Recipe:
    """How one run is made: its method, the settings that all methods share, and the method's own options."""

    method: Any
    settings: Settings
    options: Any

    def counting(self) -> dict[str, Any]:
        """What the run's result depends on: what a saved state must agree in to be gone on with."""
        return self.settings.counting() | asdict(self.options)

    @property
    def reduction(self) -> str:
        """How log-ratios are reduced: as the method is told, or by the sum."""
        return str(getattr(self.options, "reduction", "sum"))

    def record(self) -> dict[str, Any]:
        """Settings and options as a run writes them down."""
        return self.settings.record() | asdict(self.options)


def make_recipe(method: str, options: Mapping[str, Any]) -> Recipe:
    """A recipe from keywords. Raises UserError for an unknown method or option, or a value that it cannot have.

    An option of another method is refused by name.
    """
    found = find_method(method)
    shared, own = names_of(Settings), names_of(found.options)
    for name in options:
        check_own(name, method)
    check_known(options, [*shared, *own])
    settings = Settings(**{name: value for name, value in options.items() if name in shared})
    if found is not METHODS["reward"]:  # of which a kind reads frozen features
        check_base(settings.base, settings.lora)
    return Recipe(found, settings, found.options(**{name: value for name, value in options.items() if name in own}))


def check_beta(method: AnyMethod, beta: float | None) -> None:
    """Raises UserError for a β that the method needs and that is missing or not positive, or that it has no use for."""
    if method.uses_reference and (beta is None or not 0 < beta < math.inf):
        raise UserError(f"--beta {beta}: {method.name} needs a β greater than 0")


@dataclass(frozen=True)
class Arm:
    """A method with what it was told, under the name that a study shows: `ipo`, `ipo[reduction=mean]`."""

    name: str
    method: AnyMethod
    own: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with the method's name: there is one of each method, and code asks which it `is`."""
        return _arm, (self.name, self.method.name, dict(self.own))

    def recipe(self, shared: Settings, given: Mapping[str, Any]) -> Recipe:
        """The recipe of a run: the study's settings and its options for all arms, this arm's own in their place."""
        settings = replace(shared, **{name: value for name, value in self.own.items() if name in names_of(Settings)})
        names = names_of(self.method.options)
        options = {name: value for name, value in (dict(given) | dict(self.own)).items() if name in names}
        return Recipe(self.method, settings, self.method.options(**options))


def _arm(name: str, method: str, own: Mapping[str, Any]) -> Arm:
    return Arm(name, METHODS[method], own)


def parse_arm(text: str) -> Arm:
    """An arm from `method` or `method[option=value,...]`.

    Raises UserError for an unknown method or option, or a value that it cannot have. Options that would change the
    budget are not among them: all arms of a study train on the same votes for as long. Only how many responses ppo and
    rloo sample, and how often ppo uses them, has no counterpart in votes; reports tell what it cost.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\[(.*)\])?\s*", text)
    if not match:
        raise UserError(f"--methods: {text!r} is no arm; write method or method[option=value,...]")
    known = [name for name in METHODS if name != "reward"]
    name = match[1]
    if name not in known:
        raise UserError(f"--methods: unknown method {name!r}{nearest(name, known)}")
    method = METHODS[name]
    declared = {f.name: f for f in (*fields(Settings), *fields(method.options)) if f.metadata["in_arms"]}
    own: dict[str, Any] = {}
    for part in filter(None, (match[2] or "").split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        check_own(key, name)
        if not equals and key in declared:
            raise UserError(f"--methods {text}: option {key!r} has no value; write {key}=VALUE")
        if key not in declared:
            raise UserError(f"--methods {text}: unknown option {key!r}{nearest(key, list(declared))}")
        try:
            own[key] = parse_option(declared[key], value)
        except UserError as error:
            raise UserError(f"--methods {text}: {error}") from None
    arm = Arm(arm_name(name, own), method, own)
    arm.recipe(Settings(), {})
    return arm


def arm_name(method: str, own: Mapping[str, Any]) -> str:
    """The method with what it was told in brackets."""
    shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in own.items()}
    written = ",".join(f"{key}={value}" for key, value in sorted(shown.items()))
    return f"{method}[{written}]" if written else method


def split_arms(text: str) -> list[str]:
    """Cut `dpo,ipo[reduction=mean,lr=1e-5]` at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


def check_given(given: Mapping[str, Any], methods: list[str]) -> None:
    """Raises UserError for an option, given for all arms, that none of their methods has."""
    for name in given:
        owners = whose(name)
        if not set(owners) & set(methods):
            have = " and ".join(owners) if owners else "no method"
            raise UserError(f"--{flag(name)}: is an option of {have}, and none of them is compared; leave it out")
