"""Malformed and odd files, by kind and name: what is in them. What becomes of each is in `corpus.json`."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

GOOD = {"prompt": "q", "chosen": "x", "rejected": "y"}
PAIR = {"prompt": "q", "a": "x", "b": "y"}
GROUP = {"prompt": "q", "responses": ["x", "y"]}
LINE = json.dumps(GOOD).encode()
HEAD = b"prompt,chosen,rejected\n"
TABLE = pyarrow.table({name: [text] for name, text in GOOD.items()})
Content = bytes | Callable[[Path], object]


def row(base: Mapping[str, Any] = GOOD, **more: Any) -> bytes:
    return json.dumps({**base, **more}).encode()


def text(value: str, encoding: str = "utf-8") -> bytes:
    """A good row with another prompt, written as it is in an encoding."""
    return f'{{"prompt": "{value}", "chosen": "x", "rejected": "y"}}\n'.encode(encoding, "surrogatepass")


def raw(value: bytes) -> bytes:
    """A good row with these bytes for a prompt."""
    return b'{"prompt": "%b", "chosen": "x", "rejected": "y"}\n' % value


def number(name: str, literal: str, base: Mapping[str, Any] = GOOD) -> bytes:
    """A row with a number as it is written there."""
    return json.dumps({**base, name: "HERE"}).replace('"HERE"', literal).encode()


def vote(literal: str) -> bytes:
    """A canonical row with one vote, whose first place is written so."""
    return number("votes", f'[{{"a": {literal}, "b": 1, "p": 1}}]', GROUP)


def parquet(table: pyarrow.Table, **how: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, **how)
    return sink.getvalue()


def columns(**more: Any) -> pyarrow.Table:
    return pyarrow.table({**{name: [value] for name, value in GOOD.items()}, **more})


def feather(**how: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(TABLE, sink, **how)
    return sink.getvalue()


def stream(table: pyarrow.Table = TABLE) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def archive(kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(sink, "w") as file:
            file.writestr(zipfile.ZipInfo("rows.jsonl"), LINE)
    else:
        with tarfile.open(fileobj=sink, mode="w") as file:
            info = tarfile.TarInfo("rows.jsonl")
            info.size = len(LINE)
            file.addfile(info, io.BytesIO(LINE))
    return sink.getvalue()


def array() -> bytes:
    sink = io.BytesIO()
    numpy.save(sink, numpy.zeros(3))
    return sink.getvalue()


ENCODINGS: dict[str, Content] = {
    "byte order mark": text("q", "utf-8-sig"),
    "two byte order marks": b"\xef\xbb\xbf" + text("q", "utf-8-sig"),
    "byte order mark in the second line": LINE + b"\n" + text("q", "utf-8-sig"),
    "byte order mark alone": b"\xef\xbb\xbf",
    "UTF-16, little end first, marked": b"\xff\xfe" + text("q", "utf-16-le"),
    "UTF-16, big end first, marked": b"\xfe\xff" + text("q", "utf-16-be"),
    "UTF-16, little end first": text("q", "utf-16-le"),
    "UTF-16, big end first": text("q", "utf-16-be"),
    "UTF-32, marked": text("q", "utf-32"),
    "UTF-32, big end first, marked": b"\0\0\xfe\xff" + text("q", "utf-32-be"),
    "latin-1 in the first line": text("é", "latin-1"),
    "latin-1 in the second line": LINE + b"\n" + text("é", "latin-1"),
    "quotes of Windows": LINE + b"\n" + text("\u201cq\u201d", "cp1252"),
    "shift-JIS": text("日本", "shift-jis"),
    "an overlong NUL": raw(b"\xc0\x80"),
    "half a pair as bytes": text("\ud83d"),
    "a code point beyond Unicode": raw(b"\xf4\x90\x80\x80"),
    "cut within a character": raw("é".encode())[:13],
    "a NUL in a text": raw(b"a\0b"),
    "an escaped NUL": raw(b"a\\u0000b"),
    "NULs": b"\0" * 64,
    "NULs after a row": LINE + b"\n" + b"\0" * 64,
    "half a pair, escaped": raw(b"\\ud83d"),
    "a pair, escaped": raw(b"\\ud83d\\ude00"),
    "a pair the wrong way round": raw(b"\\ude00\\ud83d"),
    "no character (U+FFFF)": raw("\uffff".encode()),
    "a line separator in a text": text("a\u2028b"),
    "a next-line character in a text": text("a\x85b"),
    "a control character in a text": raw(b"a\x07b"),
    "a tabulator in a text": raw(b"a\tb"),
    "an escaped escape character": raw(b"a\\u001b[31mb"),
    "text from right to left": text("\u202ea\u202c"),
    "a response of zero width": row(chosen="\u200b"),
    "a response of a hard space": row(chosen="\u00a0"),
    "an id of controls": row(id="\x1b[2J"),
}

BROKEN: dict[str, Content] = {
    "a cut row between two": LINE + b'\n{"prompt": "q", "chos\n' + LINE,
    "a cut row at the end, a blank line before it": LINE + b"\n\n" + LINE[:-1],
    "a cut row at the beginning": LINE[:-1] + b"\n" + LINE,
    "a word between rows": LINE + b"\noops\n",
    "a word before rows": b"oops\n" + LINE,
    "a word in a list over lines": b'[\n {"prompt": "q",\n  oops}\n]',
    "a word in an object over lines": b'{\n "data": [\n  oops\n ]}',
    "three bytes": b"\x00\x01\x02",
    "a key twice in a list": b'[{"prompt": "q", "a": "x", "b": "y", "b": "z", "label": 1}]',
    "a key twice in a cell of JSON": b'prompt;a;b;votes\nq;x;y;"{""a"": 1, ""b"": 2, ""a"": 3}"\n',
    "a key twice in a cell of Python": b"prompt;a;b;votes\nq;x;y;{'a': 1, 'b': 2, 'a': 3}\n",
    "a key that is none in a cell": b"prompt;a;b;votes\nq;x;y;{[]: 1}\n",
    "a title twice, between tabulators": b"prompt\tchosen\tchosen\trejected\nq\tx\ty\tz\n",
    "a column twice that is read": parquet(
        pyarrow.table([["q"], ["x"], ["y"], ["z"]], names=["prompt", "a", "a", "b"])
    ),
    "a label in the second record": b"prompt,a,b,label\nq,x,y,1\nq,x,y,3\n",
    "a cell too few in the second record": HEAD + b"q,x,y\nq,x\n",
    "gzip that is broken within": packed(LINE * 50)[:20] + b"\0\0" + packed(LINE * 50)[22:],
    "Parquet of nothing of the kind": b"PAR1 and then nothing of the kind",
}

LINE_ENDS: dict[str, Content] = {
    "of Windows": LINE + b"\r\n" + LINE + b"\r\n",
    "of the old Mac": LINE + b"\r" + LINE + b"\r",
    "mixed": LINE + b"\r\n" + LINE + b"\n" + LINE + b"\r\n",
    "the wrong way round": LINE + b"\n\r" + LINE + b"\n\r",
    "none at the end": LINE + b"\n" + LINE,
    "none": LINE + LINE,
    "many": b"\n\n\r\n" + LINE + b"\n\n\n" + LINE + b"\n\n",
    "spaces around": b"  " + LINE + b"  \n\t" + LINE + b"\t\n",
    "form feeds": LINE + b"\n\f\n" + LINE + b"\n",
    "vertical tabulators": LINE + b"\n\v\n" + LINE + b"\n",
    "line ends alone": b"\r\n\n\r\n",
    "a comma after each": LINE + b",\n" + LINE + b",\n",
    "a row over lines, twice": 2 * (json.dumps(GOOD, indent=1).encode() + b"\n"),
}

JSON: dict[str, Content] = {
    "empty": b"",
    "an empty object": b"{}",
    "an empty list": b"[]",
    "null": b"null",
    "true": b"true",
    "a number": b"7",
    "a string": b'"text"',
    "a list of strings": b'["x", "y"]',
    "a list of lists": b'[["q", "x", "y"]]',
    "a list with null": b"[" + LINE + b", null]",
    "lists in lines": b"[" + LINE + b"]\n[" + LINE + b"]\n",
    "two lists": b"[" + LINE + b"][" + LINE + b"]",
    "an object of no rows": b'{"data": []}',
    "an object of two lists": b'{"train": [' + LINE + b'], "test": []}',
    "cut within a text": LINE[:-3],
    "a list that is cut": b"[" + LINE + b",\n",
    "nothing between two commas": b"[" + LINE + b", , " + LINE + b"]",
    "single quotes": repr(GOOD).encode(),
    "names without quotes": b'{prompt: "q", chosen: "x", rejected: "y"}',
    "names of Python": LINE[:-1] + b', "p": None}',
    "a comment": b"// rows\n" + LINE,
    "a comment after a row": LINE + b"\n# the end\n",
    "a call": b"rows(" + LINE + b")",
    "a key twice": LINE[:-1] + b', "chosen": "z"}',
    "a key twice in the second line": LINE + b"\n" + LINE[:-1] + b', "chosen": "z"}',
    "a key twice inside": LINE[:-1] + b', "meta": {"k": 1, "k": 2}}',
    "brackets without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000,
    "objects without end in the second line": LINE + b"\n" + b'{"a":' * 100_000,
    "deep in a field that nobody reads": LINE[:-1] + b', "deep": ' + b"[" * 400 + b"]" * 400 + b"}",
    "garbage after a row": LINE + b" oops",
    "garbage after rows": LINE + b"\n" + LINE + b"\noops\n",
    "a row that is a text": LINE + b'\n"text"\n',
    "a row that is null": LINE + b"\nnull\n",
    "a row without fields": LINE + b"\n{}\n",
    "a row of other names": LINE + b'\n{"question": "q", "best": "x", "worst": "y"}\n',
    "fields of null": b'{"prompt": null, "chosen": null, "rejected": null}',
    "fields of lists": b'{"prompt": [], "chosen": [], "rejected": []}',
    "fields of objects": b'{"prompt": {}, "chosen": {}, "rejected": {}}',
}

NUMBERS: dict[str, Content] = {
    "p NaN": number("p", "NaN"),
    "p Infinity": number("p", "Infinity"),
    "p -Infinity": number("p", "-Infinity"),
    "p 1e999": number("p", "1e999"),
    "p -1e-400": number("p", "-1e-400"),
    "p 1.0000000000000002": number("p", "1.0000000000000002"),
    "p as text": row(p="0.75"),
    "p as the text of NaN": row(p="nan"),
    "p true": row(p=True),
    "p null": row(p=None),
    "p a list": row(p=[1]),
    "weight NaN": number("weight", "NaN"),
    "weight 0": row(weight=0),
    "weight -0": number("weight", "-0.0"),
    "weight below zero": row(weight=-1),
    "weight 1e-30": number("weight", "1e-30"),
    "weight 1e-31": number("weight", "1e-31"),
    "weight 1e30": number("weight", "1e30"),
    "weight 1e31": number("weight", "1e31"),
    "weight of 400 digits": number("weight", "1" * 400),
    "weight of 5000 digits": number("weight", "1" * 5000),
    "weight true": row(weight=True),
    "weight with a comma": row(weight="0,5"),
    "a leading zero": number("weight", "01"),
    "a number of hex": number("weight", "0x10"),
    "a plus sign": number("weight", "+1"),
    "a score of 400 digits": number("scores", f"[{'1' * 400}, 1]", GROUP),
    "scores of NaN": number("scores", "[NaN, 1]", GROUP),
    "scores of Infinity": number("scores", "[Infinity, 1]", GROUP),
    "scores that only integers tell apart": number("scores", "[9007199254740993, 9007199254740992]", GROUP),
    "counts of 1e300": number("votes", '{"a": 1e300, "b": 1}', PAIR),
    "counts that are negative": number("votes", '{"a": -1, "b": 2}', PAIR),
    "counts of nothing": number("votes", '{"a": 0, "b": 0}', PAIR),
    "counts of halves": number("votes", '{"a": 1.5, "b": 0.5}', PAIR),
    "a vote on place 1e300": vote("1e300"),
    "a vote on place 10^400": vote("1" + "0" * 400),
    "a vote on place -1": vote("-1"),
    "a vote on place 0.5": vote("0.5"),
    "a vote on place 2": vote("2"),
    "a vote on place true": vote("true"),
    "a vote on a place in text": vote('"0"'),
    "a vote on itself": vote("1"),
    "a label of 0": row(PAIR, label=0),
    "a label of 3": row(PAIR, label=3),
    "a label of 1e300": number("label", "1e300", PAIR),
}

CSV: dict[str, Content] = {
    "quotes within quotes": HEAD + b'q,"say ""x""",y\n',
    "a line end within quotes": HEAD + b'q,"x\nz",y\n',
    "a line end of Windows within quotes": HEAD + b'q,"x\r\nz",y\r\n',
    "a comma within quotes": HEAD + b'q,"x,z",y\n',
    "a quote that is not closed": HEAD + b'q,"x,y\n',
    "a quote inside of a cell": HEAD + b'q,x"z,y\n',
    "text after a quote": HEAD + b'q,"x"z,y\n',
    "quotes of an apostrophe": HEAD + b"'q','x,z','y'\n",
    "semicolons": b"prompt;chosen;rejected\nq;x;y\n",
    "tabulators": b"prompt\tchosen\trejected\nq\tx\ty\n",
    "bars": b"prompt|chosen|rejected\nq|x|y\n",
    "spaces": b"prompt chosen rejected\nq x y\n",
    "a word of Excel before": b"sep=;\nprompt;chosen;rejected\nq;x;y\n",
    "a column of numbers without a title": b",prompt,chosen,rejected\n0,q,x,y\n",
    "no rows": HEAD,
    "no titles": b"q,x,y\n",
    "spaces around titles": b" prompt , chosen , rejected \nq,x,y\n",
    "titles in quotes": b'"prompt","chosen","rejected"\nq,x,y\n',
    "titles in large letters": b"PROMPT,CHOSEN,REJECTED\nq,x,y\n",
    "a title twice": b"prompt,chosen,chosen,rejected\nq,x,z,y\n",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b"q,x,y\n",
    "a cell too few": HEAD + b"q,x\n",
    "a cell too many": HEAD + b"q,x,y,z\n",
    "a comma at each end": b"prompt,chosen,rejected,\nq,x,y,\n",
    "empty records": HEAD + b"\n\nq,x,y\n\n",
    "an empty cell": HEAD + b"q,,y\nr,x,y\n",
    "line ends of the old Mac": b"prompt,chosen,rejected\rq,x,y\r",
    "a NUL": HEAD + b"q,x\0,y\n",
    "latin-1": HEAD + b"q,\xe9,y\n",
    "a formula": HEAD + b"q,=HYPERLINK(),y\n",
    "JSON in a cell": b'prompt,a,b,votes\nq,x,y,"{""a"": 2, ""b"": 1}"\n',
    "Python in a cell": b"prompt;a;b;votes\nq;x;y;{'a': 2, 'b': 1}\n",
    "code in a cell": b"prompt;a;b;votes\nq;x;y;{'a': __import__('os').getpid()}\n",
    "brackets without end in a cell": b"prompt,chosen,rejected\nq," + b"[" * 250 + b",y\n",
    "a weight with a comma": b"prompt;chosen;rejected;weight\nq;x;y;0,5\n",
    "a weight that is empty": b"prompt,chosen,rejected,weight\nq,x,y,\n",
    "a label in words": b"prompt,a,b,winner\nq,x,y,model_a\n",
    "a label that names nobody": b"prompt,a,b,winner\nq,x,y,left-ish\n",
}

PARQUET: dict[str, Content] = {
    "whole": parquet(TABLE),
    "cut": parquet(TABLE)[:-20],
    "its first half": parquet(TABLE)[: len(parquet(TABLE)) // 2],
    "its first bytes": b"PAR1",
    "its first and last bytes": b"PAR1PAR1",
    "a wrong length of its footer": parquet(TABLE)[:-8] + b"\xff\xff\xff\x7fPAR1",
    "encrypted": b"PARE" + parquet(TABLE)[4:],
    "no rows": parquet(TABLE.slice(0, 0)),
    "no columns": parquet(pyarrow.table({})),
    "other columns": parquet(pyarrow.table({"x": [1]})),
    "large texts": parquet(TABLE.cast(pyarrow.schema([(name, pyarrow.large_string()) for name in GOOD]))),
    "texts by number": parquet(columns(prompt=pyarrow.array(["q"]).dictionary_encode())),
    "texts as bytes": parquet(columns(prompt=pyarrow.array([b"q"]))),
    "texts as numbers": parquet(columns(prompt=[5])),
    "texts as times": parquet(columns(prompt=pyarrow.array([0], pyarrow.timestamp("s")))),
    "responses that are true and false": parquet(columns(chosen=[True], rejected=[False])),
    "a column of null": parquet(columns(prompt=pyarrow.nulls(1))),
    "a weight of decimals": parquet(columns(weight=[Decimal("0.25")])),
    "a weight of 64 bits": parquet(columns(weight=pyarrow.array([2**64 - 1], pyarrow.uint64()))),
    "a weight of 16 bits": parquet(columns(weight=pyarrow.array(numpy.array([0.5], numpy.float16)))),
    "p that is not a number": parquet(columns(p=[float("nan")])),
    "p as a time": parquet(columns(p=pyarrow.array([1], pyarrow.timestamp("s")))),
    "a chat": parquet(columns(prompt=[[{"role": "user", "content": "q"}]])),
    "a map in a field that nobody reads": parquet(
        columns(meta=pyarrow.array([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())))
    ),
    "a column twice": parquet(pyarrow.Table.from_arrays([*TABLE.columns, TABLE.column(1)], [*GOOD, "chosen"])),
    "compressed by zstandard": parquet(TABLE, compression="zstd"),
    "gzipped": packed(parquet(TABLE)),
}

ARROW: dict[str, Content] = {
    "a stream": stream(),
    "a stream without rows": stream(TABLE.slice(0, 0)),
    "a stream that is cut": stream()[:-40],
    "a stream of nothing": b"\xff\xff\xff\xff\0\0\0\0",
    "the beginning of a stream": b"\xff\xff\xff\xff",
    "Feather": feather(compression="uncompressed"),
    "Feather, compressed": feather(compression="lz4"),
    "Feather of version 1": b"FEA1" + bytes(32),
    "Feather that is cut": feather(compression="uncompressed")[:-30],
    "the beginning of a file": b"ARROW1\0\0",
    "garbage in a file": b"ARROW1\0\0" + b"garbage " * 20,
}

PACKED: dict[str, Content] = {
    "gzip": packed(LINE),
    "gzip in two parts": packed(LINE + b"\n") + packed(LINE),
    "gzip of CSV": packed(HEAD + b"q,x,y\n"),
    "gzip of nothing": packed(b""),
    "gzip within gzip": packed(packed(LINE)),
    "gzip that is cut": packed(LINE * 20)[:-12],
    "gzip without its end": packed(LINE)[:-8],
    "gzip with a wrong sum": packed(LINE)[:-8] + b"\0\0\0\0" + packed(LINE)[-4:],
    "gzip with a wrong length": packed(LINE)[:-4] + b"\0\0\0\1",
    "gzip of another method": b"\x1f\x8b\x07" + packed(LINE)[3:],
    "garbage after gzip": packed(LINE) + b"garbage",
    "zeros after gzip": packed(LINE) + b"\0" * 16,
    "the beginning of gzip": b"\x1f\x8b",
    "zip": archive("zip"),
    "tar": archive("tar"),
    "tar, gzipped": packed(archive("tar")),
    "bzip2": bz2.compress(LINE),
    "xz": lzma.compress(LINE),
    "zstandard": b"\x28\xb5\x2f\xfd" + LINE,
    "lz4": b"\x04\x22\x4d\x18" + LINE,
    "7z": b"7z\xbc\xaf\x27\x1c" + LINE,
}

FOREIGN: dict[str, Content] = {
    "a pickle": pickle.dumps([GOOD], protocol=4),
    "a pickle of the first kind": pickle.dumps([GOOD], protocol=0),
    "an array of numpy": array(),
    "a database": b"SQLite format 3\0" + bytes(84),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(32),
    "Avro": b"Obj\x01" + bytes(16),
    "ORC": b"ORC" + bytes(16),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a web page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>\n",
    "a web page in small letters": b"<html>\n<body>404</body></html>\n",
    "an old spreadsheet": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(32),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(16),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(16),
    "YAML": b"- prompt: q\n  chosen: x\n  rejected: y\n",
    "TOML": b'[[rows]]\nprompt = "q"\n',
    "XML": b'<?xml version="1.0"?>\n<rows/>\n',
    "Markdown": b"| prompt | chosen | rejected |\n|---|---|---|\n| q | x | y |\n",
    "a sentence": b"These are the rows.\n",
}


def linked(target: str) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        (path.parent / "real").write_bytes(LINE)
        path.symlink_to(target)

    return make


PLACES: dict[str, Content] = {
    "nothing": lambda path: None,
    "an empty folder": Path.mkdir,
    "a folder of notes": lambda path: (path.mkdir(), (path / "notes.md").write_text("x")),
    "a folder of an empty file": lambda path: (path.mkdir(), (path / "rows.jsonl").write_bytes(b"")),
    "a folder of a broken file": lambda path: (path.mkdir(), (path / "rows.jsonl").write_bytes(LINE[:-3])),
    "a link": linked("real"),
    "a link that leads nowhere": linked("gone"),
    "a link to itself": linked("rows"),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": linked("/dev/zero"),
}

KINDS: Mapping[str, Mapping[str, Content]] = {
    "encoding": ENCODINGS,
    "broken": BROKEN,
    "line ends": LINE_ENDS,
    "JSON": JSON,
    "number": NUMBERS,
    "CSV": CSV,
    "Parquet": PARQUET,
    "Arrow": ARROW,
    "packed": PACKED,
    "foreign": FOREIGN,
    "place": PLACES,
}
FILES: Mapping[str, Content] = {
    f"{kind}: {name}": held for kind, files in KINDS.items() for name, held in files.items()
}
