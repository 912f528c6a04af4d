"""A page for people, served from this machine until somebody stops it: its address, its links, one server a folder."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..console import say
from ..errors import UserError
from .desk import Desk
from .pairs import Pair
from .store import Store

PORT = 8787
LOCAL = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")
AT_ONCE = 512  # connections
IDLE = 30  # seconds that a connection may say nothing
LOOKED, LINGERS = 0.5, 10.0  # seconds between two looks whether all is answered, and until the page ends then


@dataclass(frozen=True)
class Address:
    """Where the page is: the `host` as somebody named it, and its port."""

    host: str = LOCAL[1]
    port: int = PORT

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOCAL

    @property
    def names(self) -> frozenset[str]:
        """What a request may call this machine; * is any address in numbers."""
        if self.local:
            return frozenset(LOCAL)
        own = socket.gethostname().lower()
        names = {"*", own, f"{own}.local"} if self.host in EVERYWHERE else {self.host.lower()}
        return frozenset({*LOCAL, *names})

    def link(self, path: str, token: str) -> str:
        """A link with its token behind the #, which a browser sends to nobody."""
        host = socket.gethostname() if self.host in EVERYWHERE else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{path}#{token}"


def check_installed(command: str) -> None:
    """Raises UserError, with the command that installs them, where the libraries of the page are missing."""
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{command}: needs {' and '.join(missing)}; install what is missing: pip install 'preftune[people]'"
        )


def serve(
    store: Store,
    pairs: Sequence[Pair],
    standing: Callable[[], Mapping[str, Any]],
    address: Address,
    *,
    share: float,
    name: str = "",
    ends: bool = False,
    beside: Callable[[Desk], AbstractContextManager[None]] | None = None,
) -> None:
    """Serve the page, with what goes on `beside` it, until somebody stops it (SIGINT, SIGTERM); one that `ends`, until
    all pairs are answered.

    Raises UserError where the address cannot be taken.
    """
    import uvicorn

    from .server import make_app

    voters, organiser = (store.fact(f"token {who}", lambda: secrets.token_urlsafe(24)) for who in ("vote", "organise"))
    desk = Desk(store, pairs, share)
    app = make_app(desk, standing, tokens=(voters, organiser), hosts=address.names, name=name)
    with _listen(address) as listening:
        say(f"{len(pairs):,} pairs. To vote: {address.link('/', voters)}")
        say(f"To see how it stands: {address.link('/organiser', organiser)}")
        if not address.local:
            say(f"--host {address.host}: others can reach this, and there is no TLS: whoever is between can read and")
            say("  change what is sent, the link too. Use it where you trust the network, or an SSH tunnel.")
        say("Ctrl-C stops it; every vote is kept as it comes, and the same command goes on.")
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=AT_ONCE,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        if ends:
            threading.Thread(target=_end, args=(server, desk), daemon=True).start()
        with beside(desk) if beside else nullcontext(), suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _end(server: Any, desk: Desk) -> None:
    """Stop the server a while after the last pair was answered: until then that can be taken back."""
    open_at = time.monotonic()
    while not server.should_exit:
        if desk.unanswered():
            open_at = time.monotonic()
        elif time.monotonic() - open_at >= LINGERS:
            server.should_exit = True
        time.sleep(LOOKED)


def _listen(address: Address) -> socket.socket:
    """A socket at the address, before anything says that it is there."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # named as TCP, or asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an acknowledgement
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen()  # whoever opens the link from now on waits rather than finds nobody
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {address.host} --port {address.port}: cannot be taken ({why}); name another") from None
    return listening
