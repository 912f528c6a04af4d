"""A server that speaks as an OpenAI-compatible one does, and misbehaves as it is told."""

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "judge-1"


@dataclass(frozen=True)
class Served:
    """What the server sends: a status (0: it hangs up), headers, a body; `hold` keeps it back until it is set, and
    with `drip` there are so many seconds between its bytes."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    drip: float = 0.0


def chat(text: str | None, *, model: str = MODEL, finish: str = "stop", more: dict | None = None, **message) -> dict:
    """The body of an answer with a text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
    return {"object": "chat.completion", "model": model, "choices": [{**choice, **(more or {})}], "usage": usage}


def token(text: str, logprob: float, tops: dict[str, float] | None = None) -> dict:
    """A token of an answer with the probabilities of its alternatives."""
    one = {"token": text, "logprob": logprob}
    if tops is not None:
        one["top_logprobs"] = [{"token": top, "logprob": math.log(p)} for top, p in tops.items()]
    return one


def sure(text: str, tops: dict[str, float], *, model: str = MODEL) -> dict:
    """An answer of one token with its alternatives."""
    return chat(text, model=model, more={"logprobs": {"content": [token(text, math.log(tops[text]), tops)]}})


def question(body: dict) -> str:
    """What the judge was asked."""
    return body["messages"][-1]["content"]


def better(body: dict) -> str:
    """The letter of the response that says `good`, where the other says `bad`."""
    text = question(body)
    return "A" if text.index("good") < text.index("bad") else "B"


class FakeServer(ThreadingHTTPServer):
    """`answer(body, times)` says what is sent to a question that came so many times before."""

    daemon_threads = True

    def __init__(self, answer: Callable[[dict, int], Served]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.lock = threading.Lock()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict] = []
        self.came: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.waiting = 0
        self.most_at_once = self.at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked, server = json.dumps(body, sort_keys=True), self.server
        with server.lock:
            times = server.came[asked]
            server.came[asked] += 1
            server.headers.append(dict(self.headers))
            server.bodies.append(body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        served = server.answer(body, times)
        if served.hold:
            with server.lock:
                server.waiting += 1
            served.hold.wait(20)
        with server.lock:
            server.at_once -= 1
        if not served.status:
            self.close_connection = True
            return
        content = served.body if isinstance(served.body, bytes) else json.dumps(served.body).encode()
        if served.status == 200:
            with server.lock:
                server.paid[asked] += 1
        self.send_response(served.status)
        for name, value in {"Content-Length": str(len(content)), **served.headers}.items():
            self.send_header(name, value)
        self.close_connection = "Content-Length" in served.headers  # a wrong one, so that it ends before it is over
        self.end_headers()
        for part in [content[n : n + 1] for n in range(len(content))] if served.drip else [content]:
            self.wfile.write(part)
            time.sleep(served.drip)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(answer: Callable[[dict, int], Served]) -> Iterator[FakeServer]:
    """A server for the time of a test."""
    server = FakeServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
