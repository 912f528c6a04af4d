"""Rows one by one: the same ballots and counts as the reader's, and what the reader would stop at is told."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from preftune import read_ballots
from preftune.data import stream_rows
from preftune.errors import UserError

TEXT = st.sampled_from(["", "a", "b", "Ä \u2028 x"])
RANKS = st.just([1, 2, 3])
GOOD = {"prompt": "x", "chosen": "c", "rejected": "r"}
ROWS = st.one_of(
    st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT}),
    st.fixed_dictionaries(
        {"prompt": TEXT, "responses": st.lists(TEXT, min_size=3, max_size=3), "ranks": st.just([1, 2, 3])}
    ),
)


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@tried(60)
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
def test_the_stream_is_what_the_reader_reads(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(
        tmp_path_factory.mktemp("rows") / "x.jsonl", [{"prompt": "x", "chosen": "c", "rejected": "r"}, *rows]
    )
    whole, seen = read_ballots(path), list(stream_rows(path).rows)
    assert tuple(one.ballot for one in seen if one.ballot) == whole.ballots
    assert Counter(one.reason for one in seen if one.reason) == whole.skipped
    assert sum(one.dropped for one in seen) == sum(whole.dropped.values())
    zipped = path.with_suffix(".gz")
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert list(stream_rows(zipped).rows) == seen


def test_a_row_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    lines = [good, "{broken", good, '{"prompt": "x", "prompt": "y"}', '{"prompt": "alone"}', "[1]", good]
    path = tmp_path / "x.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"prompt": "\xff"}\n')
    seen = list(stream_rows(path).rows)
    assert [one.number for one in seen if one.ballot] == [1, 3, 7]
    broken = {one.number: one.reason for one in seen if one.broken}
    assert broken.keys() == {2, 4, 5, 6, 8}
    assert "broken JSON" in broken[2] and "twice" in broken[4] and "UTF-8" in broken[8]
    assert seen[4].prompt == "alone" and seen[4].ballot is None


@pytest.mark.parametrize("name", ["x.csv", "x.json", "one.jsonl"])
def test_other_containers_are_read_whole(name: str, tmp_path: Path) -> None:
    path, row = tmp_path / name, {"prompt": "x", "chosen": "c", "rejected": "r"}
    texts = {
        "x.csv": "prompt,chosen,rejected\nx,c,r\n",
        "x.json": json.dumps([row], indent=1),
        "one.jsonl": json.dumps(row),
    }
    path.write_text(texts[name], encoding="utf-8")
    stream = stream_rows(path)
    assert [one.ballot for one in stream.rows] == list(read_ballots(path))
    assert stream.where(1) == (f"{path}:1" if name == "one.jsonl" else f"{path}, row 1")


def test_a_file_that_breaks_off_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(((json.dumps(GOOD) + "\n") * 5000).encode())[:-9])
    with pytest.raises(UserError, match="truncated gzip"):
        list(stream_rows(path).rows)
