"""The fields of a row: what is missing, a number as it was written, text that is whole."""

from __future__ import annotations

import ast
import json
import math
import re
import reprlib
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

BROKEN_TEXT = "text that is not valid Unicode (half of a surrogate pair)"

Row = Mapping[str, Any]
Exact = int | float | Decimal
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class Unusable(Exception):
    """A row that can be read and not used; its text is the reason to count."""


class Ambiguous(ValueError):
    """A row that may mean two things; its text has the two readings and how to choose. It is never left out as bad."""


@dataclass(frozen=True)
class Plain:
    """A row under our names, whatever they are in the file, where `names` has them.

    `gap`: scores of one row that differ by no more are a tie. `given` is the row as it stands in the file.
    """

    fields: Row
    names: Mapping[str, str] = field(default_factory=dict)
    gap: float = 0.0
    given: Row = field(default_factory=dict)

    def name(self, role: str) -> str:
        """What the file calls it."""
        return self.names.get(role, role)


def twice(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def structure_of(text: str) -> tuple[Any, list[str]]:
    """What a text holds as JSON or as Python prints it (else itself), and the keys that stand twice in an object."""
    doubled: list[str] = []

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        doubled.extend(twice(key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=fields), doubled
    except (ValueError, RecursionError):
        doubled.clear()
    for printed in dict.fromkeys((text, re.sub(r"}\s*\n\s*{", "}, {", text))):  # numpy puts no comma between objects
        try:
            with warnings.catch_warnings(action="ignore"):  # text that is no Python may hold escapes that it warns of
                tree = ast.parse(printed, mode="eval")
            for node in ast.walk(tree):
                if isinstance(node, ast.Dict):
                    doubled.extend(twice(str(key.value) for key in node.keys if isinstance(key, ast.Constant)))
            return ast.literal_eval(tree), doubled
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            doubled.clear()
    return text, doubled


def decoded(name: str, text: str) -> Any:
    """A list or an object that a text holds. Raises ValueError for an object with a key that stands twice."""
    value, doubled = structure_of(text)
    if doubled:
        raise ValueError(f"in `{name}`, the key {doubled[0]!r} stands twice in one object; keep one of them")
    return value


def check_unicode(texts: Iterable[str]) -> None:
    """Raises Unusable for half of a surrogate pair, which no file can hold."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise Unusable(BROKEN_TEXT) from None


def fields_of(row: object) -> Row:
    """A row as named fields. Raises ValueError for one that has none."""
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object with named fields, not {reprlib.repr(row)}")
    return row


def names_of(row: Row) -> str:
    """The names of a row's fields, for a message."""
    return textwrap.shorten(", ".join(map(repr, row)), 200) or "no fields"


def number_of(value: object, name: str) -> float:
    """A finite number, or the text of one (CSV)."""
    return float(exact_of(value, name))


def exact_of(value: object, name: str) -> Exact:
    """A finite number that compares as it was written: floats cannot tell large integers apart.

    Text must be a plain decimal number: Python would take 1_0, full-width digits and nan as well.
    """
    try:
        number = value
        if isinstance(value, str) and NUMBER.fullmatch(value):
            number = int(value) if value.lstrip("+-").isdigit() else float(value)
        if isinstance(number, int | float | Decimal) and not isinstance(number, bool) and math.isfinite(number):
            return number
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"`{name}` is {reprlib.repr(value)}, not a finite number")


def value_at(row: Row, path: str) -> Any:
    """What stands at `name`, or inside of it at `name.name`; lists give a list of what stands inside of each entry.

    Of several paths with `|` between them the first that has a value counts; None where there is none.
    """
    for one in path.split("|"):
        found = row.get(one)
        if found is None and "." in one:
            found = _inside(row, one.split("."))
        if found is not None:
            return found
    return None


def _inside(value: Any, names: list[str]) -> Any:
    for place, name in enumerate(names):
        if isinstance(value, list):
            found = [_inside(entry, names[place:]) for entry in value]
            return None if all(one is None for one in found) else found
        value = value.get(name) if isinstance(value, dict) else None
    return value


def alike(one: Exact, other: Exact, gap: float) -> bool:
    """Whether two scores are a tie: equal as they were written, or no more than `gap` apart."""
    return one == other or (gap > 0 and abs(float(one) - float(other)) <= gap)


def is_missing(value: object) -> bool:
    """Whether a number was left out: null, not a number (as pandas writes null), or a word for that."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "n/a", "na", "nan", "none", "null")
    return value is None or (isinstance(value, float) and math.isnan(value))


def numbers_of(values: object, name: str, count: int) -> list[Exact | None]:
    """A list of so many finite numbers, None where one is missing. Raises ValueError for anything else."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"`{name}s` must be a list of {count} numbers, one a response, not {reprlib.repr(values)}")
    return [None if is_missing(value) else exact_of(value, name) for value in values]
