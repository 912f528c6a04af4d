"""Is every vote that was acknowledged kept once, through kill -9, and how long does one wait for its acknowledgement?

    python -m bench.votes [--clients 50] [--kills 5] [--pairs 100000] [--seconds 60]

*Kept*: clients vote as fast as they can on a `preftune label` that is killed (SIGKILL) and started again, on the same
folder. A client that got no answer sends the same vote again, and one in five is sent twice for no reason. At the end
the log has to hold every acknowledged vote once, and nothing that was never sent.

*Wait*: each client asks for a pair and votes every two seconds, on so many pairs; the time of a vote is measured at the
client, from the request to the answer. Beside it, what one `fsync` of a small append to the same disk takes meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from preftune.people.store import Store

PACE = 2.0  # seconds between two votes of a person
ANSWERED = 10.0  # seconds that a client waits for an answer


class Server:
    """`preftune label` as a process, which may be killed and started again on its folder and port."""

    def __init__(self, ballots: Path, out: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.out = out
        options = ["--out", str(out), "--port", str(self.port)]
        self._command = [sys.executable, "-m", "preftune", "label", str(ballots), *options]

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self._process.stderr
        line = next((line for line in self._process.stderr if "To vote:" in line), "")
        self.token = line.strip().rpartition("#")[2]
        assert self.token, "the server did not start"

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._end()

    def _end(self) -> None:
        self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()


class Client:
    """A person's page: it sends a vote again until it is acknowledged."""

    def __init__(self, server: Server, name: str) -> None:
        self._server, self.name = server, name
        self._line: http.client.HTTPConnection | None = None
        self.acknowledged: list[str] = []
        self.sent: set[str] = set()
        self.waits: list[float] = []

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer, however often it has to be asked for."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._server.token}"}
        while True:
            try:
                self._line = self._line or http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=ANSWERED)
                self._line.request("POST", path, json.dumps(body), headers)
                answer = self._line.getresponse()
                content = answer.read()
                if answer.status == 200:
                    return dict(json.loads(content))
                assert answer.status in (429, 503), content
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
            time.sleep(0.05)

    def close(self) -> None:
        """Hang up."""
        if self._line:
            self._line.close()
        self._line = None

    def vote(self, rng: random.Random) -> bool:
        """Vote on the next pair; whether there was one."""
        pairs = self.post("/api/next", {"by": self.name})["pairs"]
        if not pairs:
            return False
        name = f"{rng.getrandbits(128):032x}"
        winner = rng.choice([side["name"] for side in pairs[0]["sides"]])
        vote = {"id": name, "by": self.name, "pair": pairs[0]["pair"], "kind": "vote", "winner": winner, "ms": 1}
        self.sent.add(name)
        start = time.perf_counter()
        assert self.post("/api/vote", vote)["kept"] == name
        self.waits.append(time.perf_counter() - start)
        self.acknowledged.append(name)
        if rng.random() < 0.2:
            self.post("/api/vote", vote)
        return True


def write_pairs(path: Path, count: int) -> Path:
    """So many prompts with two responses of about a hundred words."""
    words = " ".join(f"word{k % 17}" for k in range(100))
    with path.open("w") as file:
        for k in range(count):
            file.write(json.dumps({"prompt": f"Prompt {k}", "a": f"{words} {k}", "b": f"{k} {words}"}) + "\n")
    return path


@contextmanager
def at_work(clients: Sequence[Client], doing: Callable[[Client, random.Random], None]) -> Iterator[None]:
    """Every client in a thread of its own; afterwards all of them have ended."""
    own = [threading.Thread(target=doing, args=(one, random.Random(one.name)), daemon=True) for one in clients]
    for thread in own:
        thread.start()
    yield
    for thread in own:
        thread.join()
    for one in clients:
        one.close()


def kept(folder: Path, clients: int, kills: int, alive: float = 1.5, pairs: int = 20_000) -> dict[str, Any]:
    """What the log holds after so many kills, each after so many seconds."""
    server = Server(write_pairs(folder / "pairs.jsonl", pairs), folder / "kept")
    people, enough = [Client(server, f"person {k}") for k in range(clients)], threading.Event()

    def doing(client: Client, rng: random.Random) -> None:
        while not enough.is_set() and client.vote(rng):
            pass

    server.start()
    with at_work(people, doing):
        for _ in range(kills):
            time.sleep(alive)
            server.kill()
            server.start()
        time.sleep(alive)
        enough.set()
    server.stop()
    with Store(folder / "kept" / "votes.sqlite", read_only=True) as store:
        log = Counter((said.person, said.id) for said in store.log())
    acknowledged = {(one.name, vote) for one in people for vote in one.acknowledged}
    return {
        "clients": clients,
        "kills": kills,
        "acknowledged": len(acknowledged),
        "kept": len(log),
        "lost": len(acknowledged - set(log)),
        "doubled": sum(count > 1 for count in log.values()),
        "never sent": len(set(log) - {(one.name, vote) for one in people for vote in one.sent}),
    }


def fsyncs(path: Path, enough: threading.Event) -> list[float]:
    """How long an append of 200 bytes and its `fsync` take, ten times a second."""
    found = []
    with path.open("ab") as file:
        while not enough.is_set():
            start = time.perf_counter()
            file.write(b"x" * 200)
            file.flush()
            os.fsync(file.fileno())
            found.append(time.perf_counter() - start)
            time.sleep(0.1)
    return found


def waits(folder: Path, clients: int, pairs: int, seconds: float) -> dict[str, Any]:
    """How long votes wait for their acknowledgement, in milliseconds, beside the disk's own `fsync`."""
    start = time.perf_counter()
    server = Server(write_pairs(folder / "many.jsonl", pairs), folder / "waits")
    server.start()
    started = time.perf_counter() - start
    people, enough = [Client(server, f"person {k}") for k in range(clients)], threading.Event()
    until = time.perf_counter() + seconds

    def doing(client: Client, rng: random.Random) -> None:
        time.sleep(rng.random() * PACE)
        while time.perf_counter() < until and client.vote(rng):
            time.sleep(max(PACE - client.waits[-1], 0))

    disk: list[float] = []
    beside = threading.Thread(target=lambda: disk.extend(fsyncs(folder / "waits" / "fsync", enough)))
    beside.start()
    with at_work(people, doing):
        pass
    enough.set()
    beside.join()
    server.stop()
    votes = [wait for one in people for wait in one.waits]
    told = {"clients": clients, "pairs": pairs, "votes": len(votes), "seconds to start": round(started, 1)}
    return told | {"vote, ms": _quantiles(votes), "fsync, ms": _quantiles(disk)}


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": round(1000 * float(np.quantile(values, q / 100)), 1) for q in (50, 95, 99)}


def main() -> None:
    from bench.machine import write_results

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = {"kept": kept(Path(name), given.clients, given.kills)}
        print(found)
        found["wait"] = waits(Path(name), given.clients, given.pairs, given.seconds)
        print(found)
    write_results("votes", found)


if __name__ == "__main__":
    main()
