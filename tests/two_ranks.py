"""Two processes that train together, as torchrun would start them, forked from the tests so that they load nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

WORLD = 2
PATIENCE = 300  # seconds


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process; its agent holds the store that all share."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD, "MASTER_PORT": port}
    words = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    return {name: str(value) for name, value in numbers.items()} | words


def run_cases(cases: Mapping[str, Callable[[], Any]], folder: Path) -> dict[str, list[str]]:
    """Run the cases one after the other in two processes; what each raised in which, "" for nothing.

    A process that a case has ended says "gone".
    """
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in cases]
    ports = [store.port for store in stores]
    context: Any = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of threads; none of them holds anything
        children = [context.Process(target=_run, args=(rank, cases, ports, folder)) for rank in range(WORLD)]
        for child in children:
            child.start()
    for child in children:
        child.join(PATIENCE)
        child.kill()
    return {name: [_said(folder / f"{name}.{rank}") for rank in range(WORLD)] for name in cases}


def _run(rank: int, cases: Mapping[str, Callable[[], Any]], ports: Sequence[int], folder: Path) -> None:
    torch.set_num_threads(1)
    for (name, case), port in zip(cases.items(), ports, strict=True):
        os.environ.update(environment(rank, port))
        said = ""
        try:
            case()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        (folder / f"{name}.{rank}").write_text(json.dumps(said), encoding="utf-8")
    os._exit(0)


def _said(path: Path) -> str:
    return str(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else "gone"
