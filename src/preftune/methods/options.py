"""How the options of a method, and the settings that all share, are declared: default, help and check in one place.

A dataclass with `option` fields is such a declaration. The command line, the brackets of an arm and the keywords of
`train` and `compare` all read it. No torch: a wrong value is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from numbers import Integral, Real
from typing import Any

from ..errors import UserError, nearest

REDUCTIONS = ("sum", "mean")
KINDS = ("frozen", "lora", "full")  # of reward models


def option(
    default: Any,
    text: str,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    default_text: str = "",
    in_arms: bool = True,
    counts: bool = True,
) -> Any:
    """A field of a declaration: its default, what it is for, and what it may be.

    Numbers may be `above` a bound, at `least` or at `most` one, `below` one. `default_text` says what a default of None
    means. Not `in_arms`: an arm cannot have its own. Not `counts`: it says only where, and in which pieces, something
    is computed, so that a run may go on with another value.
    """
    bounds = {"above": above, "least": least, "most": most, "below": below}
    told = {"text": text, "bounds": bounds, "choices": choices, "default_text": default_text}
    return field(default=default, metadata=told | {"in_arms": in_arms, "counts": counts})


def check_options(options: Any) -> None:
    """Raises UserError for a value that its declaration does not allow."""
    for declared in fields(options):
        value = getattr(options, declared.name)
        if value is None and "None" in str(declared.type):
            continue
        problem = _wrong_type(declared, value) or _out_of_bounds(declared, value)
        if problem:
            raise UserError(f"--{flag(declared.name)} {value}: must be {problem}")


def _wrong_type(declared: Field[Any], value: Any) -> str:
    kind = kind_of(declared)
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is int:
        return "" if isinstance(value, Integral) and not isinstance(value, bool) else "a whole number"
    if kind is float:
        return "" if isinstance(value, Real) and not isinstance(value, bool) else "a number"
    choices: Sequence[str] = declared.metadata["choices"]
    return f"one of {', '.join(choices)}" if choices and value not in choices else ""


def _out_of_bounds(declared: Field[Any], value: Any) -> str:
    """What it must be, if it is not; "" where it is fine. Only numbers have bounds, and NaN is within none."""
    bounds: Mapping[str, float | None] = declared.metadata["bounds"]
    within: Mapping[str, Callable[[float], bool]] = {
        "above": lambda bound: value > bound,
        "least": lambda bound: value >= bound,
        "most": lambda bound: value <= bound,
        "below": lambda bound: value < bound,
    }
    words = {"above": "greater than", "least": "at least", "most": "at most", "below": "below"}
    told = [f"{words[name]} {bound:g}" for name, bound in bounds.items() if bound is not None]
    fine = all(within[name](bound) for name, bound in bounds.items() if bound is not None)
    finite = kind_of(declared) is not float or math.isfinite(value)
    return "" if fine and finite else " and ".join(told) or "finite"


def kind_of(declared: Field[Any]) -> type:
    """The type of an option: bool, int, float or str; one that may be None has the type of its other values."""
    return {"bool": bool, "int": int, "float": float, "str": str}[str(declared.type).removesuffix(" | None")]


def is_switch(declared: Field[Any]) -> bool:
    """Whether it is off unless it is named: then it needs no value on the command line."""
    return declared.default is False


def help_of(declared: Field[Any]) -> str:
    """What it is for and what it is when it is left out, as the command line shows it."""
    default = "" if is_switch(declared) else declared.metadata["default_text"] or _shown(declared.default)
    choices = declared.metadata["choices"]
    text = f"{declared.metadata['text']}{': ' + ', '.join(choices) if choices else ''}"
    return f"{text} (default: {default})" if default else text


def _shown(value: Any) -> str:
    if value is None or value is MISSING:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse_option(declared: Field[Any], text: str) -> Any:
    """The value that a text stands for. Raises UserError for one that is none."""
    kind = kind_of(declared)
    if kind is bool:
        if text not in ("true", "false"):
            raise UserError(f"{declared.name} must be true or false, got {text!r}")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{declared.name} must be a {'whole ' * (kind is int)}number, got {text!r}") from None


def flag(name: str) -> str:
    """An option's name as it is written on the command line."""
    return name.replace("_", "-")


def names_of(declaration: type | object) -> tuple[str, ...]:
    """The names of the options of a declaration."""
    return tuple(declared.name for declared in fields(declaration))  # type: ignore[arg-type]


def check_known(names: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises UserError for a name that is none of these, with the nearest."""
    for name in names:
        if name not in known:
            raise UserError(f"unknown setting {name!r}{nearest(name, known)}")
