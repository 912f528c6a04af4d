"""`preftune arena`: a blind page on which people judge trained policies; their votes become evidence."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, nearest
from .command import Command
from .flags import Parsed
from .serving import SERVING, address_of, who_of


def run(given: Parsed) -> None:
    from ..people import AGAINST, open_arena

    against = given.get("against", AGAINST[0])
    if against not in AGAINST:
        raise UserError(f"--against {against}: is unknown{nearest(against, AGAINST)}")
    folder = Path(given["folder"])
    for path, what in open_arena(folder, against, address_of(given), **who_of(given)):
        print(f"{path}: {what}")
    print(f"preftune people show {folder / 'arena' / against} tells who is who; preftune report {folder} draws it")


COMMAND = Command(
    run,
    "a blind page on which people judge the policies of a study; their votes become evidence",
    "preftune arena my-study",
    flags=["against", *SERVING],
    positional={"folder": "a study's folder"},
)
