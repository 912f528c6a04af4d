"""The exceptions that are meant for a person, and the nearest known name for one that is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class UserError(Exception):
    """A mistake that the user can mend: one line that says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class NotFinite(UserError):
    """A number that is NaN or infinite, where a model, a loss or a gradient may have none."""


class Interrupted(Exception):
    """Somebody asked to stop, and what was done so far is saved. The command line exits with code 130."""


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` for the closest known name, else the list of them."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
