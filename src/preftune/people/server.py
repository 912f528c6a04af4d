"""The pages and what they ask for, over HTTP: a JSON request each, answered from the desk."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from .desk import Desk
from .guard import Guard, Refusal
from .showing import pair_shown, whole
from .store import Said

AHEAD = 2  # pairs that a page may have: one before the eyes, one prefetched
MOST_HELD = 8  # pairs that a page may say it has
NAME, ID = 60, 64  # characters, at most
LONGEST_LOOK = 24 * 3600 * 1000  # milliseconds
ORGANISER = "/organiser/api/"
SERVED = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/difference.js": ("difference.js", "text/javascript"),
    "/organiser": ("organiser.html", "text/html"),
    "/organiser.js": ("organiser.js", "text/javascript"),
}

Asked = Mapping[str, Any]
Standing = Callable[[], Mapping[str, Any]]  # what the organiser sees


def make_app(desk: Desk, standing: Standing, *, tokens: tuple[str, str], hosts: frozenset[str], name: str) -> ASGIApp:
    """The app: `tokens` of those who vote and of the organiser, `name` of the person where there is but one."""
    answers: dict[str, Callable[[Asked], Mapping[str, Any]]] = {
        "/api/next": lambda asked: _next(desk, asked, name),
        "/api/vote": lambda asked: _vote(desk, asked),
        "/api/undo": lambda asked: _undo(desk, asked),
        "/api/whole": lambda asked: whole(_pair(desk, asked)),
        f"{ORGANISER}standing": lambda asked: standing(),
        f"{ORGANISER}leave-out": lambda asked: _leave_out(desk, asked, standing),
    }
    routes = [Route(path, _asset(*of), methods=["GET"]) for path, of in SERVED.items()]
    routes += [Route(path, _json(answer), methods=["POST"]) for path, answer in answers.items()]
    app = Starlette(routes=routes, exception_handlers={Refusal: _refused})
    return Guard(app, hosts=hosts, tokens={"/api/": tokens[0], ORGANISER: tokens[1]})


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse({"error": refusal.why}, refusal.status)


def _asset(file: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    theme = files("preftune.report").joinpath("theme.css").read_text(encoding="utf-8") if kind == "text/css" else ""
    content = theme + files(__package__).joinpath(file).read_text(encoding="utf-8")

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _json(answer: Callable[[Asked], Mapping[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise Refusal(400, "is no JSON") from None
        if not isinstance(asked, dict):
            raise Refusal(400, "is no JSON object")
        return JSONResponse(await run_in_threadpool(answer, asked))

    return answered


def _next(desk: Desk, asked: Asked, name: str) -> Mapping[str, Any]:
    if not asked.get("by") and not name:
        return {"by": "", "pairs": [], "votes": 0, "skips": 0}  # the page asks, and comes again
    person = _name(asked, name)
    have = asked.get("have", [])
    if not isinstance(have, list) or len(have) > MOST_HELD or not all(isinstance(one, str) for one in have):
        raise Refusal(400, "`have` must be the names of a few pairs")
    pairs = desk.offer(person, max(AHEAD - len(have), 1), have)
    return {
        "by": person,
        "pairs": [pair_shown(pair, desk.sides(pair, person)) for pair in pairs],
        **desk.counts(person),
    }


def _vote(desk: Desk, asked: Asked) -> Mapping[str, Any]:
    ms = asked.get("ms", 0)
    if not isinstance(ms, int) or isinstance(ms, bool) or not 0 <= ms <= LONGEST_LOOK:
        raise Refusal(400, "`ms` must be a whole number of milliseconds")
    name, pair, kind = (_text(asked, field, ID) for field in ("id", "pair", "kind"))
    winner = _text(asked, "winner", ID) if asked.get("winner") else ""
    try:
        kept = desk.say(Said(name, _name(asked), pair, kind, winner, ms=ms))
    except ValueError as why:
        raise Refusal(400, str(why)) from None
    counts = desk.counts(kept.person)
    return {"kept": kept.id, "pair": kept.pair, "kind": kept.kind, "winner": kept.winner, **counts}


def _undo(desk: Desk, asked: Asked) -> Mapping[str, Any]:
    person = _name(asked)
    pair = desk.undo(person, _text(asked, "id", ID))
    return {"pairs": [pair_shown(pair, pair.sides(person))] if pair else [], **desk.counts(person)}


def _leave_out(desk: Desk, asked: Asked, standing: Standing) -> Mapping[str, Any]:
    out = asked.get("out")
    if not isinstance(out, bool):
        raise Refusal(400, "`out` must be true or false")
    try:
        desk.leave_out(_name(asked), out, _text(asked, "id", ID))
    except ValueError as why:
        raise Refusal(400, str(why)) from None
    return standing()


def _pair(desk: Desk, asked: Asked) -> Any:
    pair = desk.pair(_text(asked, "pair", ID))
    if pair is None:
        raise Refusal(400, "there is no such pair")
    return pair


def _name(asked: Asked, default: str = "") -> str:
    """The name of whoever asks, with spaces made even."""
    text = asked.get("by") or default
    name = " ".join(unicodedata.normalize("NFC", text).split()) if isinstance(text, str) else ""
    if not 0 < len(name) <= NAME or not name.isprintable():
        raise Refusal(400, f"say who you are: a name of 1 to {NAME} letters")
    return name


def _text(asked: Asked, name: str, most: int) -> str:
    text = asked.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= most or not text.isprintable():
        raise Refusal(400, f"`{name}` must be a text of 1 to {most} letters")
    return text
