"""A corpus of malformed and odd files (`corpus.py`), each with exactly what becomes of it (`corpus.json`).

`python tests/data/test_corpus.py` writes what becomes of each as it is now, to be looked at before it is believed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.corpus import FILES

from preftune.data.reading import read_ballots, read_prompts, write_ballots
from preftune.errors import UserError

OUTCOMES = Path(__file__).with_name("corpus.json")
WANTED: dict[str, Any] = json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.exists() else {}


def outcome(name: str, folder: Path) -> Any:
    """The message of the error, FILE in the place of its path; or the ballots, with what was counted beside them."""
    path, held = folder / "rows", FILES[name]
    if isinstance(held, bytes):
        path.write_bytes(held)
    else:
        held(path)
    try:
        ballots = read_ballots(path)
    except UserError as error:
        return str(error).replace(str(path), "FILE")
    write_ballots(ballots, folder / "canonical.jsonl")
    again = read_ballots(folder / "canonical.jsonl")
    assert (again.ballots, again.sha256, again.skipped) == (ballots.ballots, ballots.sha256, {})
    rows = [json.loads(line) for line in (folder / "canonical.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    shown = [[row["prompt"], row["responses"], *([v["p"], v["weight"]] for v in row["votes"])] for row in rows]
    counted = {what: dict(getattr(ballots, what)) for what in ("skipped", "dropped", "noted")}
    return {"ballots": shown} | {what: counts for what, counts in counted.items() if counts}


@pytest.mark.parametrize("name", FILES)
def test_what_becomes_of_a_malformed_or_odd_file(name: str, tmp_path: Path) -> None:
    found = outcome(name, tmp_path)
    assert found == WANTED[name]
    if isinstance(found, str):
        assert "\n" not in found and found.startswith("FILE") and len(found) < 400
        assert found.isprintable(), "what is in a file steers no terminal"
    try:
        assert read_prompts(tmp_path / "rows")
    except UserError as error:
        assert "\n" not in str(error)


def test_the_corpus_is_as_large_as_is_said() -> None:
    """More than 150 files, every one different, every one with an outcome."""
    assert len(FILES) >= 250 and FILES.keys() == WANTED.keys()
    contents = [held for held in FILES.values() if isinstance(held, bytes)]
    assert len(set(contents)) == len(contents)


if __name__ == "__main__":
    import tempfile

    found = {}
    for name in FILES:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = outcome(name, Path(folder))
    lines = (f"{json.dumps(name)}: {json.dumps(became)}" for name, became in found.items())
    OUTCOMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
