"""What the nested fields of `study.json` must look like: those that a report reads without looking first.

A shape is a kind of value, `[shape]` for a list of them, `{str: shape}` for an object of any names, `{"name": shape}`
for one that has these names (others may stand beside them; a name with `?` may be missing), or `None` or a shape.
"""

from __future__ import annotations

import math
from typing import Any

NUMBER = float  # a finite one, whole or not
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
LOOK = {"seeds": int, "prompts": int, "alpha": NUMBER}
SHAPES: dict[str, Any] = {
    "steps": {str: int},
    "arm_betas": {str: [NUMBER]},
    "failed": {str: str},
    "caveats": [str],
    "grown": [{"added": {str: list}}],
    "looks": {"schedule": [LOOK], "done": [{**LOOK, "hours?": NUMBER, "sentence?": str}], "ended": str},
    "pilots": {str: {"lr": NUMBER, "reason": str, "tried": [dict]}},
    "judges": [
        {"name": str, "description?": str, "identity?": dict, "agreement?": {"accuracy?": dict}, "fit?": dict},
    ],
    "addressed": {str: int},
    "gold": (None, {}),
}


def misfit(value: Any, shape: Any, where: str) -> str:
    """What of a value has another shape, in words; "" if nothing has."""
    if isinstance(shape, tuple):
        return "" if value is None else misfit(value, shape[1], where)
    if isinstance(shape, type):
        return "" if _is(value, shape) else f"`{where}` should be {WORDS[shape]}, got {value!r:.60}"
    kind = type(shape)
    if not isinstance(value, kind):
        return f"`{where}` should be {WORDS[kind]}, got {value!r:.60}"
    if isinstance(shape, list):
        parts = ((item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))
    elif str in shape:
        parts = ((item, shape[str], f"{where}.{name:.60}") for name, item in value.items())
    else:
        named = {name.removesuffix("?"): own for name, own in shape.items()}
        if missing := [name for name in shape if not name.endswith("?") and name not in value]:
            return f"`{where}.{missing[0]}` is missing"
        parts = ((value[name], own, f"{where}.{name}") for name, own in named.items() if name in value)
    return next(filter(None, (misfit(*part) for part in parts)), "")


def _is(value: Any, kind: type) -> bool:
    if kind is NUMBER:
        return type(value) in (int, float) and abs(value) < math.inf
    return type(value) is kind
