"""Commands that are killed at random moments and gone on with, beside the same ones that nobody disturbed.

    python -m bench.faults [--kills 50] [--seed 0]

Tiny models, one thread. A try takes a command, strikes it one to three times and goes on with the same command (`train`
with --resume) until it is done. Each moment is drawn: a stage of those that the command has, one of the times that it
comes to it, how far into it; the signal is SIGKILL in two of three cases, else SIGTERM, SIGINT or SIGHUP. In every
fourth try a random file of the folder is then cut at a random length; where the command refuses it in one line that
names it (as `study.json`, which says what was declared before the first run), it is put back. At the end weights,
metrics, results, samples and verdict must be those of the undisturbed command, bit for bit. `--seed S --kills 1`
repeats the try of seed S.

Then other faults, one try of each for every command (`bench.disturbances`): two processes at once in one folder, two
that fill one store, disks that are full at a random size, folders and caches that cannot be written to.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: a fork has one thread
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path

from bench.attempts import STAGES
from bench.commands import COMMANDS, make_inputs
from bench.disturbances import DISTURBANCES
from bench.machine import describe_machine, show, write_results
from bench.tries import Try, Undisturbed, kill, undisturbed


class Bench:
    """Every command as it is when nobody disturbs it, run when it is needed first."""

    def __init__(self, work: Path) -> None:
        self.work, self.inputs = work, make_inputs(work)
        self.whole: dict[int, Undisturbed] = {}

    def of(self, number: int) -> Undisturbed:
        place = number % len(COMMANDS)
        if place not in self.whole:
            self.whole[place] = undisturbed(COMMANDS[place], self.inputs, self.work / f"whole{place}")
        return self.whole[place]

    def kills(self, wanted: int, seed: int) -> Iterator[Try]:
        """Tries until there were so many strikes."""
        done = 0
        for number in count(seed):
            if done >= wanted:
                return
            with tempfile.TemporaryDirectory(dir=self.work) as place:
                found = kill(self.of(number), number, Path(place))
            done += len(found.strikes)
            yield told(found)

    def disturbed(self, what: str, seed: int) -> Iterator[Try]:
        """A try of one kind for every command."""
        for number in range(seed, seed + len(COMMANDS)):
            with tempfile.TemporaryDirectory(dir=self.work) as place:
                yield told(DISTURBANCES[what](self.of(number), number, Path(place)))


def told(found: Try) -> Try:
    """Say at once what became of a try."""
    parts = [*found.strikes, *(f"cut {name}" for name in found.cut)]
    print(f"seed {found.seed}: {found.command}: {', '.join(parts) or '–'}: {found.wrong or 'the same'}", flush=True)
    return found


def by_command(tries: Sequence[Try]) -> list[list[str]]:
    """Strikes, files that were cut, those that had to be put back, and divergences of each command."""
    rows = []
    for name in dict.fromkeys(found.command for found in tries):
        own = [found for found in tries if found.command == name]
        counts = [sum(len(getattr(found, what)) for found in own) for what in ("strikes", "cut", "refused")]
        rows.append([name, str(len(own)), *map(str, counts), str(sum(bool(found.wrong) for found in own))])
    total = [str(sum(int(row[place]) for row in rows)) for place in range(1, 6)]
    return [*rows, ["all", *total]]


def by_stage(tries: Sequence[Try]) -> list[list[str]]:
    """How often each stage was struck, and by which signal."""
    found = Counter(tuple(strike.split(" in ")) for one in tries for strike in one.strikes)
    signals = sorted({name for name, _ in found})
    return [["stage", *signals], *([stage, *(str(found[name, stage]) for name in signals)] for stage in STAGES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    bench = Bench(work)
    struck = list(bench.kills(given.kills, given.seed))
    others = {what: list(bench.disturbed(what, given.seed)) for what in DISTURBANCES}
    show(
        "killed and gone on with", ["command", "tries", "kills", "files cut", "refused", "diverged"], by_command(struck)
    )
    head, *rows = by_stage(struck)
    show("where", head, rows)
    counted = [[what, str(len(own)), str(sum(bool(one.wrong) for one in own))] for what, own in others.items()]
    show("other faults", ["", "tries", "diverged"], counted)
    record = {"kills": given.kills, "seed": given.seed, "struck": list(map(asdict, struck))}
    record |= {"others": {what: list(map(asdict, own)) for what, own in others.items()}}
    write_results("faults", {"machine": describe_machine(), **record}, given.out)
    if any(one.wrong for one in (*struck, *(one for own in others.values() for one in own))):
        raise SystemExit(f"something diverged; the folders stay in {work}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
