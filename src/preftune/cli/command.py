"""What a command is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .flags import Parsed


@dataclass(frozen=True)
class Command:
    """A command: what it does, its positional arguments, its flags (required ones first) and an example.

    One that is `of_method` also has the settings that all methods share and the options of the method that is named;
    `hides(flag, method)` says which of its own flags that method has no use for.
    """

    run: Callable[[Parsed], None]
    help: str
    example: str
    required: Sequence[str] = ()
    flags: Sequence[str] = ()
    positional: Mapping[str, str] | None = None
    of_method: bool = False
    hides: Callable[[str, str], bool] = lambda flag, method: False


def exit_if_failed(failed: Mapping[str, str]) -> None:
    """A study that lacks runs is drawn all the same; whoever called it is told by exit code 1."""
    if failed:
        named = "; ".join(f"{run}: {reason}" for run, reason in failed.items())
        print(
            f"preftune: {len(failed)} of the runs failed ({named}); the same command tries them again", file=sys.stderr
        )
        sys.exit(1)
