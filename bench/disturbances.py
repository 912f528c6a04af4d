"""What else can happen to a command than a signal: another process, a full disk, a folder that cannot be written to.

Each is a function of an undisturbed command that returns a `Try`; what stands in `wrong` should not have happened.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.attempts import Ended
from bench.tries import REFUSED, Try, Undisturbed, differences, problem_of

KIB = 1024


def finished(whole: Undisturbed, work: Path, found: Try, out: Path | None = None) -> Try:
    """Go on with a command whose trouble is over, and compare."""
    place = out or work / "out"
    ended = whole.start(work, on=place.exists(), out=place).end()
    if problem := problem_of(ended):
        found.wrong.append(problem)
    else:
        found.wrong += differences(place, whole.left)
    return found


def refused(ended: Ended, found: Try) -> bool:
    """Whether a command said in one line why it ended, and what it said; anything else is wrong."""
    lines = [line for line in ended.said.splitlines() if line.startswith("preftune: ")]
    if ended.code != REFUSED or len(lines) != 1 or "Traceback" in ended.said:
        found.wrong.append(f"exit code {ended.code}, said {ended.said.strip().splitlines()[-1:]}")
        return False
    found.told.append(lines[0])
    return True


def one_folder(whole: Undisturbed, seed: int, work: Path) -> Try:
    """Two processes in one folder: one of them does the work, the other is refused."""
    found = Try(whole.command.name, seed)
    both = [whole.start(work, said=work / name) for name in ("one", "two")]
    ended = sorted((attempt.end() for attempt in both), key=lambda one: one.code)
    if ended[0].code:
        found.wrong.append(f"exit code {ended[0].code}")
    if refused(ended[1], found) and "another process is writing there" not in found.told[0]:
        found.wrong.append("refused for another reason")
    found.wrong += differences(work / "out", whole.left)
    return found


def one_store(whole: Undisturbed, seed: int, work: Path) -> Try:
    """Two processes in folders of their own that fill one store."""
    found = Try(whole.command.name, seed)
    places = [work / name for name in ("one", "two")]
    both = [whole.start(work, out=place, said=place.with_suffix(".said")) for place in places]
    for attempt, place in zip(both, places, strict=True):
        if problem := problem_of(attempt.end()):
            found.wrong.append(problem)
        else:
            found.wrong += differences(place, whole.left)
    return found


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small disk at a folder; what is yielded mounts it anew with other options, its content as it is."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,{more}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount(work: Path) -> bool:
    """Whether this process may make small disks."""
    try:
        with mounted(work / "probe", "size=64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_disk(whole: Undisturbed, seed: int, work: Path) -> Try:
    """A disk of random size, on which both folder and store are: full at some moment, and then larger.

    Where nothing may be mounted, a limit on the size of a file.
    """
    rng, found = random.Random(seed), Try(whole.command.name, seed)
    needed = sum(path.stat().st_size for path in (whole.work / "out").rglob("*") if path.is_file())
    size = rng.randrange(16 * KIB, needed)
    if not can_mount(work):
        refused(whole.start(work, largest=rng.randrange(200, 64 * KIB)).end(), found)
        return finished(whole, work, found)
    with mounted(work / "disk", f"size={size}") as remount:
        out = work / "disk" / "out"
        ended = whole.start(work, out=out, cache=work / "disk" / "cache").end()
        if ended.code:
            refused(ended, found)
        found.strikes.append(f"full at {size // KIB} of {needed // KIB} KiB")
        remount("size=256m")
        return finished(whole, work, found, out)


def unwritable(whole: Undisturbed, seed: int, work: Path) -> Try:
    """The folder or the store on a disk that is read-only from the start, or from a kill on; then it is not."""
    rng, found = random.Random(seed), Try(whole.command.name, seed)
    folder = rng.random() < 0.5
    found.strikes.append("folder" if folder else "cache")
    with locked(work / "disk") as unlock:
        out, cache = (work / "disk" / "out", work / "cache") if folder else (work / "out", work / "disk" / "cache")
        ended = whole.start(work, out=out, cache=cache).end()
        if refused(ended, found) and not folder and any((work / "out").rglob("policy/*")):
            found.wrong.append("trained without a store")
        unlock()
        return finished(whole, work, found, out)


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """A folder in which nothing can be written until what is yielded is called; by its mode where nobody is root."""
    if os.geteuid() == 0:
        with mounted(folder, "ro") as remount:
            yield lambda: remount("rw")
        return
    folder.mkdir(mode=0o500)
    yield lambda: folder.chmod(0o700)


DISTURBANCES: Mapping[str, Callable[[Undisturbed, int, Path], Try]] = {
    "two processes, one folder": one_folder,
    "two processes, one store": one_store,
    "a full disk": full_disk,
    "a folder or cache that cannot be written to": unwritable,
}
