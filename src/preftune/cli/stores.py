"""A check of stores as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ..model import Checked, stores_folder
from ..text import harmless


def show_stores(checked: Sequence[Checked]) -> None:
    """Print a table of the stores, what differs, and what to do about it."""
    table = Table("store", "model", "values", "computed anew", "differ", "at most, nats", box=box.SIMPLE)
    for one in checked:
        row = (one.path.name, one.model, str(one.entries), one.unchecked or str(one.checked))
        table.add_row(*map(harmless, row), *([] if one.unchecked else [str(one.wrong), f"{one.worst:.2g}"]))
    console = Console()
    console.print(table if checked else "no stores yet")
    for one in checked:
        if one.wrong:
            console.print(f"{one.path}: {one.wrong} of {one.checked} values are wrong; delete the file", soft_wrap=True)
    for old in ("reference", "features"):
        if (folder := stores_folder().parent / old).is_dir():
            console.print(f"{folder}: of an earlier version, read no longer; delete the folder", soft_wrap=True)
