"""A file, or a hub data set, becomes numbered rows: JSONL, JSON, CSV, Parquet, gzip, told by content."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import os
import re
import textwrap
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .chats import PROMPTS, is_turn
from .layouts import GROUPS, SIDES

STRUCTURED = {"conversations", "conversation", "messages", "turns", "votes", "ranks", "scores", "ended"}.union(*GROUPS)
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
FILE_NAME = re.compile(r"\.(jsonl|json|csv|tsv|parquet|txt)(\.gz)?$|\.gz$", re.IGNORECASE)
ARCHIVES = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
KNOWN = {"prompt", "turns", "messages", *PROMPTS, *(key for keys in SIDES for key in keys)}


@dataclass(frozen=True)
class Table:
    """Numbered rows; `unit` stands between name and number: `:` where numbers are lines, else `, row `."""

    name: str
    unit: str
    rows: list[tuple[int, object]]

    def where(self, number: int) -> str:
        return f"{self.name}{self.unit}{number}"


def read_table(source: str | Path) -> Table:
    """The rows of a file or of a hub data set. Raises UserError, with file and line, for what cannot be read."""
    path, name = Path(source), str(source)
    if isinstance(source, str) and _names_a_data_set(source):
        table = _from_hub(source)
    else:
        data = read_bytes(path, name)
        table = _from_parquet(name, data) if data.startswith(b"PAR1") else _from_text(name, decode_text(name, data))
    if not table.rows:
        raise UserError(f"{name}: holds no rows")
    return table


def read_bytes(path: Path, name: str) -> bytes:
    """The content of a file, decompressed."""
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{name}: is a folder; name a file in it") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{name}: damaged or truncated gzip; fetch it again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({error})") from None
    for magic, kind in ARCHIVES.items():
        if data.startswith(magic):
            raise UserError(f"{name}: is compressed with {kind}; unpack it, or use gzip")
    return data


def decode_text(name: str, data: bytes) -> str:
    """UTF-8 text. Raises UserError, with the line, for anything else, and for a file with nothing in it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{line}: is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise UserError(f"{name}: is empty")
    return text


def _from_text(name: str, text: str) -> Table:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    start = text.lstrip()[:1]
    if start == "{" and len(lines) > 1 and (_is_object(lines[0][1]) or lines[1][1].startswith("{")):
        return Table(name, ":", [(number, _json(name, line, number)) for number, line in lines])
    if start not in ("{", "["):
        return _from_csv(name, text)
    document = _json(name, text)
    rows = _rows_in(name, document)
    if len(lines) == 1 and rows and rows[0] is document:
        return Table(name, ":", [(lines[0][0], document)])
    return Table(name, ", row ", list(enumerate(rows, 1)))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _json(name: str, text: str, line: int = 1) -> object:
    """A JSON text that starts on this line of the file."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place, why = line + error.lineno - 1, f"{error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        place, why = line, str(error)
    raise UserError(f"{name}:{place}: broken JSON ({why}); mend or delete the line")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; of a key that stands twice Python would keep the last value and say nothing."""
    if twice := _twice(key for key, _ in pairs):
        raise ValueError(f"the key {twice[0]!r} stands twice in one object")
    return dict(pairs)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _rows_in(name: str, document: object) -> list[object]:
    """The rows of a JSON document: a list, an object that holds one, or an object that is a row itself."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or KNOWN & document.keys():
        return [document]
    lists = [key for key, value in document.items() if isinstance(value, list)]
    if len(lists) > 1:
        raise UserError(f"{name}: holds several lists ({', '.join(map(repr, lists))}); keep one in a file")
    return document[lists[0]] if lists else [document]


def _from_csv(name: str, text: str) -> Table:
    first = text.lstrip().split("\n", 1)[0]
    limit = csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=first.count), strict=True)
    try:
        header, *records = [record for record in reader if record]
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: neither JSON nor readable as CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    header = [title.strip() for title in header]
    if not KNOWN & {*header}:
        raise UserError(
            f"{name}:1: neither JSON nor a CSV header with a column that this reader knows (docs/FORMATS.md)"
        )
    if twice := _twice(header):
        raise UserError(f"{name}:1: two columns have the same title, {twice[0]!r}; rename one")
    return Table(name, ", row ", [(n, _cells(name, n, header, record)) for n, record in enumerate(records, 1)])


def _cells(name: str, number: int, header: Sequence[str], record: Sequence[str]) -> dict[str, object]:
    if len(record) != len(header):
        raise UserError(f"{name}, row {number}: has {len(record)} cells under {len(header)} titles; check its quotes")
    try:
        return {title: _cell(title, text) for title, text in zip(header, record, strict=True)}
    except ValueError as error:
        raise UserError(f"{name}, row {number}: {error}") from None


def _cell(title: str, text: str) -> object:
    """Text, None for an empty cell, or the lists and objects that a cell holds as JSON or as Python prints them."""
    if text[:1] not in ("[", "{"):
        return text or None
    value, twice = _structure(text)
    is_chat = is_turn(value) or (isinstance(value, list) and bool(value) and all(map(is_turn, value)))
    if not is_chat and title not in STRUCTURED:
        return text
    if twice:
        raise ValueError(f"in `{title}`, the key {twice[0]!r} stands twice in one object; keep one of them")
    return value


def _structure(text: str) -> tuple[object, list[str]]:
    """What a cell holds as JSON or as Python prints it (else its text), and the keys that stand twice in an object."""
    twice: list[str] = []

    def fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
        twice.extend(_twice(key for key, _ in pairs))
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=fields), twice
    except (ValueError, RecursionError):
        twice.clear()
    try:
        with warnings.catch_warnings(action="ignore"):  # text that is no Python may hold escapes that Python warns of
            tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                twice.extend(_twice(str(key.value) for key in node.keys if isinstance(key, ast.Constant)))
        return ast.literal_eval(tree), twice
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text, []


def _from_parquet(name: str, data: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    # With Arrow's own threads a process that ends at once is sometimes aborted by them (SIGABRT, one in eighty here).
    source = pyarrow.BufferReader(data)
    try:
        table = pyarrow.parquet.ParquetFile(source, pre_buffer=False).read(use_threads=False)
        twice = _twice(table.column_names)
        rows = [] if twice else table.to_pylist()
    except Exception as error:  # Arrow's own, OSError, ValueError, and what makes Python's times and decimals raises
        raise UserError(f"{name}: damaged Parquet file ({_line(error)}); fetch it again") from None
    if twice:
        raise UserError(f"{name}: two columns have the same title, {twice[0]!r}; rename one")
    return Table(name, ", row ", list(enumerate(rows, 1)))


def _names_a_data_set(source: str) -> bool:
    """Whether it reads `owner/name` or `owner/name:split`, and nothing here goes by that name."""
    if not HUB_NAME.fullmatch(source) or FILE_NAME.search(source):
        return False
    return not os.path.exists(source) and not os.path.isdir(source.split("/")[0])


def _from_hub(source: str) -> Table:
    """The rows of a hub data set. Cached ones are read without a network when HF_HUB_OFFLINE=1."""
    import datasets
    import huggingface_hub

    name, _, split = source.partition(":")
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            huggingface_hub.dataset_info(name, timeout=10)  # fails at once where load_dataset retries for long
        data = datasets.load_dataset(name, split=split or None)
        splits = data if isinstance(data, dict) else {split: data}
        rows = [row for rows in splits.values() for row in rows] if len(splits) == 1 else []
    except Exception as error:  # the libraries below raise of their own, OSError, ValueError and more
        raise UserError(
            f"{source}: neither a file here nor a data set that the hub gives ({_line(error)}); without a network, "
            "HF_HUB_OFFLINE=1 reads a cached copy"
        ) from None
    if len(splits) != 1:
        raise UserError(f"{name}: choose a split: {', '.join(f'{name}:{split}' for split in splits)}")
    return Table(source, ", row ", list(enumerate(rows, 1)))


def _line(error: Exception) -> str:
    return textwrap.shorten(" ".join(str(error).split()), 160) or type(error).__name__
