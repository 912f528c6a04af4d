"""Rows of results and the samples behind them: in the study's folder, which has one writer, or beside a run that a
worker makes, until they are gathered.

A row is written after its samples and says that they are whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..evidence import Result, Sample, append_records, read_results, read_samples

RESULTS, SAMPLES = "results.jsonl", "samples.jsonl"
APART = "apart"  # in the folder of a run: what its worker adds


@dataclass(frozen=True)
class Rows:
    """Rows that are read from the study's folder and from `own`, where they are added."""

    folder: Path
    own: Path

    def results(self, run: str) -> list[Result]:
        """The rows of a run; of those of the same step the last one stands."""
        found = [row for path in self._places(RESULTS) for row in read_results(path) if row.run == run]
        return list({row.step: row for row in found}.values())

    def samples(self, run: str, step: int) -> list[Sample]:
        """What a run answered at a step."""
        found = [
            one for path in self._places(SAMPLES) for one in read_samples(path) if (one.run, one.step) == (run, step)
        ]
        return list({(one.prompt_id, one.sample): one for one in found}.values())

    def append(self, samples: Sequence[Sample], result: Result) -> None:
        """Add samples and their row."""
        self.own.mkdir(parents=True, exist_ok=True)
        append_records(self.own / SAMPLES, samples)
        append_records(self.own / RESULTS, [result])

    def _places(self, name: str) -> list[Path]:
        return [place / name for place in dict.fromkeys((self.folder, self.own)) if (place / name).exists()]


def rows_apart(folder: Path, run: str) -> Rows:
    """Those of a worker that makes a run of the study in the folder."""
    return Rows(folder, folder / "runs" / run / APART)


def gather(folder: Path, run: str) -> list[Result]:
    """Move to the study's folder what a worker added, and return its rows; samples without a row are made anew."""
    apart = rows_apart(folder, run).own
    rows = read_results(apart / RESULTS) if (apart / RESULTS).exists() else ()
    study, own = Rows(folder, folder), Rows(apart, apart)
    known = study.results(run) if rows else []
    added = [row for row in rows if row not in known]
    for row in added:
        study.append(own.samples(run, row.step), row)
    shutil.rmtree(apart, ignore_errors=True)
    with suppress(OSError):  # what best-of-n leaves is rows alone
        apart.parent.rmdir()
    return added
