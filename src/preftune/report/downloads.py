"""The numbers of a page, to take away: the rows of results as CSV, the verdict as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import fields

from ..evidence import Result, StudyRecord, Verdict
from ..text import harmless

COLUMNS = [field.name for field in fields(Result) if field.name != "extra"]


def downloads(study: StudyRecord, answer: Verdict) -> Mapping[str, str]:
    """The content of each file that the page offers, by its name."""
    return {
        "verdict.json": json.dumps(answer.record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "results.csv": results_csv(study),
    }


def results_csv(study: StudyRecord) -> str:
    """Every row of results as CSV; a text cannot act in a spreadsheet, since none begins like a formula."""
    extras = list(dict.fromkeys(name for row in study.results for name in row.extra))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(name) for name in [*COLUMNS, *extras]])
    for row in study.results:
        values = [getattr(row, name) for name in COLUMNS] + [row.extra.get(name) for name in extras]
        writer.writerow([_cell(value) for value in values])
    return out.getvalue()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = harmless(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
