"""`preftune people`: votes of people shown, exported, backed up; a person left out or removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from .command import Command
from .flags import Parsed


def show(folder: Path, _: str) -> None:
    """How the votes stand, with the names of what is compared."""
    from ..people import figures_of

    _print(figures_of(folder))


def export(folder: Path, _: str) -> None:
    """The votes as ballots and lines; those of an arena also into its study."""
    from ..people import export_votes

    for path, what in export_votes(folder):
        print(f"{path}: {what}")


def backup(folder: Path, name: str) -> None:
    """A whole copy of the votes, also while somebody votes."""
    from ..people import back_up

    back_up(folder, Path(name))
    print(f"{name}: a copy of the votes, with names")


def leave_out(folder: Path, name: str) -> None:
    """A person's votes count no longer, in this and every later figure and export."""
    _change(folder, name, out=True)


def count_in(folder: Path, name: str) -> None:
    """A person's votes count again."""
    _change(folder, name, out=False)


def remove(folder: Path, name: str) -> None:
    """All that a person said is removed from the file, and from what was exported of it."""
    from ..people import remove_person

    print(f"{name}: {remove_person(folder, name)} rows removed; exports are written anew, copies elsewhere are not")


def _change(folder: Path, name: str, *, out: bool) -> None:
    from ..people import leave_out_person

    leave_out_person(folder, name, out)
    print(f"{name}: {'left out' if out else 'counted'}; exports are written anew")


ACTIONS: Mapping[str, tuple[Callable[[Path, str], None], str]] = {
    "show": (show, ""),
    "export": (export, ""),
    "backup": (backup, "the file to write"),
    "leave-out": (leave_out, "the name of a person"),
    "count-in": (count_in, "the name of a person"),
    "remove": (remove, "the name of a person"),
}


def run(given: Parsed) -> None:
    action, name = given["action"], given.get("name", "")
    if action not in ACTIONS:
        raise UserError(f"people {action}: unknown{nearest(action, tuple(ACTIONS))}")
    act, needs = ACTIONS[action]
    if bool(name) != bool(needs):
        raise UserError(f"people {action}: " + (f"give {needs} too" if needs else "takes the folder alone"))
    act(Path(given["folder"]), name)


def _print(found: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..text import harmless

    console = Console(highlight=False)
    console.print(
        f"{found['votes']:,} votes on {found['voted']:,} of {found['pairs']:,} pairs, {found['skips']:,} skips, "
        f"{found['ties']:,} ties, {found['both_bad']:,} both bad. {found['agreement']}",
        markup=False,
    )
    if found["questions"]:
        table = Table("comparison", "prompts", "the first wins", "always valid, 95% together", "more votes, about")
        table.box, table.caption = box.SIMPLE, "more votes: for a lead of ten points, found in four of five cases"
        for one in found["questions"]:
            wins = "–" if one["wins"] is None else f"{100 * one['wins']:.1f}%"
            more = "told apart" if one["clear"] else f"{one['more']:,}"
            between = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}%"
            table.add_row(Text(harmless(one["name"])), f"{one['prompts']:,}", wins, between, more)
        console.print(table)
    people = Table("name", "votes", "skips", "median s", "left, %", "streak", "agrees, %", "", box=box.SIMPLE)
    for one in found["people"]:
        told = "; ".join([*one["flags"], *(["left out"] if one["left_out"] else [])])
        shares = ["–" if one[share] is None else f"{100 * one[share]:.0f}" for share in ("left", "agrees")]
        seconds = "–" if one["seconds"] is None else f"{one['seconds']:.1f}"
        counts = str(one["votes"]), str(one["skips"]), seconds, shares[0], str(one["streak"]), shares[1]
        people.add_row(Text(harmless(one["name"])), *counts, told)
    console.print(people)


COMMAND = Command(
    run,
    "votes of label or arena: show, export, backup; leave-out, count-in or remove a person",
    "preftune people show labels\n  preftune people leave-out labels bob\n  preftune people backup labels copy.sqlite",
    positional={
        "action": "show, export, backup, leave-out, count-in or remove",
        "folder": "what label wrote, or the folder `arena` in a study",
        "name": "a person, or the file of a backup",
    },
)
