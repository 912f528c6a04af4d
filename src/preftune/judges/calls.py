"""One question to a server over HTTP: sent again while that may help, within the budget, and never anywhere else.

What concerns one question comes back as an `Answer` without a body and with a reason. What concerns all of them is a
`UserError`: no access, no such model, a redirect. The key is read where a request is sent, and goes nowhere else.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from ..errors import UserError
from ..text import excerpt
from .budgets import Meter
from .replies import tokens_used

KEY = "PREFTUNE_JUDGE_KEY"
PATH = "/chat/completions"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
MOST_BYTES = 4_000_000  # of one answer, which is a letter with its log-probs
AGAIN = (408, 409, 429)
NO_ACCESS = (401, 402, 403, 407)
NOWHERE = (404, 410)
REFUSED = (400, 422)  # also what a server says that does not know a parameter
USED_UP, NO_JSON, LATE, BROKEN = (
    "the budget is used up",
    "the answer is no whole JSON",
    "no answer in time",
    "the connection failed",
)


@dataclass(frozen=True)
class Patience:
    """How long a question is asked: so many times, with pauses in seconds that double from `first` up to `most`.

    `most` bounds what a server asks for by Retry-After too. `timeout` is for one answer, from its question to its end.
    """

    tries: int = 6
    first: float = 1.0
    most: float = 60.0
    timeout: float = 120.0


@dataclass(frozen=True)
class Answer:
    """What came of one question: its JSON, or a reason for none.

    `status`: the last HTTP status, None where none came. `again`: to ask again may help. `free`: no model was at work.
    `pause`: what the server wants to wait, in seconds. `says`: its own words on a mistake.
    """

    body: Any = None
    why: str = ""
    status: int | None = None
    again: bool = False
    free: bool = False
    pause: float | None = None
    says: str = ""

    @property
    def down(self) -> bool:
        """Whether there was no connection at all."""
        return self.why == BROKEN and self.free


class Key(httpx2.Auth):
    """Adds the key, if there is one, to a request that is about to be sent; nothing holds it otherwise."""

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        if key := read_key():
            request.headers["Authorization"] = f"Bearer {key}"
        yield request


def read_key() -> str:
    """The key in the environment, or nothing. Raises UserError for one that cannot stand in a header."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{KEY}: has characters that no key has; set it to the key alone")
    return key


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and nothing sent to it leaves."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def open_client(url: httpx2.URL, patience: Patience, at_once: int) -> httpx2.Client:
    """A client that follows no redirect, and takes no proxy to this machine."""
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    return httpx2.Client(
        auth=Key(),
        follow_redirects=False,
        limits=limits,
        timeout=patience.timeout,
        trust_env=not is_loopback(url.host),
    )


def ask(
    client: httpx2.Client,
    url: httpx2.URL,
    question: Mapping[str, Any],
    *,
    meter: Meter,
    tokens: int,
    patience: Patience,
    heard: bool,
    pause: Callable[[float], object],
) -> Answer:
    """Ask until there is an answer, or none is to be had. `tokens`: what a call takes, roughly.

    `heard`: whether this server ever answered; one that did not, and takes no connection, is not waited for. `pause`
    waits, and says whether to give up.
    """
    answer = Answer()
    for turn in range(patience.tries):
        if turn and pause(_wait(answer, turn, patience)):
            break
        if not meter.take(tokens):
            return Answer(why=USED_UP)
        answer = _try(client, url, question, patience)
        if answer.free:
            meter.give_back(tokens)
        if (used := tokens_used(answer.body)) is not None:
            meter.correct(tokens, used)
        if not answer.again or (answer.down and not heard):
            break
    return answer


def _wait(answer: Answer, turn: int, patience: Patience) -> float:
    """Seconds before the next try: what the server wants, else a random half to whole of a pause that doubles."""
    doubled: float = min(patience.most, patience.first * 2 ** (turn - 1)) * random.uniform(0.5, 1)
    return doubled if answer.pause is None else min(patience.most, answer.pause + doubled / 10)


def _try(client: httpx2.Client, url: httpx2.URL, question: Mapping[str, Any], patience: Patience) -> Answer:
    try:
        with client.stream("POST", url, content=json.dumps(question), headers=HEADERS) as response:
            content = _content(response, time.monotonic() + patience.timeout)
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        return Answer(why=BROKEN, again=True, free=True, says=f" ({error})")
    except httpx2.TimeoutException:
        return Answer(why=LATE, again=True)
    except httpx2.HTTPError:
        return Answer(why=BROKEN, again=True)
    return _read(response, content, url)


def _content(response: httpx2.Response, until: float) -> bytes:
    """The body, however slowly it comes, but not later and not longer than anything sensible."""
    content = b""
    for part in response.iter_bytes():
        content += part
        if time.monotonic() > until:
            raise httpx2.ReadTimeout("the answer does not end")
        if len(content) > MOST_BYTES:
            break
    return content


def _read(response: httpx2.Response, content: bytes, url: httpx2.URL) -> Answer:
    """What a response with its body means."""
    status = response.status_code
    if status == httpx2.codes.OK:
        try:
            return Answer(body=json.loads(content), status=status)
        except (ValueError, RecursionError):
            return Answer(why=NO_JSON, status=status)
    says = _words(content)
    if 300 <= status < 400:
        raise UserError(_redirected(url, response.headers.get("Location", "")))
    if status in NO_ACCESS:
        raise UserError(f"--judge {shown(url)}: HTTP {status}{says}; set {KEY} to a key that may ask this model")
    if status in NOWHERE:
        raise UserError(
            f"--judge {shown(url)}: HTTP {status}{says}; check the URL (it ends in /v1 as a rule) and --judge-model"
        )
    again = status in AGAIN or status >= 500
    pause = _retry_after(response.headers.get("Retry-After")) if again else None
    return Answer(why=f"HTTP {status}", status=status, again=again, free=True, pause=pause, says=says)


def _redirected(url: httpx2.URL, location: str) -> str:
    try:
        target = shown(url.join(location))
    except httpx2.InvalidURL:
        target = "nowhere"
    return f"--judge {shown(url)}: redirects to {target}, which is not followed; if you trust that server, give its URL"


def shown(url: httpx2.URL) -> str:
    """A URL without what may be secret in it."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None)).removesuffix(PATH)


def _words(content: bytes) -> str:
    """What a server says of a mistake, without the key that it may repeat; in brackets, or nothing."""
    text = content.decode("utf-8", "replace").strip()
    try:
        body = json.loads(text)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message") or error.get("detail") or error) if isinstance(error, dict) else str(error)
    except (ValueError, RecursionError):
        pass
    key = read_key()
    return f" ({excerpt(text.replace(key, '…') if key else text, 160)})" if text else ""


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, from a number of them or from a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
