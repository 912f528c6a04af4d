"""The fields of a row: what is missing, a number as it was written, text that is whole."""

from __future__ import annotations

import math
import re
import reprlib
import textwrap
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

BROKEN_TEXT = "text that is not valid Unicode (half of a surrogate pair)"

Row = Mapping[str, Any]
Exact = int | float | Decimal
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class Unusable(Exception):
    """A row that can be read and not used; its text is the reason to count."""


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


def numbers_of(values: object, name: str, count: int) -> list[Exact]:
    """A list of so many finite numbers. Raises ValueError for anything else."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"`{name}s` must be a list of {count} numbers, one a response, not {reprlib.repr(values)}")
    return [exact_of(value, name) for value in values]
