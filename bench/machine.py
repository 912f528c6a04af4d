"""What every benchmark says of the machine, and how it times: workers that take turns, results as ratios.

Timings on a shared machine drift by more than what is compared. So each side is a process of its own, started once;
they do the same piece of work in turn, and what counts is the ratio within a turn, its median over all turns.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "hh-rlhf" / "helpful-base.test.jsonl.gz"
PACKAGES = ("preftune", "torch", "transformers", "peft", "trl", "accelerate")
GIB = 2**30


def gemm_rate(dtype: str = "float32", device: str = "cpu", repeats: int = 5) -> float:
    """FLOP/s of the best of several square matrix products: what the arithmetic limit is computed with.

    The matrices are the smallest, from 256 up, whose product takes a twentieth of a second, or of size 8192.
    """
    size = 256
    while (seconds := _gemm_seconds(dtype, device, size, 2)) < 0.05 and size < 8192:
        size *= 2
    return float(2 * size**3 / min(seconds, _gemm_seconds(dtype, device, size, repeats)))


def _gemm_seconds(dtype: str, device: str, size: int, repeats: int) -> float:
    import torch

    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        start = clock(device)
        a @ b
        best = min(best, clock(device) - start)
    return best


def clock(device: str = "cpu") -> float:
    """Seconds, after all that was asked of the device is done."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, threads, measured matrix rates and versions: what the figures depend on."""
    import torch

    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gemm_gflops": {dtype: round(gemm_rate(dtype, device) / 1e9, 1) for dtype in ("float32", "bfloat16")},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def need(package: str) -> None:
    """Stop with one line when a peer is not installed."""
    if _version(package) is None:
        sys.exit(f"{package} is not installed: pip install -c constraints.txt -e '.[bench]'")


def peak_memory(device: str = "cpu") -> float:
    """The largest memory that this process has held so far, in GiB."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


class WorkerEnded(SystemExit):
    """A worker that ended without an answer, as one does that gets no more memory. Uncaught, it ends the benchmark."""


class Worker:
    """A process that answers one JSON line to each that it is asked: `python -m MODULE --worker ARGUMENTS`."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", module, "--worker", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=_environment()
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Its answer. Raises WorkerEnded when the process has died."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise WorkerEnded(f"a worker ended without an answer: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _environment() -> dict[str, str]:
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **quiet, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}


class Turns:
    """The worker's side of `Worker`. What libraries print goes to standard error."""

    def __init__(self) -> None:
        self.replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def wait(self) -> dict[str, Any]:
        """The next question; the process ends when there are no more."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        question: dict[str, Any] = json.loads(line)
        return question

    def answer(self, **values: Any) -> None:
        print(json.dumps(values), file=self.replies, flush=True)


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answer questions until there are no more."""
    turns = Turns()
    while True:
        turns.answer(**answer(turns.wait()))


@contextmanager
def workers(module: str, arguments: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Worker]]:
    """A process for each name, ended whatever happens."""
    started = {name: Worker(module, given) for name, given in arguments.items()}
    try:
        yield started
    finally:
        for worker in started.values():
            worker.close()


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest ratio of what was measured in the same turn."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "repeats": len(ratios)}


def named(what: str, lora: int) -> str:
    """A row's name: what was trained, and the rank of its adapter if it had one."""
    return f"{what}, LoRA {lora}" if lora else what


def spread(ratio: Mapping[str, float]) -> str:
    """`median_ratio` in a table: median (smallest–largest)."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, numbers to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def write_results(name: str, record: Mapping[str, Any], out: Path | None = None) -> None:
    """Write `bench/results/NAME.json` (or `out`) and say so."""
    path = out or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")
