"""The rows of a preference file one by one, each with what the reader makes of it.

`read_ballots` stops at a row that it cannot read; here such a row is one of the things to be told. JSON lines are read
as they come, gzipped or not, so that the size of a file does not matter; any other container is read whole.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from ..errors import UserError
from .ballots import Ballot, Prompt
from .containers import _is_object, _json, _unique, read_table
from .fields import Row, Unusable, fields_of
from .layouts import ballot_of, prompt_alone


class Seen(NamedTuple):
    """A row and what the reader makes of it.

    Either a `ballot`, from which `dropped` responses were left out, or a `reason`: for which it is skipped, or, if it
    is `broken`, for which it cannot be read. A row without a ballot may still hold a `prompt`.
    """

    number: int
    row: Row
    ballot: Ballot | None = None
    dropped: int = 0
    reason: str = ""
    broken: bool = False
    prompt: Prompt | None = None


class Stream(NamedTuple):
    """The rows of a file; `unit` stands between its name and a row's number."""

    name: str
    unit: str
    rows: Iterator[Seen]

    def where(self, number: int) -> str:
        return f"{self.name}{self.unit}{number}"


def stream_rows(source: str | Path) -> Stream:
    """The rows of a file, or of a hub data set, in file order. Raises UserError for what holds no rows at all."""
    name = str(source)
    if _is_lines(Path(source)):
        return Stream(name, ":", _lines(Path(source), name))
    table = read_table(source)
    return Stream(table.name, table.unit, (seen_row(number, row) for number, row in table.rows))


def seen_row(number: int, row: object) -> Seen:
    """A row as the reader sees it."""
    fields: Row = {}
    try:
        fields = fields_of(row)
        ballot, dropped = ballot_of(fields, str(number))
    except Unusable as reason:
        return Seen(number, fields, reason=str(reason), prompt=_prompt(fields))
    except (ValueError, RecursionError) as error:
        return Seen(number, fields, reason=str(error), broken=True, prompt=_prompt(fields))
    return Seen(number, fields, ballot, dropped.total() if dropped else 0, prompt=ballot.prompt)


def _prompt(fields: Row) -> Prompt | None:
    try:
        return prompt_alone(fields)
    except (ValueError, RecursionError, Unusable):
        return None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path) if zipped else path.open("rb"))


def _is_lines(path: Path) -> bool:
    """Whether the first line is a JSON object and another line follows."""
    try:
        with _open(path) as file:
            lines = (line for line in file if line.strip())
            first, second = next(lines, b""), next(lines, b"")
        return bool(second) and first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" and _is_object(_text(first))
    except (OSError, EOFError, zlib.error, ValueError):
        return False  # whoever reads it whole says what is wrong


def _text(line: bytes) -> str:
    return line.removeprefix(b"\xef\xbb\xbf").decode()


def _lines(path: Path, name: str) -> Iterator[Seen]:
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _line(name, number, line)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{name}: damaged or truncated gzip; fetch it again") from None


def _line(name: str, number: int, line: bytes) -> Seen:
    try:
        text = _text(line)
        row = DECODER.decode(text)
    except UnicodeDecodeError:
        return Seen(number, {}, reason="it is not UTF-8 text", broken=True)
    except (ValueError, RecursionError):
        return Seen(number, {}, reason=_why(name, text, number), broken=True)
    return seen_row(number, row)


def _why(name: str, text: str, number: int) -> str:
    """Why a line is no JSON, in the words of whoever reads it whole."""
    try:
        _json(name, text, number)
    except UserError as error:
        return str(error).removeprefix(f"{name}:{number}: ")
    return "broken JSON"


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else _unique(pairs)


DECODER = json.JSONDecoder(object_pairs_hook=_object)  # json.loads would make one for every line
