"""Files written whole or not at all; where a person wants them, never in the place of a device or of a link."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import xxhash

from .errors import UserError

PARTIAL = ".partial"
SYSTEM = ("/dev", "/proc")  # what stands there is no file of anybody's, whatever it leads to
SHARED = "/dev/shm"  # but here


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of ours: what was there stays until all of it is on the disk.

    No link is followed, so that a folder that somebody else made leads nowhere. Raises OSError if it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def write_named(path: Path, content: bytes, *, flag: str = "") -> None:
    """`write_whole` where a person said: a link stays one and what it leads to is written; a device is written into.

    Raises UserError, with the `flag` that named the file, if it cannot be written.
    """
    try:
        if is_special(path):
            path.write_bytes(content)
        else:
            write_whole(path.resolve(), content)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead to each other
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{f'{flag} ' if flag else ''}{path}: cannot be written ({why})") from None


def sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """The size in bytes of every file of those names in a folder, or in the folders of those names."""
    found = [
        path for name in names for path in ((folder / name), *sorted((folder / name).rglob("*"))) if path.is_file()
    ]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def missing(folder: Path, wanted: Mapping[str, int]) -> str:
    """The first file that is not there in the size that `sizes` found; "" if all are."""
    found = sizes(folder, wanted)
    return next((name for name, size in wanted.items() if found.get(name) != size), "")


def check_other(path: str | Path, inputs: Iterable[str | Path], *, flag: str = "") -> None:
    """Raises UserError, with the `flag` that named the file, for a file to write that is one of those that are read, or
    stands in a folder that is.
    """
    path = Path(path)
    if not path.exists() or is_special(path):
        return
    place = path.resolve()
    for one in inputs:
        read = Path(str(one) if os.path.exists(one) else str(one).partition(":")[0]).resolve()  # FOLDER:SPLIT
        if place == read or read in place.parents or (read.exists() and path.samefile(read)):
            told = f"{flag} {path}" if flag else str(path)
            raise UserError(f"{told}: is read here ({one}), and would be written over; name another file")


def sync(folder: Path) -> None:
    """Wait until a folder and all files in it are on the disk, whatever happens to the machine then."""
    for path in (*folder.rglob("*"), folder):
        sync_file(path)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_special(path: Path) -> bool:
    """Whether the path leads to a device, a pipe or a socket, which a file must not take the place of."""
    place = path.absolute()
    if any(map(place.is_relative_to, SYSTEM)) and not place.is_relative_to(SHARED):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def content_hash(path: Path) -> str:
    """What tells a file's content from any other; no defence against somebody who wants two to look alike."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return str(digest.hexdigest())
