"""`preftune doctor`: stored values computed anew."""

from __future__ import annotations

import sys

from .command import Command
from .flags import Parsed


def run(given: Parsed) -> None:
    from ..model import check_stores
    from .stores import show_stores

    checked = check_stores(device=given.get("device", "auto"))
    show_stores(checked)
    if any(one.wrong for one in checked):
        sys.exit(1)


COMMAND = Command(
    run,
    "compute a sample of what earlier runs stored anew, and say what differs",
    "preftune doctor --stores",
    flags=["stores", "device"],
)
