"""An endpoint as a judge, against a server that misbehaves: what is counted, what is paid, where the key goes."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from textwrap import dedent

import pytest
from fake_endpoint import MODEL, Served, better, chat, question, serving, sure

from preftune.errors import UserError
from preftune.judges import Budget, Contest, Endpoint, Estimate, Opinion, open_endpoint, parse_budget, read_wording
from preftune.judges.calls import KEY, Patience
from preftune.judges.endpoint import BARREN, SILENT
from preftune.judges.kept import Kept

SECRET = "sk-judge-0123456789abcdefghij"
PROSE = "the last line is no letter alone"


def contests(count: int, *, prompt: str = "Prompt {}.") -> list[Contest]:
    """Contests of a good and a bad response, the good one in either place."""
    pairs = [("A good one.", "A bad one."), ("A bad one.", "A good one.")]
    return [Contest(prompt.format(n), *pairs[n % 2]) for n in range(count)]


def with_logprobs(body: dict) -> Served:
    """A server with log-probs whose model prefers what is good in 90%."""
    letter = better(body)
    return Served(body=sure(letter, {letter: 0.9, "AB".replace(letter, ""): 0.1}))


@pytest.fixture
def judge_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Endpoint]:
    """Opens an endpoint that does not wait between tries; `.waits` has how long it would have."""
    monkeypatch.delenv(KEY, raising=False)

    def opened(url: str, **options) -> Endpoint:
        waits: list[float] = []
        judge = open_endpoint(url, MODEL, **{"folder": tmp_path / "judge", "pause": waits.append, **options})
        judge.waits = waits
        return judge

    return opened


Opens = Callable[..., Endpoint]


def test_both_orders_are_asked_and_told_of_the_same_response(judge_of: Opens) -> None:
    with serving(lambda body, times: with_logprobs(body)) as server:
        opinions = judge_of(server.url).prefer(contests(10))
        assert [o.preference for o in opinions] == pytest.approx([0.9, 0.1] * 5)
        assert sum(server.paid.values()) == len(server.paid) == 20
    for body in server.bodies:
        assert body["temperature"] == 0 and body["logprobs"] and "response_format" not in body
        assert body["messages"][0]["role"] == "system"


def test_a_first_slot_judge_is_undecided(judge_of: Opens) -> None:
    with serving(lambda body, times: Served(body=sure("A", {"A": 0.8, "B": 0.2}))) as server:
        [opinion] = judge_of(server.url).prefer(contests(1))
    assert (opinion.first, opinion.second) == pytest.approx((0.8, 0.2)) and opinion.preference == pytest.approx(0.5)


def test_without_log_probs_it_asks_for_json(judge_of: Opens) -> None:
    """The first answer, which shows that there are none, is all that is paid beside the questions."""
    text = {"asked": '{"verdict": "tie"}', "first": "A"}
    with serving(lambda body, _: Served(body=chat(text["asked" if "response_format" in body else "first"]))) as server:
        judge = judge_of(server.url)
        assert {o.preference for o in judge.prefer(contests(5))} == {0.5}
        assert sum(server.paid.values()) == 10 + 1 and judge.read == {"JSON": 10}
        judge_of(server.url).prefer(contests(7))
        assert sum(server.paid.values()) == 14 + 1, "who goes on asks in the same way"


def test_a_server_that_ignores_all_of_it_is_read_by_the_last_line(judge_of: Opens) -> None:
    with serving(lambda body, _: Served(body=chat(f' "{better(body).lower()}"'))) as server:
        judge = judge_of(server.url)
        assert [o.preference for o in judge.prefer(contests(4))] == [1, 0, 1, 0]
        assert judge.read == {"last line": 8}


@pytest.mark.parametrize(
    ("refused", "asked"),
    [
        (lambda body: body.get("top_logprobs", 0) > 5, {"logprobs", "top_logprobs"}),
        (lambda body: "logprobs" in body, {"response_format"}),
        (lambda body: "logprobs" in body or "response_format" in body, set()),
    ],
)
def test_what_a_server_does_not_take_is_left_out(judge_of: Opens, refused: Callable, asked: set[str]) -> None:
    def answer(body: dict, times: int) -> Served:
        return Served(400, {"error": {"message": "unknown parameter"}}) if refused(body) else with_logprobs(body)

    with serving(answer) as server:
        assert {o.why for o in judge_of(server.url).prefer(contests(4))} == {""}
        assert set(server.bodies[-1]) - {"model", "messages", "temperature", "max_tokens"} == asked
        assert sum(server.paid.values()) == 8, "a refusal is not paid"


TROUBLE: dict[str, tuple[Served, str]] = {
    "empty": (Served(body=chat("")), "the answer is empty"),
    "refusal": (Served(body=chat(None, refusal="No.")), "the judge refused"),
    "prose": (Served(body=chat("As an assistant, I find A and B alike.")), PROSE),
    "both": (Served(body=chat("A or B")), "the answer has both letters"),
    "cut": (Served(body=b'{"choices": [{"message": {"content": "A"'), "the answer is no whole JSON"),
    "long": (Served(body=chat("A", finish="length")), "the answer was cut off"),
    "filter": (Served(body=chat("A", finish="content_filter")), "a content filter stopped the answer"),
    "other": (Served(body=chat("A", model="judge-1-mini")), "another model answered"),
    "error": (Served(body={"error": {"message": "overloaded"}}), "the answer has no text"),
    "500": (Served(500, {}), "HTTP 500"),
    "429": (Served(429, {}), "HTTP 429"),
    "too large": (Served(413, {}), "HTTP 413"),
    "hangs up": (Served(0), "the connection failed"),
    "short": (Served(body=b"{}", headers={"Content-Length": "9"}), "the connection failed"),
}


def test_every_trouble_is_counted_by_its_reason_and_none_is_a_tie_or_kept(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        trouble = re.search(r"trouble: (.*);", question(body))
        return TROUBLE[trouble[1]][0] if trouble else with_logprobs(body)

    troubled = [Contest(f"trouble: {name};", "good", "bad") for name in TROUBLE]
    with serving(answer) as server:
        judge = judge_of(server.url, patience=Patience(tries=2), at_once=1)
        mixed = [one for n, trouble in enumerate(troubled) for one in (contests(n + 1)[n], trouble)]
        opinions = judge.prefer(mixed)
        assert [o.why for o in opinions[1::2]] == [why for _, why in TROUBLE.values()]
        assert all(o.preference is None for o in opinions[1::2])
        assert all(o.preference is not None for o in opinions[::2])
        with sqlite3.connect(judge.kept.path) as database:
            assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (2 * len(troubled),)
        database.close()
        assert judge.estimate(mixed).calls == 2 * len(TROUBLE), "what failed is asked again next time"


def test_a_hang_is_no_verdict_and_the_rest_is_answered(judge_of: Opens) -> None:
    never = threading.Event()
    hung = Contest("hang", "good", "bad")
    answer = lambda body, _: Served(0, hold=never) if "hang" in question(body) else with_logprobs(body)  # noqa: E731
    with serving(answer) as server:
        opinions = judge_of(server.url, patience=Patience(tries=1, timeout=1.0)).prefer([*contests(2), hung])
        never.set()
    assert [o.why for o in opinions] == ["", "", "no answer in time"]
    assert sum(server.paid.values()) == 4


def test_an_answer_that_never_ends_is_late(judge_of: Opens) -> None:
    """Each byte comes in time, and their sum does not."""

    def answer(body: dict, times: int) -> Served:
        return Served(body=b" " * 90, drip=0.05, headers={"Content-Length": "100"})

    with serving(answer) as server:
        began = time.monotonic()
        [opinion] = judge_of(server.url, patience=Patience(tries=1, timeout=0.3)).prefer(contests(1))
    assert opinion.why == "no answer in time" and time.monotonic() - began < 5


def test_one_order_that_fails_takes_the_verdict_and_the_other_stays(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        return with_logprobs(body) if better(body) == "A" or times else Served(body=chat("Well, B I think"))

    with serving(answer) as server:
        [opinion] = judge_of(server.url).prefer(contests(1))
        assert opinion == Opinion(pytest.approx(0.9), None, PROSE) and opinion.preference is None
        [opinion] = judge_of(server.url).prefer(contests(1))
        assert opinion.preference == pytest.approx(0.9) and sum(server.came.values()) == 3


def test_it_waits_as_long_as_it_is_told_and_else_longer_each_time(judge_of: Opens) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    headers = [{"Retry-After": "7"}, {"Retry-After": date}, {"Retry-After": "9999"}, {"Retry-After": "soon"}, {}]

    def answer(body: dict, times: int) -> Served:
        statuses = (429, 503, 408, 409, 500)
        return Served(statuses[times], {}, headers[times]) if times < len(headers) else with_logprobs(body)

    with serving(answer) as server:
        judge = judge_of(server.url, at_once=1)
        assert judge.prefer(contests(1))[0].preference == pytest.approx(0.9)
    seconds, dated, capped, fourth, fifth = judge.waits[:5]
    assert 7 <= seconds < 8 and 10 < dated < 31 and capped == 60
    assert 4 <= fourth <= 8 and 8 <= fifth <= 16, "jitter, between half and all of a doubled pause"
    assert judge.meter.calls == 2, "what is refused is not paid"


def test_no_more_than_so_many_at_once(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        time.sleep(0.01)
        return with_logprobs(body)

    with serving(answer) as server:
        judge_of(server.url, at_once=3).prefer(contests(20))
    assert server.most_at_once == 3


def test_a_budget_of_calls_ends_the_asking_and_not_the_answers(judge_of: Opens) -> None:
    with serving(lambda body, times: with_logprobs(body)) as server:
        judge = judge_of(server.url, budget="6")
        opinions = judge.prefer(contests(10))
        assert sum(server.came.values()) == 6
        assert Counter(o.why for o in opinions)["the budget is used up"] >= 7
        assert sum(o.preference is not None for o in opinions) <= 3
        judge_of(server.url, budget="14").prefer(contests(10))
        assert sum(server.came.values()) == 20 == len(server.paid)


def test_a_budget_of_tokens_goes_by_what_the_server_says(judge_of: Opens) -> None:
    with serving(lambda body, times: with_logprobs(body)) as server:
        judge = judge_of(server.url, budget=Budget(1000, tokens=True), at_once=1)
        judge.prefer(contests(10))
    assert judge.meter.tokens <= 1000 and judge.meter.tokens == 100 * sum(server.came.values()) > 0


@pytest.mark.parametrize("text", ["", "0", "-1", "1e6", "500k tokens", "tokens", "5 tokens", "²"])
def test_a_budget_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"--judge-budget .*2000.*500000tokens"):
        parse_budget(text)
    assert parse_budget("2000") == Budget(2000) and parse_budget("500000tokens") == Budget(500000, tokens=True)
    assert str(Budget(500000, tokens=True)) == "500,000 tokens"


def test_equal_texts_are_one_question_and_what_is_kept_is_none(judge_of: Opens) -> None:
    same = Contest("Prompt.", "good bad", "good bad")
    with serving(lambda body, times: with_logprobs(body)) as server:
        judge = judge_of(server.url)
        asked = [*contests(3), *contests(3), same]
        before = judge.estimate(asked)
        assert (before.calls, before.kept) == (7, 0) and 7 * 100 < before.tokens < 7 * 500
        assert judge.prefer(asked)[-1].preference == pytest.approx(0.5)
        assert judge_of(server.url).estimate(asked) == Estimate(0, 0, 7)
        assert sum(server.came.values()) == 7


def test_a_fresh_opinion_is_asked_and_not_kept(judge_of: Opens) -> None:
    with serving(
        lambda body, times: Served(body=sure("A", {"A": 0.6 + 0.1 * times, "B": 0.4 - 0.1 * times}))
    ) as server:
        judge = judge_of(server.url)
        told = [judge.prefer(contests(1), fresh=fresh)[0].first for fresh in (True, False, True, False)]
    assert told == pytest.approx([0.6, 0.7, 0.8, 0.7]), "only the second was kept"


def test_another_template_model_or_server_is_another_question(judge_of: Opens, tmp_path: Path) -> None:
    template = tmp_path / "mine.txt"
    template.write_text("$prompt\n$first\n$second\nA or B?", encoding="utf-8")
    with serving(lambda body, times: with_logprobs(body)) as server:
        judge = judge_of(server.url)
        judge.prefer(contests(1))
        judge_of(f"{server.url}/", wording=read_wording(template)).prefer(contests(1))
        judge_of(server.url.replace("/v1", "/v2")).prefer(contests(1))
        open_endpoint(server.url, f"{MODEL}-latest", folder=tmp_path / "judge").prefer(contests(1))
        assert sum(server.came.values()) == 8
        judge_of(f"{server.url}/chat/completions").prefer(contests(1))
        assert sum(server.came.values()) == 8, "the same server by another spelling"
        for version in ("v1", "v2"):  # both are settled by now
            judge_of(server.url.replace("v1", version)).prefer(contests(2))
        assert sum(server.came.values()) == 12
    assert judge.identity == {
        "endpoint": f"127.0.0.1:{server.server_port}/v1",
        "model": MODEL,
        "template": "default",
        "template_version": read_wording().version,
        "temperature": 0,
        "max_tokens": 24,
    }


def test_texts_of_any_kind_are_asked(judge_of: Opens) -> None:
    with serving(lambda body, times: with_logprobs(body)) as server:
        odd = Contest("half a pair \ud800, a NUL \0, $prompt", "good 😀", "bad \u202e")
        assert judge_of(server.url).prefer([odd])[0].preference == pytest.approx(0.9)


def test_a_server_that_is_down_is_named_at_once(judge_of: Opens) -> None:
    with serving(lambda body, times: Served()) as server:
        url = server.url
    judge = judge_of(url)
    with pytest.raises(UserError, match=rf"--judge {url}: cannot be reached .*refused"):
        judge.prefer(contests(5))
    assert judge.waits == [] and judge.meter.calls == 0


@pytest.mark.parametrize(
    ("status", "says"), [(401, f"set {KEY}"), (402, KEY), (403, KEY), (404, "--judge-model"), (410, "check the URL")]
)
def test_what_concerns_all_questions_ends_it_with_a_line(judge_of: Opens, status: int, says: str) -> None:
    with serving(lambda body, times: Served(status, {"error": {"message": "no\nsuch thing"}})) as server:
        with pytest.raises(UserError, match=rf"{server.url}: HTTP {status} \('no such thing'\); .*{says}"):
            judge_of(server.url).prefer(contests(20))
        assert sum(server.came.values()) == 1


def test_a_server_that_never_answers_is_left_with_its_own_words(judge_of: Opens) -> None:
    refusal = Served(400, {"error": {"message": "temperature must be 1"}})
    says = rf"{SILENT} questions in a row .*HTTP 400 \('temperature must be 1'\)"
    with serving(lambda body, times: refusal) as server, pytest.raises(UserError, match=says):
        judge_of(server.url).prefer(contests(100))


def test_a_server_that_stops_answering_is_left_and_loses_nothing(judge_of: Opens) -> None:
    up = True

    def answer(body: dict, times: int) -> Served:
        return with_logprobs(body) if up and len(server.bodies) <= 12 else Served(502, {})

    with serving(answer) as server:
        with pytest.raises(UserError, match=f"{SILENT} questions in a row .*HTTP 502.*run the same again"):
            judge_of(server.url, at_once=1, patience=Patience(tries=2)).prefer(contests(50))
        assert sum(server.paid.values()) == 12
        server.answer = lambda body, times: with_logprobs(body)
        judge_of(server.url).prefer(contests(50))
        assert sum(server.paid.values()) == 100


def test_a_judge_that_never_gives_a_verdict_is_not_paid_on(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        return Served(body=chat("A", finish="length") if "Prompt 7." in question(body) else chat("Well, A and B"))

    with serving(answer) as server:
        with pytest.raises(UserError, match=rf"first {BARREN} answers .*\(in \d+, {PROSE}\); .*--judge-template"):
            judge_of(server.url).prefer(contests(100))
        assert sum(server.came.values()) <= BARREN + 8


def test_one_verdict_is_enough_to_go_on(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        return with_logprobs(body) if "Prompt 5." in question(body) else Served(body=chat("Well."))

    with serving(answer) as server:
        for count in (60, 70):  # the second time that verdict is a kept one
            opinions = judge_of(server.url, at_once=1).prefer(contests(count))
            assert Counter(o.why for o in opinions) == {"": 1, PROSE: count - 1}


def test_a_question_that_is_too_long_does_not_stop_the_others(judge_of: Opens) -> None:
    def answer(body: dict, times: int) -> Served:
        return Served(400, {"error": {"message": "context"}}) if "huge" in question(body) else with_logprobs(body)

    with serving(answer) as server:
        asked = [*contests(1), *(Contest(f"huge {n}", "good", "bad") for n in range(20)), *contests(2)]
        opinions = judge_of(server.url, at_once=1).prefer(asked)
    assert Counter(o.why for o in opinions) == {"HTTP 400": 20, "": 3}


def test_the_key_goes_to_the_server_and_nowhere_else(
    judge_of: Opens, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with serving(lambda body, times: with_logprobs(body)) as target, serving(with_key_in_words) as server:
        judge = judge_of(server.url)
        monkeypatch.setenv(KEY, f" {SECRET}\n")
        judge.prefer(contests(2))
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}
        for status in (301, 302, 303, 307, 308):
            where = f"http://127.0.0.1:{target.server_port}/v1/chat/completions"
            server.answer = lambda body, times, s=status, w=where: Served(s, {}, {"Location": f"{w}?key={SECRET}"})
            with pytest.raises(UserError, match=rf"redirects to http://127.0.0.1:{target.server_port}/v1, ") as caught:
                judge.prefer(contests(9))
            assert SECRET not in str(caught.value)
        assert target.headers == [], "nothing reaches the target, with a key or without"
        server.answer = lambda body, times: Served(401, {"error": {"message": f"wrong key {SECRET}"}})
        with pytest.raises(UserError, match="wrong key …") as caught:
            judge.prefer(contests(9))
    shown = (repr(judge), str(vars(judge)), judge.announce(), judge.description, str(judge.identity))
    assert SECRET not in "".join([*shown, str(caught.value), *capsys.readouterr()])
    assert all(SECRET.encode() not in path.read_bytes() for path in judge.kept.path.parent.iterdir())


def with_key_in_words(body: dict, times: int) -> Served:
    """A server that repeats the key wherever it can."""
    reply = with_logprobs(body).body
    return Served(body={**reply, "system_fingerprint": SECRET}, headers={"X-Key": SECRET})


@pytest.mark.parametrize("key", ["sk-ключ", "sk\nX-Other: 1"])
def test_a_key_that_no_header_takes_is_refused_unseen(
    judge_of: Opens, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv(KEY, key)
    with pytest.raises(UserError) as caught:
        judge_of("https://judge.example/v1")
    assert str(caught.value).startswith(KEY) and key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://judge.example/v1", "unencrypted"),
        ("http://10.0.0.1/v1", "unencrypted"),
        (f"https://me:{SECRET}@judge.example/v1", "no key may stand in it"),
        (f"https://judge.example/v1?key={SECRET}", "no key may stand in it"),
        ("judge.example/v1", "give the URL of an endpoint"),
        ("ftp://judge.example/v1", "give the URL of an endpoint"),
        ("https://", "give the URL of an endpoint"),
        ("https://judge.example:port/v1", "not a URL"),
    ],
)
def test_a_url_that_is_none_or_would_tell_the_key(
    judge_of: Opens, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    with pytest.raises(UserError, match=says) as caught:
        judge_of(url)
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_a_key_may_go_encrypted_or_to_this_machine(judge_of: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    for url in ("https://judge.example/v1", "http://localhost:1/v1", "http://127.0.0.9/v1", "http://[::1]:1/v1"):
        assert "with the key" in judge_of(url).announce()
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    with serving(lambda body, times: with_logprobs(body)) as server:
        assert judge_of(server.url).prefer(contests(1))[0].preference == pytest.approx(0.9), "no proxy sees it"


def test_without_a_key_none_is_sent_and_it_says_which_texts_leave(
    judge_of: Opens, capsys: pytest.CaptureFixture
) -> None:
    with serving(lambda body, times: with_logprobs(body)) as server:
        judge = judge_of(server.url)
        judge.prefer(contests(1))
        judge.prefer(contests(2))
        assert capsys.readouterr().err.count(judge.announce()) == 1
        judge_of(server.url).prefer(contests(2))
        assert judge.announce() not in capsys.readouterr().err, "nothing left"
    assert all("Authorization" not in headers for headers in server.headers)
    assert "on this machine, without a key" in judge.announce()
    assert "leave this machine for judge.example (http://judge.example/v1), unencrypted" in (
        judge_of("http://judge.example/v1").announce()
    )
    assert "responses" in judge_of("https://judge.example/v1").announce()


def test_of_two_that_ask_side_by_side_the_first_answer_stays(tmp_path: Path) -> None:
    one, other = Kept(tmp_path), Kept(tmp_path)
    one.add(b"question", 0.2, "JSON")
    other.add(b"question", 0.9, "last line")
    assert one.answer(b"question") == other.answer(b"question") == (0.2, "JSON")


def test_a_cache_that_is_damaged_is_named(judge_of: Opens, tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "answers.sqlite").write_text("no database, and longer than a header of one" * 50)
    with pytest.raises(UserError, match=r"answers\.sqlite: cannot be used .*move it away"):
        judge_of("https://judge.example/v1")


CHILD = """
    import sys
    from pathlib import Path
    sys.path[:0] = {path!r}
    from test_endpoint import MODEL, contests
    from preftune.judges import open_endpoint
    open_endpoint({url!r}, MODEL, folder=Path({folder!r})).prefer(contests(30))
"""


def test_killed_in_the_middle_it_goes_on_and_pays_for_nothing_twice(judge_of: Opens, tmp_path: Path) -> None:
    never, stuck = threading.Event(), 25

    def answer(body: dict, times: int) -> Served:
        return Served(0, hold=never) if len(server.bodies) > stuck else with_logprobs(body)

    with serving(answer) as server:
        path = [str(Path(__file__).parent), *sys.path]
        script = dedent(CHILD).format(path=path, url=server.url, folder=str(tmp_path / "judge"))
        child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, KEY: ""})
        wait_until(lambda: server.waiting == 8 or child.poll() is not None)  # so all before is kept
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        never.set()
        server.answer = lambda body, times: with_logprobs(body)
        paid = sum(server.paid.values())
        opinions = judge_of(server.url).prefer(contests(30))
        assert paid >= stuck - 8 and sum(server.paid.values()) == len(server.paid) == 60
    assert [o.preference for o in opinions] == pytest.approx([0.9, 0.1] * 15)


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")
