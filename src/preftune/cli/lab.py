"""`preftune lab`: the exact finite worlds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import UserError
from ..files import is_special
from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    from ..console import track
    from ..evidence import write_json

    what, quick, seed = given.get("what", "page"), given.get("quick", False), given.get("seed", 0)
    out = Path(given["out"]) if "out" in given else None
    if what not in ("page", "study"):
        raise UserError(f"lab {what}: unknown; lab writes the page, lab study runs the simulations")
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out {out}: " + ("is a folder; name a file" if out.is_dir() else "there is no such folder"))
    if out and is_special(out):
        raise UserError(f"--out {out}: is no regular file; name a file")
    if what == "page":
        from ..lab import QUICK_STEPS, write_page

        steps = {"steps": QUICK_STEPS} if quick else {}
        page = write_page(out or Path("lab.html"), seed=seed, track=partial(track, description="bandits"), **steps)
        print(f"lab: {page}")
        return
    from ..lab import as_rows, as_text, run_study

    cells = run_study(quick=quick, seed=seed, track=partial(track, description="simulations"))
    print(as_text(cells))
    if out:
        write_json(out, {"seed": seed, "quick": quick, "cells": as_rows(cells)})


COMMAND = Command(
    run,
    "the exact finite worlds, as a page with sliders; lab study: when a learned target beats the bare label",
    "preftune lab --out lab.html",
    flags=["out", "seed", "quick"],
    positional={"what": "page (the default) or study"},
)
