"""Who gets in: requests to this host from its own page, with the token of the link, small and not too many.

No cookie: a page of somebody else can send none of ours along, and none expires under anybody's hands.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 8192  # bytes of a request's body
PER_SECOND, AT_ONCE = 100.0, 300.0  # requests from one address
ADDRESSES = 4096  # that are remembered
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Refusal(Exception):
    """A request that is not let in, with the status that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Rate:
    """How many requests an address may still send: so many a second, and a few at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._clock = clock

    def allows(self, address: str) -> bool:
        """Count a request; whether it is within the rate."""
        now = self._clock()
        left, since = self._left.pop(address, (AT_ONCE, now))
        left = min(AT_ONCE, left + (now - since) * PER_SECOND)
        self._left[address] = (max(left - 1, 0.0), now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1


class Guard:
    """Stands before the app: it asks whether a request may come in, and every answer leaves with our headers.

    `tokens` are those that open what lies below a path; `hosts` the names by which this machine may be called.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], tokens: Mapping[str, str]) -> None:
        self._app, self._hosts, self._tokens = app, frozenset(hosts), tokens
        self._rate = Rate()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _once(body, receive), with_headers)
        except Refusal as refusal:
            if not begun:
                await _refuse(refusal, with_headers)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._rate.allows((scope.get("client") or ("",))[0]):
            raise Refusal(429, "too many requests; wait a moment")
        host = headers.get("host", "")
        if [name for name, _ in scope["headers"]].count(b"host") != 1 or not self._known(host):
            raise Refusal(421, "this host is not known here")
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            raise Refusal(403, "this comes from another page")
        token = next((token for path, token in self._tokens.items() if scope["path"].startswith(path)), None)
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(401, "the link is not complete: open it as you were given it")
        if scope["method"] == "POST" and headers.get("content-type", "").split(";")[0] != "application/json":
            raise Refusal(415, "needs JSON")

    def _known(self, host: str) -> bool:
        """Whether the host is one of ours; with "*", also any address in numbers, which no name service can forge."""
        name = host_of(host)
        return name in self._hosts or ("*" in self._hosts and _is_address(name))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not length.isdigit() or int(length) > LARGEST for length in lengths):
            raise Refusal(413, "the request is too large")
        body = b""
        while True:
            message = await receive()
            body += bytes(message.get("body", b""))
            if len(body) > LARGEST:
                raise Refusal(413, "the request is too large")
            if not message.get("more_body"):
                return body


def host_of(authority: str) -> str:
    """The name in `name:port` or `[address]:port`, in small letters."""
    name = authority.lower()
    if name.startswith("["):
        return name[1:].split("]")[0]
    return name.rsplit(":", 1)[0] if name.count(":") == 1 else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _once(body: bytes, receive: Receive) -> Receive:
    """Hands on the body that was read, and then whatever comes."""
    left = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return again


async def _refuse(refusal: Refusal, send: Callable[[Message], Any]) -> None:
    content = json.dumps({"error": refusal.why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers += [(b"connection", b"close"), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
