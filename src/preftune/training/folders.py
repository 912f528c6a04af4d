"""The folder that a run or a study is written to."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..stopping import LOCK

FAILED = "failed.json"  # in the folder of a run that failed: why


def check_out(folder: Path, *, resume: bool) -> Path:
    """The output folder. Raises UserError if it holds something already that this does not go on with."""
    if folder.is_file():
        raise UserError(f"--out {folder}: is a file; name a folder")
    if (folder / "run.json").exists():
        raise UserError(f"--out {folder}: holds a finished run already; name another folder")
    if folder.is_dir() and any(path.name != LOCK for path in folder.iterdir()) and not resume:
        raise UserError(f"--out {folder}: is not empty; add --resume to go on with it, or name another folder")
    return folder
