"""`preftune demo`: the embedded experiment."""

from __future__ import annotations

from pathlib import Path

from .command import Command, exit_if_failed
from .flags import Parsed


def run(given: Parsed) -> None:
    from ..demo import run_demo

    options = dict(given)
    exit_if_failed(run_demo(Path(options.pop("out")), **options).failed)


COMMAND = Command(
    run,
    "the embedded experiment: a real model, real human ratings, DPO against IPO, and the report",
    "preftune demo --out demo-study",
    ["out"],
    ["size", "methods", "seed"],
)
