"""`preftune people`: votes of people shown, exported, backed up; a person left out or removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from .command import Command
from .flags import Parsed

if TYPE_CHECKING:
    from rich.table import Table


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
    from rich.console import Console

    from ..text import harmless

    console = Console(highlight=False)
    console.print(
        f"{found['votes']:,} votes on {found['voted']:,} of {found['pairs']:,} pairs, {found['skips']:,} skips, "
        f"{found['ties']:,} ties, {found['both_bad']:,} both bad. {found['agreement']}",
        markup=False,
        soft_wrap=True,
    )
    if found["questions"]:
        console.print(_questions(found["questions"]))
    console.print(_people(found["people"]))
    for one in found["people"]:
        if told := [*one["flags"], *(["left out"] if one["left_out"] else [])]:
            console.print(harmless(f"{one['name']}: {'; '.join(told)}"), markup=False, soft_wrap=True)


def _questions(asked: Sequence[Mapping[str, Any]]) -> Table:
    """Every comparison as it stands."""
    judged = any(one["judged"] for one in asked)
    heads = ("with the judge",) if judged else ()
    table = _table("comparison", "prompts", "the first wins, %", "always valid", *heads, "more votes")
    table.caption = "always valid: 95% together; more votes: for a lead of ten points, in four of five cases, about"
    for one in asked:
        more = "told apart" if one["clear"] else f"{one['more']:,}"
        wins = "–" if one["wins"] is None else f"{100 * one['wins']:.1f}"
        both = one["judged"]
        told = (f"{100 * both['wins']:.1f}: {_between(both)}" if both else "–",) if judged else ()
        _add(table, one["name"], f"{one['prompts']:,}", wins, _between(one), *told, more)
    return table


def _between(one: Mapping[str, float]) -> str:
    return f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"


def _people(seen: Sequence[Mapping[str, Any]]) -> Table:
    """Everybody who voted."""
    table = _table("name", "votes", "skips", "median s", "streak", "left, %", "agrees, %", "again, %")
    for one in seen:
        seconds = "–" if one["seconds"] is None else f"{one['seconds']:.1f}"
        counts = str(one["votes"]), str(one["skips"]), seconds, str(one["streak"])
        shares = (one[share] for share in ("left", "agrees", "steady"))
        _add(table, one["name"], *counts, *("–" if share is None else f"{100 * share:.0f}" for share in shares))
    return table


def _table(*heads: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*heads, box=box.SIMPLE)


def _add(table: Table, *cells: str) -> None:
    from rich.text import Text

    from ..text import harmless

    table.add_row(*(Text(harmless(cell)) for cell in cells))


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
