"""A layout: the columns by which rows of a kind are known, and what each of them is to us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .fields import Plain, Row, decoded, value_at

VERDICTS = frozenset(
    {"votes", "p", "label", "winner", "first_wins", "better_index", "toward_second", "toward_first", "one_to_two"}
    | {"score_a", "score_b"}
)
STRUCTURED = ("responses", "ranks", "scores", "votes", "annotations", "ended")  # lists, or such a list in a text
SIDES = ("chosen", "rejected", "a", "b", "responses", "response")
PASSED = {
    *("prompt", "conversations", "conversation", "question", "instruction", "context", "messages", "contents", "input"),
    *(
        "query",
        "trajectory",
        "user_prompt",
        "user_input",
        "problem",
        "post",
        "history",
        "turns",
        "system",
        "system_prompt",
    ),
    *("id", "source", "weight", "ended", "tools", "functions", "annotations", "p", "votes", "model_a", "model_b"),
    *("image", "images", "image_url", "audio", "audios", "video", "videos"),
}


Adapt = Callable[[dict[str, Any], Row, Mapping[str, str]], Mapping[str, str] | None]
Example = Mapping[str, Any] | tuple[Mapping[str, Any], ...]  # a row, or rows that are a ballot together
Q, NILE, BREAD = "Name a river.", "The Nile.", "Bread."  # what examples are about
ASKED: list[Any] = [{"role": "user", "content": Q}]


def says(text: str) -> dict[str, str]:
    """A turn of the assistant, in an example."""
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Layout:
    """One kind of rows.

    `columns` says what is what: our role to the path of a column, `name`, or `name.name` inside of it; `one|other`
    takes the first that has a value, and a path that ends in `?` may be missing. Other columns of `variants` mean the
    same. A row is of this kind if it has the first column of every path, and those of `beside`. `takes` are columns
    that keep their own name and meaning, beside those that every layout keeps. What a map of columns cannot say does
    `adapt`, on the row under our names. `rows` is "" where a row is a ballot, "prompt" where all rows of one prompt
    are, "tree" where replies name their parents, "nested" where they stand inside of them. Examples are about a river
    (or bread), and the better response names it.
    """

    name: str
    about: str
    columns: Mapping[str, str]
    examples: tuple[Example, ...]
    source: str = ""
    variants: tuple[Mapping[str, str], ...] = ()
    beside: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    adapt: Adapt | None = None
    rows: str = ""

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """One for each set of column names."""
        return tuple(Kind(self, columns) for columns in (self.columns, *self.variants))


@dataclass(frozen=True)
class Kind:
    """A layout under one set of column names."""

    layout: Layout
    columns: Mapping[str, str]
    paths: Mapping[str, str] = field(init=False)
    loose: Mapping[str, frozenset[str]] = field(init=False)  # roles that may be missing, and where they would stand
    needs: frozenset[str] = field(init=False)
    sides: tuple[str, ...] = field(init=False)
    reads: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        paths = {role: path.removesuffix("?") for role, path in self.columns.items()}
        loose = {role: path.removesuffix("?") for role, path in self.columns.items() if path.endswith("?")}
        firm = [path for path in self.columns.values() if not path.endswith("?")]
        heads = {path: path.split("|")[0].split(".")[0] for path in firm}
        every = {*paths.values()}.union(*map(_heads, paths.values()))
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "loose", {role: _heads(path) for role, path in loose.items()})
        object.__setattr__(self, "needs", frozenset(heads.values()) | {*self.layout.beside})
        object.__setattr__(self, "sides", tuple(paths[role] for role in SIDES if role in paths))
        object.__setattr__(self, "reads", frozenset(every | {*self.layout.beside, *self.layout.takes}))

    def plain(self, row: Row, gap: float = 0.0, stated: Mapping[str, str] | None = None) -> Plain:
        """The row under our names. What a person has `stated` stands under them already, and goes before the rest."""
        takes = self.layout.takes
        fields = {key: value for key, value in row.items() if key in PASSED or key in takes}
        for role, path in self.paths.items():
            if role not in self.loose or not self.loose[role].isdisjoint(row):
                fields[role] = row[path] if path in row else value_at(row, path)
        for role in STRUCTURED:
            if isinstance(fields.get(role), str) and fields[role][:1] in ("[", "{"):
                fields[role] = decoded(role, fields[role])
        names = self.layout.adapt(fields, row, self.paths) if self.layout.adapt else None
        plain = Plain(fields, {**self.paths, **names} if names else self.paths, gap, row)
        return _overruled(plain, row, stated) if stated else plain

    def has_value(self, row: Row) -> bool:
        """Whether the row has any of its responses."""
        return any(value_at(row, path) is not None for path in self.sides)


def _overruled(plain: Plain, row: Row, stated: Mapping[str, str]) -> Plain:
    """What a person says of a row is what counts: of the ways to name a winner only theirs, if they say one."""
    fields = {
        role: value for role, value in plain.fields.items() if role not in VERDICTS or VERDICTS.isdisjoint(stated)
    }
    return Plain({**fields, **{role: row[role] for role in stated}}, {**plain.names, **stated}, plain.gap, plain.given)


def _heads(path: str) -> frozenset[str]:
    """The columns that a path begins with."""
    return frozenset(one.split(".")[0] for one in path.split("|"))
