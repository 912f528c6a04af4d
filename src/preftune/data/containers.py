"""A file becomes numbered rows, one after the other: JSONL, JSON, CSV, Parquet, Arrow, gzip, told by content."""

from __future__ import annotations

import csv
import gzip
import json
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import UserError
from .chats import is_turn
from .documents import Broken, rows_in
from .fields import decoded, structure_of, twice
from .layouts import HELD, KNOWN, fits
from .numbered import is_said

CHATS = {"conversations", "conversation", "messages", "turns"}  # never text, whatever is in them
UNPACK = "unpack it, or use gzip"
FOREIGN = {  # what a file begins with that is no rows: what it is, and what to do
    b"PK\x03\x04": ("is compressed with zip", f"{UNPACK}; save a spreadsheet as CSV"),
    b"BZh": ("is compressed with bzip2", UNPACK),
    b"\xfd7zXZ": ("is compressed with xz", UNPACK),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstandard", UNPACK),
    b"\x04\x22\x4d\x18": ("is compressed with lz4", UNPACK),
    b"7z\xbc\xaf": ("is compressed with 7z", UNPACK),
    b"\x1f\x8b": ("is gzip within gzip", "unpack it once"),
    b"PARE": ("is an encrypted Parquet file", "save it without a key"),
    b"FEA1": ("is Feather of version 1", "write it again as Feather of version 2 (Arrow) or as Parquet"),
    b"ORC": ("is an ORC file", "save it as Parquet or JSON lines"),
    b"Obj\x01": ("is an Avro file", "save it as Parquet or JSON lines"),
    b"SQLite f": ("is a database of SQLite", "save the table as CSV or JSON lines"),
    b"\x89HDF": ("is an HDF5 file", "save the table as Parquet or JSON lines"),
    b"\x93NUMPY": ("is an array of numpy", "save the rows as JSON lines"),
    b"\xd0\xcf\x11\xe0": ("is a document of an old office program", "save the sheet as CSV"),
    b"%PDF": ("is a PDF", "save the rows as JSON lines"),
    b"\xff\xfe": ("is UTF-16 or UTF-32 text", "save the file as UTF-8"),
    b"\xfe\xff": ("is UTF-16 text", "save the file as UTF-8"),
    b"\0\0\xfe\xff": ("is UTF-32 text", "save the file as UTF-8"),
    **{
        bytes([0x80, version]): ("is a pickle, which could run code", "save the rows as JSON lines with what made it")
        for version in range(2, 6)
    },
    b"version https://git-lfs": ("is a pointer of Git LFS and not the file", "fetch it with git lfs pull"),
    b"<!DOCTYPE": ("is a web page", "fetch the file itself"),
    b"<!doctype": ("is a web page", "fetch the file itself"),
    b"<html": ("is a web page", "fetch the file itself"),
}
NO_TEXT = "is not UTF-8 text; save the file as UTF-8"
BLANK = b" \t\r\n\v\f\xef\xbb\xbf"
LONGEST_LINE = 1 << 28  # bytes
UNSUSPECTED, MOST_TIMES = 1 << 27, 400  # a gzip of text is a tenth of it or so, one of zeros a thousandth
AT_ONCE = 512  # rows of a Parquet or Arrow file that are in memory


Item = TypeVar("Item")


@dataclass(frozen=True)
class Table:
    """Numbered rows; `unit` stands between name and number: `:` where numbers are lines, else `, row `."""

    name: str
    unit: str
    rows: Iterator[tuple[int, object]]

    def where(self, number: int) -> str:
        return f"{self.name}{self.unit}{number}"


def open_table(path: Path, name: str, also: frozenset[str] = frozenset()) -> Table:
    """The rows of a file. Of Parquet and Arrow only the columns that a layout reads, or that are named in `also`.

    Raises UserError, with file and line, for what cannot be read, here or when the rows are taken.
    """
    head = next(_guarded(name, _heads(path, name)))
    for magic, (what, do) in FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"{name}: {what}; {do}")
    if head.startswith(b"PAR1"):
        return Table(name, ", row ", _guarded(name, _from_parquet(path, name, also)))
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return Table(name, ", row ", _guarded(name, _from_arrow(path, name, also)))
    return _from_text(name, _guarded(name, _lines(path, name)))


def _opened(path: Path, name: str) -> IO[bytes]:
    """The content of a file, decompressed as it is read."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{name}: is a pipe or a device; save what it gives to a file")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; name a file in it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _heads(path: Path, name: str) -> Iterator[bytes]:
    with _opened(path, name) as file:
        yield file.read(max(map(len, FOREIGN)))


def _guarded(name: str, items: Iterator[Item]) -> Iterator[Item]:
    """The same, where what goes wrong in between is one line for a person."""
    try:
        yield from items
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{name}: damaged or truncated gzip; fetch it again") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None


# --- text -------------------------------------------------------------------------------------------------------------


def _lines(path: Path, name: str) -> Iterator[bytes]:
    read, packed = 0, path.stat().st_size if path.is_file() else 0
    with _opened(path, name) as file:
        while line := file.readline(LONGEST_LINE + 1):
            read += len(line)
            if len(line) > LONGEST_LINE:
                raise UserError(f"{name}: has a line of more than {LONGEST_LINE >> 20} MiB; that is no row")
            if read > max(UNSUSPECTED, MOST_TIMES * packed):
                raise UserError(f"{name}: unpacks to more than {MOST_TIMES} times its size; that is no text")
            yield line


def _text(name: str, line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{name}:{number}: {NO_TEXT}") from None


def whole_text(path: Path, name: str) -> str:
    """The text of a file. Raises UserError, with the line, for what is none, and for a file with nothing in it."""
    text = "".join(_text(name, line, number) for number, line in enumerate(_guarded(name, _lines(path, name)), 1))
    if not text.strip():
        raise UserError(f"{name}: is empty")
    return text


def _from_text(name: str, lines: Iterator[bytes]) -> Table:
    """Told by the first lines: one whole object and more is JSON lines, else JSON or CSV."""
    numbered = enumerate(lines, 1)
    spoken = ((number, line) for number, line in numbered if line.strip(BLANK))
    first = [(number, _text(name, line, number)) for number, line in islice(spoken, 1)]
    if not first:
        raise UserError(f"{name}: is empty")
    if "\0" in first[0][1]:
        raise UserError(f"{name}: {NO_TEXT} (it has zero bytes)")
    start = first[0][1].lstrip()[:1]
    if start == "{" and _is_object(first[0][1]):
        second = list(islice(spoken, 1))
        if not second:
            return _from_document(name, first)
        return Table(name, ":", chain(_from_json_lines(first), _from_json_lines(_decoded(chain(second, spoken)))))
    texts = ((number, _text(name, line, number)) for number, line in numbered)
    if start in ("{", "["):
        return _from_document(name, [*first, *texts])
    return Table(name, ", row ", _from_csv(name, chain(first, texts)))


def _decoded(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str | Broken]]:
    for number, line in lines:
        try:
            yield number, line.decode()
        except UnicodeDecodeError:
            yield number, Broken(NO_TEXT)


def _from_document(name: str, lines: list[tuple[int, str]]) -> Table:
    start = lines[0][1].lstrip()[0]
    spoken = [(number, line) for number, line in lines if line.strip()]
    document = json_of("".join(line for _, line in lines), lines[0][0])
    if isinstance(document, Broken):
        if start == "{" and len(spoken) > 1 and spoken[1][1].startswith("{"):
            return Table(name, ":", _from_json_lines(iter(spoken)))
        raise UserError(f"{name}:{document.why}")
    rows = rows_in(name, document)
    if len(spoken) == 1 and rows and rows[0] is document:
        return Table(name, ":", iter([(spoken[0][0], document)]))
    return Table(name, ", row ", iter(enumerate(rows, 1)))


def _from_json_lines(lines: Iterable[tuple[int, str | Broken]]) -> Iterator[tuple[int, object]]:
    for number, line in lines:
        if isinstance(line, Broken):
            yield number, line
            continue
        row = json_of(line, number)
        yield number, Broken(row.why.partition(": ")[2]) if isinstance(row, Broken) else row


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def json_of(text: str, line: int) -> object:
    """A JSON text that starts on this line of the file; `Broken`, with the line, for what is none."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError as error:
        place, why = line + error.lineno - 1, f"{error.msg} at column {error.colno}"
    except RecursionError:
        place, why = line, "it is nested too deeply"
    except ValueError as error:
        place, why = line, "it has a number of too many digits" if "int_max_str_digits" in str(error) else str(error)
    return Broken(f"{place}: broken JSON ({why}); mend or delete the line")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; of a key that stands twice Python would keep the last value and say nothing."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"the key {twice(key for key, _ in pairs)[0]!r} stands twice in one object")
    return fields


DECODER = json.JSONDecoder(object_pairs_hook=_unique)  # json.loads would make one for every line


# --- CSV --------------------------------------------------------------------------------------------------------------


def _from_csv(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, object]]:
    numbered = iter(lines)
    first = next(numbered)
    text = (line for _, line in chain([first], numbered))
    limit = csv.field_size_limit()
    reader = csv.reader(text, delimiter=max(",\t;", key=first[1].count), strict=True)
    records = _records(name, reader, limit)
    header = [title.strip() for title in next(records)]
    if not is_titled(header):
        raise UserError(
            f"{name}:1: neither JSON nor a CSV header with a column that this reader knows (docs/FORMATS.md); "
            "--columns can say what its columns are"
        )
    if doubled := twice(header):
        raise UserError(f"{name}:1: two columns have the same title, {doubled[0]!r}; rename one")
    for number, record in enumerate(records, 1):
        yield number, _cells(header, record)


def _records(name: str, reader: Any, limit: int) -> Iterator[list[str]]:
    """The records that are not empty; a cell may be as long as it likes, here and nowhere else."""
    while True:
        csv.field_size_limit(2**31 - 1)
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{name}:{reader.line_num}: neither JSON nor readable as CSV ({error})") from None
        finally:
            csv.field_size_limit(limit)
        if record is None:
            return
        if record:
            yield record


def _cells(header: Sequence[str], record: Sequence[str]) -> dict[str, object] | Broken:
    if len(record) != len(header):
        return Broken(f"has {len(record)} cells under {len(header)} titles; check its quotes")
    try:
        return {title: _cell(title, text) for title, text in zip(header, record, strict=True)}
    except ValueError as error:
        return Broken(str(error))


def _cell(title: str, text: str) -> object:
    """Text, None for an empty cell, or the chat or object that a cell holds as JSON or as Python prints it.

    Lists of responses, ranks and the like stay text here: their layout knows them.
    """
    if text[:1] not in ("[", "{"):
        return text or None
    value, _ = structure_of(text)
    is_chat = is_turn(value) or (isinstance(value, list) and bool(value) and all(map(is_turn, value)))
    is_held = isinstance(value, dict) and not HELD.get(title, frozenset()).isdisjoint(value)
    return decoded(title, text) if is_chat or is_held or title in CHATS else text


# --- Parquet and Arrow ------------------------------------------------------------------------------------------------


def _from_parquet(path: Path, name: str, also: frozenset[str]) -> Iterator[tuple[int, object]]:
    import pyarrow.parquet

    # With Arrow's own threads a process that ends at once is sometimes aborted by them (SIGABRT, one in eighty here).
    try:
        with _opened(path, name) as file:
            source = pyarrow.BufferReader(file.read()) if isinstance(file, gzip.GzipFile) else file
            whole = pyarrow.parquet.ParquetFile(source, pre_buffer=False)
            columns = wanted(name, whole.schema_arrow, also)
            batches = whole.iter_batches(AT_ONCE, columns=columns, use_threads=False)
            yield from _numbered(batches)
    except UserError:
        raise
    except Exception as error:  # Arrow's own, OSError, ValueError, and what makes Python's times and decimals raises
        raise UserError(f"{name}: damaged Parquet file ({one_line(error)}); fetch it again") from None


def _from_arrow(path: Path, name: str, also: frozenset[str]) -> Iterator[tuple[int, object]]:
    import pyarrow.ipc

    try:
        with _opened(path, name) as file:
            data = pyarrow.PythonFile(file, mode="r")
            if file.peek(6)[:6] == b"ARROW1":  # type: ignore[attr-defined]
                whole = pyarrow.ipc.open_file(data)
                batches: Iterator[Any] = (whole.get_batch(i) for i in range(whole.num_record_batches))
            else:
                whole = pyarrow.ipc.open_stream(data)
                batches = iter(whole)
            columns = wanted(name, whole.schema, also)
            yield from _numbered(batch.select(columns) for batch in batches)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: damaged Arrow file ({one_line(error)}); fetch it again") from None


def _numbered(batches: Iterable[Any]) -> Iterator[tuple[int, object]]:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, AT_ONCE):
            for row in batch.slice(start, AT_ONCE).to_pylist():
                number += 1
                yield number, row


def wanted(name: str, schema: Any, also: frozenset[str]) -> list[str]:
    """The columns that a layout reads; if no layout fits, all that may hold text or numbers: an error will name them.

    What nobody reads may hold anything: times beyond Python's years, bytes, two columns of one title.
    """
    import pyarrow.types

    titles = schema.names
    doubled = twice(titles)
    types = [schema.field(place).type for place in range(len(titles))]
    typed = list(zip(titles, types, strict=True))
    known = [title for title, kind in typed if title in KNOWN or title in also or is_said(title) or _is_answers(kind)]
    if both := [title for title in known if title in doubled]:
        raise UserError(f"{name}: two columns have the same title, {both[0]!r}; rename one")
    if also or fits(titles):
        return known
    odd = (pyarrow.types.is_temporal, pyarrow.types.is_decimal, pyarrow.types.is_binary, pyarrow.types.is_large_binary)
    plain = [title for title, kind in typed if not any(test(kind) for test in odd)]
    return [title for title in plain if title not in doubled]


def _is_answers(kind: Any) -> bool:
    """Whether a column holds what people answered: a list of objects with who it was."""
    import pyarrow.types

    listed = pyarrow.types.is_list(kind) and pyarrow.types.is_struct(kind.value_type)
    return bool(listed) and kind.value_type.get_field_index("user_id") >= 0


def is_titled(titles: Iterable[str]) -> bool:
    """Whether a table with these columns can hold anything that is read."""
    return not KNOWN.isdisjoint(titles)


def one_line(error: Exception) -> str:
    """An error of a library, fit for a message."""
    return textwrap.shorten(" ".join(str(error).split()), 160) or type(error).__name__
