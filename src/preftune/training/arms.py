"""Methods and arms by their names: `ipo`, `ipo[reduction=mean]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError, nearest
from ..methods import METHODS, AnyMethod
from .settings import AMORTIZED, Settings, flag, make_settings


def truth(text: str) -> bool:
    """`true` or `false`. Raises ValueError for anything else."""
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


ARM_OPTIONS: dict[str, Callable[[str], Any]] = {
    **{"flip_rate": float, "label_smoothing": float, "lora": int, "lr": float, "reduction": str},
    **{"rollouts": int, "inner_epochs": int},  # of methods that learn from samples, whose cost every report tells
    **{"head": str, "pairs": str, "target": str, "estimate_flips": truth, "extra_responses": int},
    **{"gamma": float, "stop_gradient": truth},
}


def find_method(name: str, beta: float | None) -> AnyMethod:
    """The method of that name. Raises UserError for an unknown one, or for a β that is missing or not positive."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, list(METHODS))}")
    method = METHODS[name]
    if method.uses_reference and (beta is None or not 0 < beta < float("inf")):
        raise UserError(f"--beta {beta}: {name} needs a β greater than 0")
    return method


@dataclass(frozen=True)
class Arm:
    """A method with its options, under the name that a study shows: `ipo`, `ipo[reduction=mean]`."""

    name: str
    method: AnyMethod
    options: Mapping[str, Any]

    def settings(self, shared: Settings) -> Settings:
        """The settings of the study with this arm's own in their place."""
        return replace(shared, **self.options)


def parse_arm(text: str) -> Arm:
    """An arm from `method` or `method[option=value,...]`.

    Raises UserError for an unknown method or option, or a value that it cannot have. Options that would change the
    budget are not among them: all arms of a study train on the same votes for as long. Only how many responses ppo and
    rloo sample, and how often ppo uses them, has no counterpart in votes; reports tell what it cost.
    """
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\[(.*)\])?\s*", text)
    if not match:
        raise UserError(f"--methods: {text!r} is no arm; write method or method[option=value,...]")
    name = match[1]
    if name not in METHODS:
        raise UserError(f"--methods: unknown method {name!r}{nearest(name, list(METHODS))}")
    options: dict[str, Any] = {}
    for part in filter(None, (match[2] or "").split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.replace("-", "_")
        if not equals or key not in ARM_OPTIONS:
            raise UserError(f"--methods {text}: unknown option {key!r}{nearest(key, list(ARM_OPTIONS))}")
        try:
            options[key] = ARM_OPTIONS[key](value)
        except ValueError:
            kind = "true or false" if ARM_OPTIONS[key] is truth else "a number"
            raise UserError(f"--methods {text}: {key} must be {kind}, got {value!r}") from None
    check_own(name, options)
    make_settings(options)
    shown = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
    written = ",".join(f"{key}={value}" for key, value in sorted(shown.items()))
    return Arm(f"{name}[{written}]" if written else name, METHODS[name], options)


def check_own(method: str, options: Mapping[str, Any]) -> None:
    """Raises UserError for an option of amortized-ipo that is given to another method."""
    for name in AMORTIZED:
        if name in options and method != "amortized-ipo":
            raise UserError(f"--{flag(name)}: an option of amortized-ipo, not of {method}; leave it out")


def split_arms(text: str) -> list[str]:
    """Cut `dpo,ipo[reduction=mean,lr=1e-5]` at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
