"""`preftune arena`: a blind page on which people judge trained policies; their votes become evidence."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError, nearest
from .command import Command
from .flags import Parsed
from .serving import SERVING, address_of, who_of

ASKING = (
    "prompts",
    "out",
    "reference",
    "samples",
    "max-new-tokens",
    "max-length",
    "micro-tokens",
    "precision",
    "device",
    "template-options",
)


def run(given: Parsed) -> None:
    from ..people import AGAINST, check_installed, open_arena

    against = given.get("against", AGAINST[0])
    if against not in AGAINST:
        raise UserError(f"--against {against}: is unknown{nearest(against, AGAINST)}")
    check_installed("arena")
    address, who = address_of(given), who_of(given)
    folder = _study(given, against)
    for path, what in open_arena(folder, against, address, **who):
        print(f"{path}: {what}")
    print(f"preftune people show {folder / 'arena' / against} tells who is who; preftune report {folder} draws it")


def _study(given: Parsed, against: str) -> Path:
    """The study that is named; of policies, what they say to the prompts, as a study. Raises UserError for neither."""
    folders, asking = given["folders"], {flag: flag.replace("-", "_") for flag in ASKING}
    wanted = {name: given[name] for name in asking.values() if name in given}
    studies = [folder for folder in folders if (Path(folder) / "study.json").is_file()]
    if studies and len(folders) > 1:
        raise UserError(f"{studies[0]}: is a study; name it alone, or policies alone")
    if studies:
        for flag, name in asking.items():
            if name in wanted:
                raise UserError(f"--{flag}: {studies[0]} is a study, whose samples are there already; leave it out")
        return Path(studies[0])
    for name in ("prompts", "out"):
        if name not in wanted:
            raise UserError(f"{folders[0]}: is no study; to have policies meet, give --prompts FILE and --out DIR")
    if against == "arms" and len(folders) == 1:
        raise UserError(f"{folders[0]}: has no other policy to meet; name two, or --against reference")
    from ..study import ask_folders

    return ask_folders(folders, opponents=against == "reference", **wanted).folder


COMMAND = Command(
    run,
    "a blind page on which people judge the policies of a study, or any; their votes become evidence",
    "preftune arena my-study\n  preftune arena RUN1 RUN2 --prompts PROMPTS --out DIR",
    flags=["against", *SERVING, *ASKING],
    positional={"folders": "a study's folder; or folders of runs and policies, with --prompts and --out"},
)
