"""`preftune data check`: what a person should know about a preference file before training on it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ..errors import UserError
from ..files import check_other
from ..text import harmless
from .flags import Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..checking import Checked, Finding

CHECKING = ("model", "max-length", "template-options", "eval-data", "seed", "strict", "json", "html")  # its flags
READ = ("file", "eval_data", "model")
COLOURS = {"error": "bold red", "warning": "bold yellow", "note": "cyan"}


def check(given: Parsed) -> None:
    """Look at the file, print what was found, and write what was asked for; with --strict a warning is exit 1."""
    from ..checking import check_file, fails_strictly, findings_of, record_of, write_page
    from ..console import track

    if "out_file" in given:
        raise UserError(f"data check takes one file; {given['out_file']} is one too many (--html writes a page)")
    _check_place("html", given.get("html"))
    if "html" in given:
        check_other(given["html"], [given[name] for name in READ if name in given], flag="--html")
    form = None
    if "model" in given:
        from ..model import load_form

        form = load_form(given["model"], given.get("template_options", ""))
    options = {name: given[name] for name in ("max_length", "seed", "columns", "score_gap") if name in given}
    checked = check_file(
        given["file"],
        form=form,
        model=given.get("model", ""),
        eval_source=given.get("eval_data", ""),
        track=partial(track, description="rows"),
        **options,
    )
    findings = findings_of(checked)
    if "json" in given:
        print(json.dumps(record_of(checked, findings), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        show(checked, findings)
    if "html" in given:
        write_page(checked, findings, Path(given["html"]))
        print(f"page: {given['html']}", file=sys.stderr)
    if given.get("strict") and fails_strictly(findings):
        sys.exit(1)


def _check_place(flag: str, out: str | None) -> None:
    """Before anything is read: a place that nothing can be written to."""
    if out and (Path(out).is_dir() or not Path(out).parent.is_dir()):
        why = "is a folder; name a file" if Path(out).is_dir() else "there is no such folder"
        raise UserError(f"--{flag} {out}: {why}")


def show(checked: Checked, findings: Sequence[Finding]) -> None:
    """Print the findings, the worst first."""
    from ..checking import counts_line, verdict_line

    console = Console(highlight=False)
    console.print(Text(f"{checked.file}\n{counts_line(checked)}"), soft_wrap=True)
    for finding in findings:
        line = Text("\n").append(f"{finding.severity:<8}", COLOURS[finding.severity]).append(harmless(finding.says))
        console.print(line, soft_wrap=True)
        for spot in finding.spots[:1]:
            console.print(
                Text(harmless(f"        {checked.where(spot.row)}  {spot.text}".rstrip()), "dim"), soft_wrap=True
            )
        if finding.do:
            console.print(Text(f"        → {harmless(finding.do)}"), soft_wrap=True)
    console.print(Text(f"\n{verdict_line(findings)}"))
