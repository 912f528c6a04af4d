"""What do workers make of a study of eight runs, and do they change anything?

    python -m bench.grid

One `preftune compare` trains dpo and ipo at four β for an epoch, each run with one thread: by one process on one core,
and by two workers, each with a core of its own. A third side is one process with two threads. All are processes started
from the command line with an empty store; what counts is wall time from start to end, and its ratios within a turn.
Then the same study is made once by Ray, one of whose workers is killed in the middle. `results.jsonl`, sorted by
(run, step), and every policy must have the same bits on all sides that have one thread a run.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import machine
from bench.inputs import default_model, training_ballots
from preftune.data.reading import write_ballots

METHODS = ("dpo", "ipo")
BETAS = (0.05, 0.1, 0.2, 0.5)
ONE, TWO, THREADS, RAY = "1 worker, 1 thread", "2 workers, 1 thread each", "1 worker, 2 threads", "Ray, one killed"
GOALS = {ONE: 0.6, THREADS: 0.9}  # of the time of two workers to that of each of these


def command(given: argparse.Namespace, data: Path, out: Path, more: Sequence[str]) -> list[str]:
    """The study, from the command line."""
    values = {"model": given.model, "data": data, "batch-size": given.batch_size, "epochs": 1, "seeds": 0}
    values |= {"precision": given.precision, "max-length": given.max_length, "max-new-tokens": 16}
    values |= {"eval-fraction": 0.25, "eval-prompts": given.prompts}
    values |= {"methods": ",".join(METHODS), "betas": ",".join(map(str, BETAS)), "checkpoints": 1, "out": out}
    values |= {"lora": given.lora} if given.lora else {}
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "preftune", "compare", *flags, "--device", "cpu", *more]


def pinned(cores: Sequence[int]) -> Callable[[], None] | None:
    """What a process does first, to stay on some cores; None where the system knows no such thing."""
    return (lambda: os.sched_setaffinity(0, cores)) if hasattr(os, "sched_setaffinity") else None


def timed(
    given: argparse.Namespace,
    data: Path,
    out: Path,
    more: Sequence[str],
    threads: int | None,
    cores: Sequence[int],
    killing: bool = False,
) -> float:
    """Seconds of one study on some cores. Stops the benchmark when it fails."""
    told = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PREFTUNE_CACHE": str(out.with_name(f"{out.name}-cache")), **told}
    started = time.perf_counter()
    with out.with_name(f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(
            command(given, data, out, more), env=env, cwd=machine.ROOT, stdout=log, stderr=log, preexec_fn=pinned(cores)
        )
        if killing:
            threading.Thread(target=kill_one, args=(process, out), daemon=True).start()
        code = process.wait()
    if code:
        sys.exit(f"{out.name} failed: {out.with_name(f'{out.name}.log').read_text()[-2000:]}")
    return time.perf_counter() - started


def kill_one(process: subprocess.Popen[bytes], out: Path) -> None:
    """Kill the worker of a run when the first one has made a step, as a machine does that has no memory left."""
    while process.poll() is None:
        at_work = workers_of(process.pid)
        if at_work and any(log.stat().st_size for log in out.glob("runs/*/metrics.jsonl")):
            os.kill(at_work[0], signal.SIGKILL)
            out.with_name(f"{out.name}.killed").write_text(str(at_work[0]))
            return
        time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """The processes below this one in which a task of Ray's is done: it gives them its name."""
    import psutil

    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if "_do_task" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def bits(out: Path) -> str:
    """A digest of the results, sorted by run and step, and of the policies."""
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted(lines, key=lambda line: [json.loads(line)[name] for name in ("run", "step")])
    digest = hashlib.sha256("\n".join(rows).encode())
    for path in sorted(out.glob("runs/*/policy/model.safetensors")):
        digest.update(path.parent.parent.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of every side in every turn, the order of the sides turned round each time, and whether bits agree."""
    data, cores = folder / "ballots.jsonl", machine_cores()
    write_ballots(training_ballots(given.data, given.ballots, 0), data)
    sides: dict[str, tuple[list[str], int, list[int]]] = {
        ONE: ([], 1, cores[:1]),
        TWO: (["--workers", "2"], 1, cores[:2]),
        THREADS: ([], 2, cores[:2]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    digests: dict[str, set[str]] = {name: set() for name in (*sides, RAY)}
    for turn in range(given.repeats):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            out = folder / f"{turn}-{list(sides).index(name)}"
            seconds[name].append(timed(given, data, out, *sides[name]))
            digests[name].add(bits(out))
    record: dict[str, Any] = {"seconds": seconds}
    if not given.no_ray and find_spec("ray"):
        out = folder / "ray"
        record["ray_seconds"] = timed(given, data, out, ["--executor", "ray"], None, cores[:2], killing=True)
        record["ray_worker_killed"] = out.with_name("ray.killed").exists()
        digests[RAY].add(bits(out))
    ratios = {name: machine.median_ratio(seconds[TWO], seconds[name]) for name in GOALS}
    alike = digests[ONE] | digests[TWO] | digests[RAY]
    return record | {"ratios": ratios, "same_bits_at_one_thread": len(alike) == 1}


def machine_cores() -> list[int]:
    """The cores that there are for this process."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def table(record: Mapping[str, Any]) -> None:
    """Print what was measured."""
    found = record["measured"]
    rows = [
        [name, f"{sorted(times)[len(times) // 2]:.1f}", machine.spread(found["ratios"][name]), f"{GOALS[name]:.2f}"]
        if name in GOALS
        else [name, f"{sorted(times)[len(times) // 2]:.1f}", "", ""]
        for name, times in found["seconds"].items()
    ]
    if "ray_seconds" in found:
        rows.append([RAY, f"{found['ray_seconds']:.1f}", "", ""])
    title = f"{len(METHODS) * len(BETAS)} runs of an epoch of {record['work']['ballots']} ballots, in seconds"
    machine.show(title, ["side", "median", "two workers to it", "goal, at most"], rows)
    print("the same bits at one thread a run:", "yes" if found["same_bits_at_one_thread"] else "NO")
    if "ray_worker_killed" in found:
        print("a worker of Ray was killed:", "yes" if found["ray_worker_killed"] else "NO")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's folder (default: the model of `preftune demo`)")
    parser.add_argument("--data", default=str(machine.DATA), help="preference file")
    parser.add_argument("--ballots", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument("--lora", type=int, default=16, help="rank of an adapter; 0: all weights")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.model = given.model or default_model()
    named = ("ballots", "batch_size", "max_length", "prompts", "precision", "lora")
    work = {name: getattr(given, name) for name in named}
    record: dict[str, Any] = {"machine": machine.describe_machine(), "model": Path(given.model).name}
    record |= {"data": Path(given.data).name, "work": work | {"methods": METHODS, "betas": BETAS}}
    with tempfile.TemporaryDirectory() as temporary:
        record["measured"] = measure(given, Path(temporary))
    machine.write_results("grid", record, given.out)
    table(record)


if __name__ == "__main__":
    main()
