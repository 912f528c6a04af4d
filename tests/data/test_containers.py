"""Folders, shards, columns side by side, and what one bad row or column does to the others."""

import datetime
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from preftune.data.reading import Outcome, read_ballots, read_prompts, stream_ballots
from preftune.errors import UserError

GOOD = {"prompt": "q", "chosen": "x", "rejected": "y"}
OTHER = {"prompt": "r", "chosen": "x", "rejected": "y"}
ROWS = [GOOD, OTHER]


def error_of(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def arrow(rows: list[dict[str, Any]], file: bool) -> bytes:
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    with (pyarrow.ipc.new_file if file else pyarrow.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {title: [row[title] for row in rows] for title in rows[0]}


WHOLE: dict[str, bytes] = {
    "an object over lines": b'{"data": [\n%b,\n%b\n]}' % (json.dumps(GOOD).encode(), json.dumps(OTHER).encode()),
    "columns": json.dumps(columns(ROWS)).encode(),
    "columns by row name": json.dumps({k: dict(enumerate(v)) for k, v in columns(ROWS).items()}).encode(),
    "rows by name": json.dumps({"0": GOOD, "1": OTHER}).encode(),
    "split": json.dumps({"columns": [*GOOD], "index": [0, 1], "data": [[*row.values()] for row in ROWS]}).encode(),
    "records with a schema": json.dumps({"schema": {"fields": []}, "data": ROWS}).encode(),
    "the data sets server": json.dumps(
        {"features": [{"name": "prompt"}], "rows": [{"row_idx": k, "row": row} for k, row in enumerate(ROWS)]}
    ).encode(),
    "an arrow stream": arrow(ROWS, file=False),
    "an arrow file": arrow(ROWS, file=True),
}


@pytest.mark.parametrize("what", WHOLE)
def test_rows_are_found_in_whatever_holds_them(tmp_path: Path, what: str) -> None:
    path = tmp_path / "rows"
    path.write_bytes(WHOLE[what])
    assert [ballot.prompt for ballot in read_ballots(path)] == ["q", "r"]
    assert read_prompts(path) == ("q", "r")


CHAT = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    "row",
    [
        {
            "prompt": CHAT,
            "chosen": [{"role": "assistant", "content": "x"}],
            "rejected": [{"from": "gpt", "value": "y"}],
        },
        {"prompt": "q", "chosen": ["x"], "rejected": ["y"]},
        {"responses": ["\n\nHuman: q\n\nAssistant: x", "\n\nHuman: q\n\nAssistant: y"], "scores": [2, 1]},
        {"prompt": ["q"], "chosen": ["x"], "rejected": ["y"]},
    ],
)
def test_one_row_of_lists_is_no_table_of_columns(tmp_path: Path, row: dict[str, Any]) -> None:
    """But lists of the same length are, if the prompt is a list of no turns."""
    path = tmp_path / "row.json"
    path.write_text(json.dumps(row))
    (ballot,) = read_ballots(path)
    assert ballot.responses == ("x", "y") and "q" in str(ballot.prompt)


def test_a_cell_that_the_server_cut_short_is_no_response(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [{"row_idx": 0, "row": GOOD, "truncated_cells": []}, {"row": OTHER, "truncated_cells": ["chosen"]}]
    path.write_text(json.dumps({"rows": rows}))
    assert ", row 2: the server has cut chosen short" in error_of(lambda: read_ballots(path))


# ---------------------------------------------------------------------------------------------- folders


def shards(folder: Path, names: Mapping[str, list[dict[str, Any]]]) -> None:
    for name, rows in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
        else:
            (folder / name).write_text(lines(*rows))


def test_the_shards_of_one_split_are_read_in_order_and_their_rows_named_apart(tmp_path: Path) -> None:
    names = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    shards(tmp_path, {names[0]: [GOOD], names[1]: [OTHER]})
    (tmp_path / "README.md").write_text("# A data set")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.json").write_text("{}")
    ballots = read_ballots(tmp_path)
    assert [ballot.prompt for ballot in ballots] == ["q", "r"]
    assert len({ballot.id for ballot in ballots}) == 2
    assert ballots.source == str(tmp_path)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train.jsonl", "test.jsonl"), ("test", "train")),
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), ("test", "train")),
        (("train/data-00000-of-00001.jsonl", "test/data-00000-of-00001.jsonl"), ("test", "train")),
        (("one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet"), ("one:train", "two:train")),
    ],
)
def test_a_folder_of_several_splits_asks_for_one(
    tmp_path: Path, names: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    shards(tmp_path, {name: [GOOD] for name in names})
    message = error_of(lambda: read_ballots(tmp_path))
    assert f"choose one: {', '.join(f'{tmp_path}:{part}' for part in parts)}" in message
    for part in parts:
        assert len(read_ballots(f"{tmp_path}:{part}")) == 1
    assert "has no 'none'; choose one" in error_of(lambda: read_ballots(f"{tmp_path}:none"))


def test_a_folder_without_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert "is a folder without a data file" in error_of(lambda: read_ballots(tmp_path))


# ---------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("container", ["parquet", "arrow"])
def test_a_column_that_nobody_reads_may_hold_anything(tmp_path: Path, container: str) -> None:
    """A time beyond Python's years, two columns of one name."""
    far = pyarrow.array([2**62], pyarrow.timestamp("us"))
    with pytest.raises((ValueError, OverflowError)):
        far.to_pylist()
    fields = [pyarrow.array([value]) for value in GOOD.values()]
    twice = pyarrow.array(["x"])
    table = pyarrow.Table.from_arrays([*fields, far, twice, twice], names=[*GOOD, "seen", "note", "note"])
    path = tmp_path / "rows"
    if container == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    assert len(read_ballots(path)) == 1
    assert read_prompts(path) == ("q",)


def test_a_file_of_prompts_with_a_time_that_nobody_reads_is_read_and_its_columns_are_named(tmp_path: Path) -> None:
    far = pyarrow.array([2**62], pyarrow.timestamp("us"))
    table = pyarrow.table({"prompt": ["q"], "reply": ["x"], "seen": far})
    pyarrow.parquet.write_table(table, tmp_path / "rows")
    assert read_prompts(tmp_path / "rows") == ("q",)
    assert "the row has 'prompt', 'reply'; the nearest is" in error_of(lambda: read_ballots(tmp_path / "rows"))


def test_a_column_that_is_named_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [{"ask": "q", "info": {"good": "x"}, "poor": "y", "when": datetime.datetime(2026, 1, 1)}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    ballots = read_ballots(path, columns="prompt=ask,chosen=info.good,rejected=poor")
    assert (ballots[0].prompt, ballots[0].responses) == ("q", ("x", "y"))
    assert read_prompts(path, columns={"prompt": "ask"}) == ("q",)
    assert "the row has 'ask', 'info', 'poor'; the nearest is" in error_of(lambda: read_ballots(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt", "prompt needs one column"),
        ("prompt=a,prompt=b", "prompt needs one column"),
        ("reply=a", "there is no 'reply'; it takes NAME=COLUMN with a name of prompt, system, chosen"),
        ("prompt=nowhere", "there is no column `nowhere`; the row has 'prompt', 'chosen', 'rejected'"),
    ],
)
def test_a_wrong_line_of_columns_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD))
    message = error_of(lambda: read_ballots(path, columns=text))
    assert "--columns: " in message and says in message


def test_cells_of_csv_that_are_no_literals_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,chosen,rejected\nq,"[not a list","{nor: this\\d"\n')
    assert read_ballots(path)[0].responses == ("[not a list", "{nor: this\\d")


def test_lists_in_the_cells_of_responses_are_text_and_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,chosen,rejected\nq,"[""x"", ""z""]","[""y""]"\nr,"[1, 2]",y\n')
    ballots = read_ballots(path)
    assert [ballot.responses for ballot in ballots] == [('["x", "z"]', '["y"]'), ("[1, 2]", "y")]
    assert ballots.noted == {"responses that are lists or objects in a text: taken word for word": 1}


def test_objects_that_numpy_printed_into_a_cell_are_a_chat(tmp_path: Path) -> None:
    cells = [f"[{{'content': 'q', 'role': 'user'}}\n {{'content': {text!r}, 'role': 'assistant'}}]" for text in "xy"]
    path = tmp_path / "rows.csv"
    path.write_text(f'chosen,rejected\n"{cells[0]}","{cells[1]}"\n')
    assert read_ballots(path)[0].responses == ("x", "y")


# ---------------------------------------------------------------------------------------------- bad rows

BAD = [["x"], {"prompt": "q"}, {**GOOD, "p": 7}]


def test_the_first_bad_row_is_the_error_and_says_how_many_more_there_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD, BAD[0], OTHER, *BAD[1:]) + "{broken\n")
    message = error_of(lambda: read_ballots(path))
    assert f"{path}:2: a row must be an object" in message
    assert "3 more rows cannot be read; --skip-bad leaves them out and counts them" in message


def test_bad_rows_can_be_left_out_each_with_its_place_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(GOOD, BAD[0], OTHER, *BAD[1:]) + "{broken\n" + lines({**GOOD, "rejected": ""}))
    ballots = read_ballots(path, skip_bad=True)
    assert [ballot.prompt for ballot in ballots] == ["q", "r"]
    assert ballots.skipped == {"rows that cannot be read": 4, "an empty response": 1}
    assert ballots.rows == 7 == len(ballots) + sum(ballots.skipped.values())
    places = [f"{path}:{line}: " for line in (2, 4, 5, 6)]
    assert all(bad.startswith(place) for bad, place in zip(ballots.bad, places, strict=True))
    assert "outside [0, 1]" in ballots.bad[2] and "broken JSON" in ballots.bad[3]


def test_a_file_of_nothing_but_bad_rows_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines(*[{"foo": 1}] * 5000))
    assert "; at least 999 more rows cannot be read" in error_of(lambda: read_ballots(path))
    assert "none of its 5000 rows can be used" in error_of(lambda: read_ballots(path, skip_bad=True))


def test_rows_come_one_by_one_before_the_file_is_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(GOOD, BAD[1], {**GOOD, "chosen": ""}).encode() + b"\xff\n")
    stream = stream_ballots(path)
    first, second, third = (next(stream) for _ in range(3))
    assert first == Outcome(f"{path}:1", first.ballot, left_out={}, noted={}, row=GOOD) and first.ballot
    assert (second.ballot, second.bad, second.row) == (None, True, BAD[1])
    assert (third.ballot, third.bad, third.reason) == (None, False, "an empty response")
    assert next(stream).reason.startswith("is not UTF-8 text")


def test_an_object_that_a_layout_looks_into_may_stand_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "question,answer_0,answer_1,score_0,score_1\n"
        '"{""full_text"": ""q"", ""id"": 1}","{""x"": 1}","[1, 2]",1,0\n'
        "\"{'full_text': 'r'}\",x,y,0,1\n"
    )
    first, second = read_ballots(path)
    assert (first.prompt, first.responses) == ("q", ('{"x": 1}', "[1, 2]"))
    assert (second.prompt, second.votes[0].p) == ("r", 0)
