"""The pages in process: who gets in, what is answered, and that no text of a stranger acts in what is served."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_pages import HOSTILE
from starlette.testclient import TestClient

from preftune.people.desk import Desk
from preftune.people.guard import AT_ONCE, LARGEST, Rate, host_of
from preftune.people.pairs import Pair, in_order, named
from preftune.people.server import make_app
from preftune.people.serving import Address
from preftune.people.showing import MOST, pair_shown, rendered, whole
from preftune.people.store import Store
from preftune.text import harmless

VOTER, ORGANISER = "v" * 32, "o" * 32
HERE = "http://localhost:8787"
ALLOWED = {"p", "br", "hr", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "h3", "h4", "h5", "h6"} | {
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


def hostile_pairs() -> tuple[Pair, ...]:
    texts = zip(HOSTILE, HOSTILE[1:], HOSTILE[2:], strict=False)
    return in_order(Pair(named(*each), each[0], each[1:]) for each in texts if each[1] != each[2])


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "votes.sqlite") as store:
        yield Desk(store, hostile_pairs())


@pytest.fixture
def client(desk: Desk) -> TestClient:
    return client_of(desk)


def client_of(desk: Desk, address: Address = Address(), name: str = "") -> TestClient:  # noqa: B008 (frozen)
    app = make_app(desk, lambda: {"votes": 7}, tokens=(VOTER, ORGANISER), hosts=address.names, name=name)
    return TestClient(app, base_url=HERE)


def post(client: TestClient, path: str, body: Any, token: str | None = VOTER, **headers: str) -> Any:
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return client.post(path, json=body, headers=headers)


def vote_of(shown: Any, **more: Any) -> dict[str, Any]:
    """A vote for the left response."""
    vote = {"id": "1", "by": "ann", "pair": shown["pair"], "kind": "vote", "winner": shown["sides"][0]["name"]}
    return vote | {"ms": 1234} | more


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "", ORGANISER, VOTER[:-1], VOTER + "v", "é"])
def test_without_the_token_of_the_link_nothing_is_told(client: TestClient, token: str | None) -> None:
    headers = {} if token is None else {"authorization": f"Bearer {token}".encode()}
    for path in ("/api/next", "/api/vote", "/api/undo", "/api/whole", "/api/none"):
        assert client.post(path, json={"by": "ann"}, headers=headers).status_code == 401
    assert post(client, "/organiser/api/standing", {}, VOTER).status_code == 401
    assert post(client, "/organiser/api/leave-out", {"by": "ann", "out": True, "id": "1"}, VOTER).status_code == 401
    assert post(client, "/organiser/api/standing", {}, ORGANISER).json() == {"votes": 7}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8787", "", "192.168.0.7", "127.0.0.1.nip.io"])
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    """As of a name that a stranger's name service lets lead here (DNS rebinding)."""
    for path in ("/", "/page.js"):
        assert client.get(path, headers={"host": host}).status_code == 421
    assert post(client, "/api/next", {"by": "ann"}, host=host).status_code == 421


@pytest.mark.parametrize("host", ["localhost:8787", "LOCALHOST", "127.0.0.1:9999", "[::1]:8787", "[::1]"])
def test_this_machine_may_be_called_by_its_names_also_through_a_tunnel(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_a_page_for_others_knows_the_addresses_of_its_machine_but_no_other_name(desk: Desk) -> None:
    client = client_of(desk, Address("0.0.0.0"))
    assert client.get("/", headers={"host": "192.168.0.7:8787"}).status_code == 200
    assert client.get("/", headers={"host": "evil.example:8787"}).status_code == 421
    named = client_of(desk, Address("votes.example"))
    assert named.get("/", headers={"host": "votes.example:8787"}).status_code == 200
    assert named.get("/", headers={"host": "192.168.0.7:8787"}).status_code == 421
    assert [host_of(one) for one in ("A:1", "[::1]:1", "::1", "b")] == ["a", "::1", "::1", "b"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://localhost:8787.x"])
def test_a_foreign_origin_is_refused(client: TestClient, origin: str) -> None:
    assert post(client, "/api/next", {"by": "ann"}, origin=origin).status_code == 403


def test_its_own_origin_is_let_in(client: TestClient) -> None:
    assert post(client, "/api/next", {"by": "ann"}, origin=HERE).status_code == 200


def test_ten_megabytes_are_refused_whether_or_not_they_are_announced(client: TestClient, desk: Desk) -> None:
    large = b'{"by": "' + b"x" * 10_000_000 + b'"}'
    headers = {"authorization": f"Bearer {VOTER}", "content-type": "application/json"}
    assert client.post("/api/vote", content=large, headers=headers).status_code == 413
    parts = (large[start : start + 4096] for start in range(0, len(large), 4096))
    assert client.post("/api/vote", content=parts, headers=headers).status_code == 413
    assert client.post("/api/vote", content=b"x" * (LARGEST + 1), headers=headers).status_code == 413
    assert desk.store.log() == []


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b'"a"', b"\xff", b"[" * 5000, b'{"by": 7}', b'{"by": " "}', b'{"by": "a\\u202e"}',
     b'{"by": "\\ud800"}', b'{"by": "' + b"n" * 61 + b'"}', b'{"by": "ann", "have": "x"}',
     b'{"by": "ann", "have": [1]}', b'{"by": "ann", "have": ["1","2","3","4","5","6","7","8","9"]}'],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_a_word(client: TestClient, body: bytes) -> None:
    headers = {"authorization": f"Bearer {VOTER}", "content-type": "application/json"}
    answer = client.post("/api/next", content=body, headers=headers)
    assert answer.status_code == 400 and answer.json()["error"]


def test_a_form_of_another_page_is_refused(client: TestClient) -> None:
    """What a browser sends elsewhere without asking first has another type."""
    headers = {"authorization": f"Bearer {VOTER}", "content-type": "text/plain"}
    assert client.post("/api/next", content=b'{"by": "ann"}', headers=headers).status_code == 415


@pytest.mark.parametrize(
    "wrong",
    [{"ms": -1}, {"ms": 1.5}, {"ms": True}, {"ms": 10**12}, {"winner": "left"}, {"winner": ""}, {"kind": "undo"},
     {"kind": "x"}, {"pair": "none"}, {"id": ""}, {"id": "x" * 65}, {"id": 7}, {"id": "\x00"}, {"by": None}],
)  # fmt: skip
def test_a_vote_that_is_none_is_refused_and_not_kept(client: TestClient, desk: Desk, wrong: dict[str, Any]) -> None:
    (shown, *_) = post(client, "/api/next", {"by": "ann"}).json()["pairs"]
    answer = post(client, "/api/vote", vote_of(shown) | wrong)
    assert answer.status_code == 400 and answer.json()["error"] and desk.store.log() == []


def test_too_many_requests_of_one_address_wait_and_others_do_not() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    assert sum(rate.allows("a") for _ in range(2 * int(AT_ONCE))) == AT_ONCE
    assert rate.allows("b") and not rate.allows("a")
    now[0] = 0.5
    assert rate.allows("a")


def test_every_answer_says_what_a_page_may_do(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/", "/organiser", "/page.js", "/page.css", "/none")]
    answers += [post(client, "/api/next", {"by": "ann"}), post(client, "/api/next", {}, None)]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer" and "set-cookie" not in answer.headers
    for page in answers[:2]:
        assert "<script>" not in page.text and "style=" not in page.text and " on" + "click" not in page.text


# --- what is answered -------------------------------------------------------------------------------------------------


def test_a_vote_is_kept_once_with_what_stood_on_the_left(client: TestClient, desk: Desk) -> None:
    found = post(client, "/api/next", {"by": "  ann  "}).json()
    first, second = found["pairs"]
    assert found["by"] == "ann" and (found["votes"], found["skips"]) == (0, 0)
    answers = [post(client, "/api/vote", vote_of(first)).json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2] and answers[0]["kept"] == "1" and answers[0]["votes"] == 1
    (said,) = desk.store.log()
    assert said.winner == said.left == first["sides"][0]["name"] and said.ms == 1234
    found = post(client, "/api/next", {"by": "ann", "have": [second["pair"]]}).json()
    assert found["votes"] == 1 and {one["pair"] for one in found["pairs"]}.isdisjoint({first["pair"], second["pair"]})


def test_the_organiser_leaves_a_person_out_and_counts_them_again(client: TestClient, desk: Desk) -> None:
    (shown, *_) = post(client, "/api/next", {"by": "ann"}).json()["pairs"]
    post(client, "/api/vote", vote_of(shown))
    for out, name in ((True, "x"), (True, "x"), (False, "y")):
        said = {"by": "ann", "out": out, "id": name}
        assert (
            post(client, "/organiser/api/leave-out", said, ORGANISER, origin="http://evil.example").status_code == 403
        )
        assert post(client, "/organiser/api/leave-out", said, ORGANISER).json() == {"votes": 7}
        assert desk.store.left_out() == (frozenset({"ann"}) if out else frozenset())
    assert [said.kind for said in desk.store.log()] == ["vote", "out", "in"]
    for wrong in ({"by": "bob"}, {"out": "yes"}, {"id": ""}, {"by": ""}):
        said = {"by": "ann", "out": True, "id": "z"} | wrong
        assert post(client, "/organiser/api/leave-out", said, ORGANISER).status_code == 400
    assert len(desk.store.log()) == 3


def test_undo_brings_the_pair_back_and_no_vote(client: TestClient) -> None:
    (shown, *_) = post(client, "/api/next", {"by": "ann"}).json()["pairs"]
    post(client, "/api/vote", vote_of(shown))
    undone = [post(client, "/api/undo", {"by": "ann", "id": "u"}).json() for _ in range(2)]
    assert undone == [{"pairs": [shown], "votes": 0, "skips": 0}] * 2
    assert post(client, "/api/undo", {"by": "bob", "id": "u"}).json()["pairs"] == []


def test_nobody_sees_what_another_said(client: TestClient, desk: Desk) -> None:
    """After 40 votes by bob, ann is served the same bytes as if there were none of the pairs that are for everybody."""
    for number in range(40):
        (shown, *_) = post(client, "/api/next", {"by": "bob"}).json()["pairs"]
        post(client, "/api/vote", vote_of(shown, by="bob", id=str(number)))
    found = post(client, "/api/next", {"by": "ann"})
    assert "bob" not in found.text and found.json()["votes"] == 0
    pair = desk.pair(found.json()["pairs"][0]["pair"])
    assert pair and found.json()["pairs"][0] == pair_shown(pair, pair.sides("ann"))


def test_one_person_need_not_say_who_they_are(desk: Desk, client: TestClient) -> None:
    assert post(client, "/api/next", {"by": ""}).json() == {"by": "", "pairs": [], "votes": 0, "skips": 0}
    client = client_of(desk, name="ann")
    assert post(client, "/api/next", {"by": ""}).json()["by"] == "ann"


# --- texts of strangers -----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.mark.parametrize("text", [*HOSTILE[::7], "[x](javascript:alert(1))", "![x](//evil/x)", "<//evil/>", "&lt;b&gt;",
                                  "| a |\n|:-:|\n| b |", "# h", ">" * 200 + "deep", "- " * 40 + "deep", "~~~ secret\nx",
                                  "|a|\n|-|\n|b|lost|", "\u202eabc", "[a]: //evil 'x'\n\n[a]"])  # fmt: skip
def test_no_text_acts_and_no_letter_of_it_is_hidden(text: str) -> None:
    found = Tags(rendered(text))
    assert {tag for tag, _ in found.tags} <= ALLOWED
    harmless_attributes = {("dir", "ltr"), ("class", "language")}
    for _, attrs in found.tags:
        attrs = {name: value for name, value in attrs.items() if name != "start"}
        assert all(one in harmless_attributes or str(one[1]).startswith("language-") for one in attrs.items())
    letters = "".join(filter(str.isalpha, found.said))
    assert letters == "".join(filter(str.isalpha, harmless(text)))
    assert not set(found.said) & set("\u202e\u2066\x00\x1b\u200b\ud800")


def test_every_hostile_text_is_served_as_json_without_its_bytes_acting(client: TestClient, desk: Desk) -> None:
    for pair in desk.queue.pairs:
        answer = post(client, "/api/whole", {"pair": pair.id})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
        assert set(answer.json()["texts"]) == set(pair.names)
        json.dumps(pair_shown(pair, pair.sides("ann")), ensure_ascii=False).encode()


def test_a_long_text_is_cut_and_comes_whole_when_it_is_asked_for() -> None:
    pair = Pair("p", "ask", ("word " * 100_000, "short"))
    (long,) = (side for side in pair_shown(pair, pair.sides("ann"))["sides"] if side["more"])
    assert long["more"] == 500_000 - MOST and len(long["html"]) < MOST + 100
    assert whole(pair)["texts"][pair.names[0]] == pair.texts[0]
