"""A server that is killed at any moment has kept what it acknowledged, once (`bench/votes.py` has fifty clients)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.votes import Server, kept, write_pairs


def test_what_was_acknowledged_is_kept_once_through_kill_9(tmp_path: Path) -> None:
    found = kept(tmp_path, clients=6, kills=2, alive=0.7, pairs=1000)
    assert found["lost"] == found["doubled"] == found["never sent"] == 0
    assert found["kept"] >= found["acknowledged"] > 30


def test_a_second_server_on_one_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    server = Server(write_pairs(tmp_path / "pairs.jsonl", 5), tmp_path / "out")
    server.start()
    command = [sys.executable, "-m", "preftune", "label", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out")]
    second = subprocess.run(command, capture_output=True, text=True)
    server.stop()
    (line,) = second.stderr.strip().splitlines()
    assert second.returncode == 2 and "another process is writing there" in line
    assert (tmp_path / "out" / "labelled.jsonl").exists(), "stopped in peace, it leaves what people said"
