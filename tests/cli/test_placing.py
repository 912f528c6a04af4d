"""Where runs are made, on the command line: every mistake is one line and exit code 2, and nothing is left behind."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from preftune.study import placing

Run = Callable[..., tuple[int, str, str]]


def test_where_nobody_answers_is_one_line_and_nothing_is_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "find_spec", lambda name: name)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--model", "nowhere", "--data", "nowhere", "--methods", "dpo", "--out", tmp_path / "out"]
        code, out, said = run("compare", *flags, "--executor", "ray", "--address", address)
    assert (code, out) == (2, "") and said.startswith(f"preftune: --address {address}: nobody answers there (")
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run("plan", *flags, "--workers", "0")[::2] == (2, "preftune: --workers 0: must be at least 1\n")
