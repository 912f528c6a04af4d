"""Which layout a row has, told by its columns; what `--columns` says of them; the nearest layout where none fits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache

from ..errors import UserError
from .catalogue import LAYOUTS
from .fields import Plain, Row, names_of, value_at
from .layout import PASSED, SIDES, VERDICTS, Kind, Layout

ROLES = (
    *("prompt", "system", "chosen", "rejected", "a", "b", "responses", "response"),
    *sorted(VERDICTS),
    *("ranks", "scores", "rank", "score", "desirable", "by", "id", "source", "weight", "ended", "tools", "annotations"),
)
KINDS = tuple(kind for layout in LAYOUTS for kind in layout.kinds)
PATHS = {one for kind in KINDS for path in kind.paths.values() for one in path.split("|")}
KNOWN = frozenset(PASSED).union(*(kind.reads for kind in KINDS))
HELD: dict[str, frozenset[str]] = {  # what stands inside of a column, by column
    head: frozenset(path.split(".")[1] for path in PATHS if path.startswith(f"{head}."))
    for head in {path.split(".")[0] for path in PATHS if "." in path}
}
ASKED = frozenset(
    {"prompt", "turns", "messages", "conversations", "conversation", "question", "instruction", "context"}
)
GUESSES = {  # words in the names of columns that nobody documented: used for a proposal, never for reading
    "chosen": ("chosen", "best", "preferred", "accepted", "win", "winner", "pos", "positive", "good", "better"),
    "rejected": ("rejected", "worst", "dispreferred", "lose", "loser", "neg", "negative", "bad", "worse"),
    "prompt": ("prompt", "question", "query", "instruction", "input", "context", "user", "task", "request", "ask"),
    "response": ("response", "answer", "completion", "output", "reply", "text", "generation", "assistant"),
    "score": ("score", "rating", "reward", "grade", "stars", "quality", "points"),
    "winner": ("winner", "label", "preference", "verdict", "choice", "vote", "judgement", "judgment"),
}


@dataclass(frozen=True)
class How:
    """How a person wants a file to be read: `columns` maps our roles to its columns; see `read_ballots`."""

    columns: Mapping[str, str] = field(default_factory=dict)
    gap: float = 0.0

    def renamed(self, row: Row) -> Row:
        """The row with the columns that were named under our names."""
        if not self.columns:
            return row
        found = {role: value_at(row, path) for role, path in self.columns.items()}
        if all(value is None for value in found.values()):
            wrong = next(iter(self.columns.values()))
            raise ValueError(f"--columns: there is no column `{wrong}`; the row has {names_of(row)}")
        taken = {path.split(".")[0] for path in self.columns.values()}
        return {key: value for key, value in row.items() if key not in taken} | found


def parse_columns(text: str | Mapping[str, str]) -> dict[str, str]:
    """`prompt=question,chosen=best` as a map. Raises UserError for a role that there is not."""
    pairs = text.items() if isinstance(text, Mapping) else [part.partition("=")[::2] for part in text.split(",")]
    columns = {}
    for role, path in ((role.strip(), path.strip()) for role, path in pairs):
        if role not in ROLES:
            raise UserError(f"--columns: there is no {role!r}; it takes NAME=COLUMN with a name of {', '.join(ROLES)}")
        if not path or role in columns:
            raise UserError(f"--columns: {role} needs one column, as in {role}=COLUMN")
        columns[role] = path
    return columns


def kind_of(row: Row) -> Kind | None:
    """The layout of a row; None if no known one fits.

    Arrow gives every row all columns: where those of the responses are empty, the others count.
    """
    kind = _kind_of_names(tuple(row))
    if kind is None or kind.has_value(row):
        return kind
    return _kind_of_names(tuple(key for key, value in row.items() if value is not None)) or kind


def fits(titles: Iterable[str]) -> bool:
    """Whether rows with these columns are of a known layout."""
    return _kind_of_names(tuple(titles)) is not None


def is_known(row: Row) -> bool:
    """Whether an object is a row that a layout fits, or a prompt with nothing beside it."""
    return _kind_of_names(tuple(row)) is not None or not ASKED.isdisjoint(row)


@lru_cache(maxsize=4096)
def _kind_of_names(names: tuple[str, ...]) -> Kind | None:
    there = frozenset(names)
    return next((kind for kind in KINDS if kind.needs <= there), None)


def plain_of(row: Row, how: How) -> tuple[Layout, Plain]:
    """The layout of a row, and the row under our names. Raises ValueError, with a way out, for an unknown one."""
    row = how.renamed(row)
    kind = kind_of(row)
    if kind is None:
        raise ValueError(unknown(row))
    return kind.layout, kind.plain(row, how.gap, how.columns)


# --- where nothing fits -----------------------------------------------------------------------------------------------


def unknown(row: Row) -> str:
    """What to say of a row of no known layout: the nearest one, and the `--columns` that would read it."""
    parts = proposal(row)
    kind = nearest(row, parts)
    missing = textwrap.shorten(", ".join(sorted(f"`{need}`" for need in kind.needs - row.keys())), 80)
    has = f"no known layout: the row has {names_of(row)}"
    near = f"the nearest is {kind.layout.name!r}, which also has {missing}"
    columns = ",".join(f"{role}={name or '…'}" for role, name in parts.items())
    return f"{has}; {near}; to say which column is what: --columns {columns} (docs/FORMATS.md has all layouts)"


def nearest(row: Row, parts: Mapping[str, str | None]) -> Kind:
    """Of the layouts whose responses stand under these of our names, the one with columns most like those of a row."""

    def likeness(kind: Kind) -> float:
        best = [max((_alike(need, name) for name in row), default=0.0) for need in kind.needs]
        return sum(best) / max(len(best), 1) + len(kind.needs & row.keys())

    sides = {role for role in SIDES if role in parts}
    return max((kind for kind in KINDS if sides == {role for role in SIDES if role in kind.paths}), key=likeness)


@lru_cache(maxsize=65536)
def _alike(one: str, other: str) -> float:
    return 1.0 if one == other else SequenceMatcher(None, one.lower(), other.lower()).ratio()


def proposal(row: Row) -> dict[str, str | None]:
    """The columns of a row by our names, as far as their names tell; None where they do not."""
    texts = [name for name, value in row.items() if isinstance(value, str | list | dict)]
    chosen, rejected = _guess("chosen", texts), _guess("rejected", texts)
    rest = [name for name in texts if name not in (chosen, rejected)]
    prompt = _guess("prompt", rest)
    answers = [name for name in rest if name != prompt and _is_like("response", name)]
    good = next((name for name, value in row.items() if isinstance(value, bool)), None)
    if chosen or rejected or not answers:
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if len(answers) >= 2:
        return {"prompt": prompt, "a": answers[0], "b": answers[1], "winner": _guess("winner", row)}
    if isinstance(row[answers[0]], list):
        return {"prompt": prompt, "responses": answers[0], "scores": _guess("score", row)}
    measure = {"desirable": good} if good else {"score": _guess("score", row)}
    return {"prompt": prompt, "response": answers[0], **measure}


def _guess(role: str, names: Iterable[str]) -> str | None:
    exact = [name for word in GUESSES[role] for name in names if word == name.lower()]
    return next(iter([*exact, *(name for name in names if _is_like(role, name))]), None)


def _is_like(role: str, name: str) -> bool:
    words = name.lower().replace("-", "_").split("_")
    return any(word in words for word in GUESSES[role])
