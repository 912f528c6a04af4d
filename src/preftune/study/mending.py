"""What a study finished and no longer has whole: found when it is gone on with, said, and done again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import UserError
from ..evidence import Result, read_lines, read_record, read_results, read_samples, write_records
from ..files import missing, sizes

RECORD = "run.json"
KEPT = ("policy", "adapter")  # folders of a finished run


def finished(folder: Path, steps: int) -> dict[str, Any]:
    """What the record of a run says so that a loss is noticed: its last step, and the sizes of its files."""
    return {"steps": steps, "files": sizes(folder, KEPT)}


def is_finished(folder: Path, steps: Collection[int]) -> bool:
    """Whether a run has its record, all that the record names, and its last row of results among those at these steps.

    If not, its record goes, and what is left of the run is what it goes on from.
    """
    path = folder / RECORD
    if not path.exists():
        return False
    try:
        record = read_record(path)
        last = int(record.get("steps", 0))
        lost = missing(folder, record.get("files", {})) or cut_log(folder / "metrics.jsonl", last)
    except (UserError, TypeError, ValueError, AttributeError):
        lost, last = RECORD, 0
    if not lost and last and last not in steps:
        lost = f"its row of results at step {last}"
    if lost:
        say(f"{folder.name}: {lost} is not what was written; the run is made again")
        path.unlink()
    return not lost


def cut_log(path: Path, steps: int) -> str:
    """The name of a log that has not so many whole lines; "" if it has."""
    lines = path.read_bytes().count(b"\n") if path.exists() else 0
    return path.name if lines < steps else ""


def mend_results(folder: Path) -> None:
    """Take back rows of results whose samples were cut off the end of their file, so that they are made again.

    A row is written after its samples. Whether the last samples that are left are all of theirs is told by their
    number: one that no other row has is taken for a cut.
    """
    paths = folder / "results.jsonl", folder / "samples.jsonl"
    if not paths[0].exists():
        return
    rows = read_results(paths[0])
    samples = read_samples(paths[1]) if paths[1].exists() else ()
    torn = paths[1].exists() and read_lines(paths[1])[1]
    counts = Counter((one.run, one.step) for one in samples)
    last = (samples[-1].run, samples[-1].step) if samples else None
    alone = last is not None and [*counts.values()].count(counts[last]) == 1 and len(counts) > 1

    def is_whole(row: Result) -> bool:
        key = (row.run, row.step)
        return row.kl is None or (key in counts and not (key == last and (torn or alone)))

    kept = [row for row in rows if is_whole(row)]
    if len(kept) < len(rows):
        say(f"{paths[1]}: lacks samples of {len(rows) - len(kept)} rows of results; they are made again")
        write_records(paths[0], kept)
