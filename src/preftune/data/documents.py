"""The rows of one JSON document: a list, an object that holds one, columns side by side, or a row itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .chats import PROMPTS, is_turn
from .layouts import is_known


@dataclass(frozen=True)
class Broken:
    """A row that cannot be read, and why."""

    why: str


PROMPT_NAMES = tuple(name for group in PROMPTS for name in group)


def rows_in(name: str, document: object) -> list[object]:
    """The rows of a document. Raises UserError where it holds several lists of them."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return [document]
    columns = _columns(document)
    if columns is not None:
        return columns
    if is_known(document):
        return [document]
    return _held(name, document)


def _held(name: str, document: Mapping[str, Any]) -> list[object]:
    """The rows that an object holds: of the data sets server, of pandas (split, index), or in its only list."""
    rows = document.get("rows")
    if isinstance(rows, list) and rows and all(isinstance(one, dict) and "row" in one for one in rows):
        return [_served(one) for one in rows]
    titles, cells = document.get("columns"), document.get("data")
    if isinstance(titles, list) and isinstance(cells, list) and all(isinstance(one, list) for one in cells):
        return [dict(zip(map(str, titles), one, strict=False)) for one in cells]
    if document and all(isinstance(one, dict) and is_known(one) for one in document.values()):
        return list(document.values())
    lists = [key for key, value in document.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise UserError(f"{name}: holds several lists ({', '.join(map(repr, lists))}); keep one in a file")
    return document[lists[0]] if lists else [document]


def _served(one: Mapping[str, Any]) -> object:
    if cut := one.get("truncated_cells"):
        return Broken(f"the server has cut {', '.join(map(str, cut))} short; fetch the row's file instead")
    return one["row"]


def _columns(document: Mapping[str, Any]) -> list[object] | None:
    """The rows of columns side by side, as lists or, as pandas has them, by row name; None if it is no such thing."""
    if len(document) < 2 or not is_known(document):
        return None
    values = list(document.values())
    if all(isinstance(value, dict) for value in values):
        keys = list(values[0])
        if keys and all(list(value) == keys for value in values) and all(key.isdigit() for key in keys):
            return [{title: value[key] for title, value in document.items()} for key in keys]
    elif all(isinstance(value, list) for value in values) and _is_column(document):
        titles = list(document)
        return [dict(zip(titles, cells, strict=True)) for cells in zip(*values, strict=True)]
    return None


def _is_column(document: Mapping[str, Sequence[Any]]) -> bool:
    """Whether lists of one length are columns, not chats: the prompt, or else `chosen`, is a list of no turns."""
    told = next((document[name] for name in (*PROMPT_NAMES, "chosen") if name in document), [])
    return bool(told) and len({len(one) for one in document.values()}) == 1 and not all(map(is_turn, told))
