"""Study folders that somebody else made: each is read, or refused in one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_pages import set_info
from synthetic_study import write_synthetic_study

from preftune.errors import UserError
from preftune.report import markdown, verdict_json, write_report
from preftune.report.page import page_of
from preftune.report.writing import read

STRANGE: dict[str, Any] = {
    "null": None,
    "true": True,
    "negative": -1,
    "large": 1e308,
    "digits": 10**299,
    "text": "x",
    "long": "x" * 100_000,
    "list": [],
    "nested": [[[[]]]],
    "object": {"a": {"b": [1]}},
    "nan": "nan",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and something in every field that a report reads."""
    folder = write_synthetic_study(
        tmp_path_factory.mktemp("study"),
        arms=("dpo", "ipo"),
        betas=(0.1,),
        seeds=(0,),
        steps=(2,),
        prompts=2,
        samples=1,
    )
    held = {"accuracy": {"value": 0.6, "se": 0.1}, "log_loss": {"value": 0.6, "se": 0.1}}
    look = {"seeds": 1, "prompts": 2, "alpha": 0.005}
    bins = [{"predicted": 0.5, "observed": 0.5, "votes": 9.0}]
    runs = [path.name for path in (folder / "runs").iterdir()]
    model = {"held_out": held, "reliability": bins, "baselines": {"tfidf": held, "length": held}}
    return set_info(
        folder,
        reward={"kind": "frozen", "0": model},
        calibration={run: bins for run in runs},
        budgets={run: {"votes_seen": 3, "tokens_trained": 6.0, "tokens_sampled": 0} for run in runs},
        preferences={run: {"held_out": held} for run in runs},
        search={"ended": True, "tried": [{"arm": "dpo", "beta": 0.1, "kl": 1.2, "why": "where every arm starts"}]},
        looks={"schedule": [look], "done": [look | {"hours": 1.0}], "ended": "it is the last one declared"},
        pilots={"dpo": {"lr": 1e-4, "reason": "the lowest loss", "tried": [{"lr": 1e-4}]}},
        failed={"dpo-beta9-seed0": "out of memory"},
        grown=[{"added": {"seeds": [1]}}],
        caveats=["a caveat"],
        opinions={"vader": "sentiment"},
        arm_betas={"dpo": [0.1], "ipo": [0.1]},
    )


@pytest.fixture
def spoilt(study: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Write something else into a file of the study; it is put back afterwards."""
    kept: dict[str, bytes] = {}

    def write(name: str, content: bytes) -> None:
        kept.setdefault(name, (study / name).read_bytes())
        (study / name).write_bytes(content)

    yield write
    for name, content in kept.items():
        (study / name).write_bytes(content)


def answered(folder: Path) -> str:
    """How the folder is answered; "" if it is drawn, and then what it holds is JSON that any tool reads."""
    try:
        json.loads(verdict_json([folder]), parse_constant=lambda name: pytest.fail(f"{name} in verdict.json"))
        markdown([folder])
        page_of(*read([folder])[:2])
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return str(error)
    return ""


def one_of_each(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """A path to every field, and to the first entry of what holds many."""
    if path:
        yield path
    if isinstance(value, dict):
        for name in list(value)[: 1 if len(path) == 1 and len(value) > 4 else None]:
            yield from one_of_each(value[name], (*path, name))
    elif isinstance(value, list) and value:
        yield from one_of_each(value[0], (*path, 0))


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = put(changed[path[0]], path[1:], other)
    return changed


def test_no_field_of_a_study_is_trusted(study: Path, spoilt: Callable[[str, bytes], None]) -> None:
    """Each field is given one of the strange values; over all fields every value has its turn."""
    info = json.loads((study / "study.json").read_text())
    for i, path in enumerate(one_of_each(info)):
        strange = list(STRANGE.values())[i % len(STRANGE)]
        spoilt("study.json", json.dumps(put(info, path, strange)).encode())
        told = answered(study)
        assert not told or "study.json" in told, (path, told)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of rewards of 1e299
@pytest.mark.parametrize("name", ["results.jsonl", "samples.jsonl"])
def test_no_field_of_a_row_is_trusted(name: str, study: Path, spoilt: Callable[[str, bytes], None]) -> None:
    lines = (study / name).read_bytes().splitlines(keepends=True)
    row = json.loads(lines[1])
    for field in row:
        for strange in ("digits", "nested", "long"):
            changed = json.dumps({**row, field: STRANGE[strange]}).encode() + b"\n"
            spoilt(name, b"".join([lines[0], changed, *lines[2:]]))
            told = answered(study)
            assert not told or f"{name}, line 2" in told, (field, strange, told)


FILES = ["study.json", "results.jsonl", "samples.jsonl", "metrics.jsonl"]
CONTENT = {
    "brackets": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "digits": b'{"step": ' + b"1" * 400 + b"}\n",
    "endless digits": b'{"step": ' + b"1" * 100_000 + b"}\n",
    "list": b"[]\n",
    "number": b"1\n",
    "zeros": b"\0\0\0\n",
    "latin": b'{"step": "\xe9"}\n',
    "torn": b'{"step": 1',
    "empty": b"",
}


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_refused_by_name_or_left_out(
    name: str, content: str, study: Path, spoilt: Callable[[str, bytes], None]
) -> None:
    place = name if name != "metrics.jsonl" else str(next((study / "runs").glob("*/metrics.jsonl")).relative_to(study))
    spoilt(place, CONTENT[content])
    told = answered(study)
    assert place in told if told else content in ("torn", "empty", "brackets", "objects"), told


@pytest.mark.parametrize("name", FILES[:3])
def test_a_folder_in_the_place_of_a_file_is_refused_by_name(name: str, study: Path, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes((study / "study.json").read_bytes())
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: is no file"):
        verdict_json([tmp_path])


def test_long_texts_without_a_break_are_cut_in_a_page(study: Path, spoilt: Callable[[str, bytes], None]) -> None:
    info = json.loads((study / "study.json").read_text())
    long = "x" * 100_000
    told = {"title": long, "notes": [long], "gold": {"name": "g\\\n", "description": long}, "command": long}
    spoilt("study.json", json.dumps(info | told).encode())
    page = write_report(study).read_text()
    scripts = page.split("<script")[0]
    assert "x" * 5_000 not in scripts and "more characters)" in scripts
