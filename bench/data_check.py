"""How fast `preftune data check` reads, and what it keeps of a row.

    python -m bench.data_check

Files of 1 kB rows are written to a temporary folder, 100,000 rows and a million; each is looked at in a process of its
own. The pass over the rows is timed apart from what is asked of the sample, which takes as long whatever the file. What
is kept of a row shows in the largest resident set: how much more of it the larger file takes, a row.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.machine import describe_machine, write_results
from preftune.checking import check_file, findings_of
from preftune.checking.rows import stream_rows
from preftune.checking.tally import count_rows

WORDS, SENTENCES = 5_000, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[100_000, 1_000_000], help="of the two files")
    parser.add_argument("--out", type=Path, help="default: bench/results/data_check.json")
    parser.add_argument("--look-at", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.look_at:
        print(json.dumps(look(given.look_at)))
        return
    few, many = (measure(rows) for rows in sorted(given.rows))
    more = 1024 * 1024 * (many["peak_mib"] - few["peak_mib"]) / (many["rows"] - few["rows"])
    found = {"few": few, "many": many, "bytes_a_row": round(more, 1), "machine": describe_machine()}
    print(json.dumps(found, indent=2))
    write_results("data_check", found, given.out)


def measure(rows: int) -> dict[str, Any]:
    """One file, looked at in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, rows)
        command = [sys.executable, "-m", "bench.data_check", "--look-at", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return {"bytes_of_a_row": round(path.stat().st_size / rows), **found}


def write_rows(path: Path, rows: int) -> None:
    """Pairs of 1 kB a row: words by Zipf's law, every prompt its own."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(WORDS)]
    weights = list(accumulate(1 / (place + 1) for place in range(WORDS)))
    sentences = [" ".join(rng.choices(words, cum_weights=weights, k=12)).capitalize() + "." for _ in range(SENTENCES)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            texts = [" ".join(rng.choices(sentences, k=count)) for count in (4, 4, 4)]
            row = {"prompt": f"{number}: {texts[0]}", "chosen": texts[1], "rejected": texts[2]}
            file.write(json.dumps(row) + "\n")


def look(path: str) -> dict[str, Any]:
    """Rows per second of the pass alone and of all of it, and the largest resident set, of this process."""
    start = time.perf_counter(), time.process_time()
    tally = count_rows(stream_rows(path))
    passed = time.perf_counter() - start[0], time.process_time() - start[1]
    rows, kept = tally.reading.rows, tally.kept.bytes
    del tally
    start = time.perf_counter(), time.process_time()
    findings = findings_of(check_file(path))
    whole = time.perf_counter() - start[0], time.process_time() - start[1]
    return {
        "rows": rows,
        "rows_per_second_of_the_pass": round(rows / passed[0]),
        "the_same_of_processor_time": round(rows / passed[1]),
        "rows_per_second": round(rows / whole[0]),
        "seconds": round(whole[0], 1),
        "processor_seconds": round(whole[1], 1),
        "kept_bytes_a_row": round(kept / rows, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "findings": len(findings),
    }


if __name__ == "__main__":
    main()
