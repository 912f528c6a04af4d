"""JSON and JSONL files of records: written whole or not at all, read with the line of whatever is wrong."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from ..errors import UserError
from ..files import write_whole

Record = TypeVar("Record")


def write_json(path: Path, value: object) -> None:
    """Write all of the file or nothing of it. Raises ValueError for a number that is not finite."""
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_records(path: Path, records: Iterable[object]) -> None:
    """Write dataclass records or mappings as JSONL: all of the file or nothing of it.

    A number that is not finite becomes the string "nan", "inf" or "-inf": the file stays JSON that any tool reads.
    """
    _replace(path, "".join(map(record_line, records)))


def append_records(path: Path, records: Iterable[object]) -> None:
    """Add lines at the end of a JSONL file (made if it is not there); a line torn by an interruption is cut first."""
    path.touch()
    with path.open("rb+") as file:
        content = file.read()
        start = content.rfind(b"\n") + 1
        tail = content[start:]
        whole = tail + b"\n" if tail and not _is_torn(tail) else b""
        file.seek(start)
        file.truncate()
        file.write(whole + _bytes("".join(map(record_line, records))))
        file.flush()
        os.fsync(file.fileno())


DIGITS = 300  # of a whole number; more would be no float
Lines = list[tuple[int, dict[str, Any]]]


def load_json(content: bytes) -> Any:
    """JSON of a file that anybody may have written. Raises ValueError, also for what is nested or long without end."""
    try:
        return json.loads(content, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError if there is none."""
    return _object(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """What a file holds. Raises UserError if something else is in its place, or it cannot be read."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file; move it away")
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_lines(path: Path) -> tuple[Lines, bool]:
    """(line number, object) of each line, and whether the last one is torn: it has no newline and is not read."""
    lines: Lines = []
    for number, line in enumerate(io.BytesIO(read_file(path)), start=1):
        if not line.endswith(b"\n") and _is_torn(line):
            return lines, True
        if line.strip():
            lines.append((number, _object(line, f"{path}, line {number}")))
    return lines, False


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = load_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); mend it or remove it") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: should be a JSON object, got {type(row).__name__}")
    return row


def _is_torn(line: bytes) -> bool:
    """Whether a last line is cut: no beginning of a JSON object is an object itself."""
    try:
        load_json(line)
    except ValueError:
        return True
    return False


def latest(kind: type[Record], lines: Lines, path: Path, key: Callable[[Record], object]) -> tuple[Record, ...]:
    """The records of lines; of those with the same key the last one stands."""
    read = _reader(kind)
    records = [read(row, f"{path}, line {number}") for number, row in lines]
    return tuple({key(record): record for record in records}.values())


def _reader(kind: type[Any]) -> Callable[[Mapping[str, Any], str], Any]:
    """(row, where it stands) -> record; UserError for a field that is missing, unknown or of another type."""
    readers = {f.name: _READERS[cast(str, f.type)] for f in fields(kind)}
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]

    def read(row: Mapping[str, Any], where: str) -> Any:
        unknown = sorted(row.keys() - readers.keys())
        if unknown:
            raise UserError(f"{where}: unknown `{unknown[0]}`; was the file written by another version of preftune?")
        missing = [name for name in required if name not in row]
        if missing:
            raise UserError(f"{where}: `{missing[0]}` is missing; mend the line or remove it")
        return kind(**{name: readers[name](value, where, name) for name, value in row.items()})

    return read


def _checked(kind: type[Any], word: str) -> Callable[[Any, str, str], Any]:
    def read(value: Any, where: str, name: str) -> Any:
        if type(value) is not kind:
            raise UserError(f"{where}: `{name}` should be {word}, got {value!r:.60}")
        return value

    return read


def real(value: Any, where: str, name: str) -> float:
    """A number, or the text of one that is not finite. Raises UserError, with the line, for anything else."""
    if type(value) in (int, float):
        return float(value)
    if type(value) is str and re.fullmatch("nan|-?inf", value):
        return float(value)
    raise UserError(f"{where}: `{name}` should be a number, got {value!r:.60}")


def _real_or_none(value: Any, where: str, name: str) -> float | None:
    return None if value is None else real(value, where, name)


def _mapping(value: Any, where: str, name: str) -> dict[str, float]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: `{name}` should be an object of numbers, got {value!r:.60}")
    return {key: real(item, where, f"{name}.{key}") for key, item in value.items()}


_READERS: dict[str, Callable[[Any, str, str], Any]] = {
    "str": _checked(str, "text"),
    "int": _checked(int, "a whole number"),
    "bool": _checked(bool, "true or false"),
    "float": real,
    "float | None": _real_or_none,
    "Mapping[str, float]": _mapping,
}


def record_line(record: object) -> str:
    """A line of JSONL; a number that is not finite becomes the string "nan", "inf" or "-inf"."""
    row = record if isinstance(record, Mapping) else asdict(cast(Any, record))
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _bytes(text: str) -> bytes:
    """UTF-8; half a surrogate pair, which UTF-8 cannot hold, becomes its JSON escape."""
    return text.encode("utf-8", errors="backslashreplace")


def _replace(path: Path, text: str) -> None:
    write_whole(path, _bytes(text))
