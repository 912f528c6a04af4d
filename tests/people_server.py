"""A page for people on a real port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from preftune.people.desk import Desk
from preftune.people.figures import standing_of
from preftune.people.pairs import Pair
from preftune.people.server import make_app
from preftune.people.serving import Address
from preftune.people.store import Store

TOKEN, ORGANISER = "v" * 32, "o" * 32


@contextmanager
def serving(path: Path, pairs: Sequence[Pair]) -> Iterator[tuple[str, Any]]:
    """The address of the page and the store behind it."""
    with Store(path) as store, socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        known = {pair.id: pair for pair in pairs}
        standing = lambda: standing_of(store, known, {})  # noqa: E731
        app = make_app(Desk(store, pairs), standing, tokens=(TOKEN, ORGANISER), hosts=Address().names, name="")
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}", store
        server.should_exit = True
        thread.join()
