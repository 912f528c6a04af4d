"""The page in Chromium: a whole session by keyboard, offline and back, long texts, a narrow screen, a screen reader."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from people_server import ORGANISER, TOKEN, serving
from report_pages import HOSTILE

from preftune.people.pairs import BOTH_BAD, TIE, Pair, in_order, named
from preftune.people.store import SKIP, UNDO, VOTE

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests: playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="browser tests: axe is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("browser tests: no Chromium on the PATH", allow_module_level=True)

DESK, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 740}
LONG = "\n\n".join(f"Paragraph {k} of a text that is long enough to be scrolled." for k in range(60))


def make_pairs() -> tuple[Pair, ...]:
    texts = [(f"Ask {k}", f"One answer to {k}", f"Another answer to {k}") for k in range(20)]
    return in_order(Pair(named(*one), one[0], one[1:]) for one in texts)


@dataclass
class Opened:
    """A page in a browser, with everything that it complained about, and the store behind it."""

    page: Any
    store: Any
    complaints: list[str] = field(default_factory=list)

    def press(self, key: str) -> None:
        """Press it where a pair is shown: without one it does nothing."""
        self.page.locator("#pair").wait_for()
        self.page.keyboard.press(key)

    def said(self) -> list[tuple[str, str]]:
        return [(said.kind, said.winner) for said in self.store.log()]

    def counted(self, text: str) -> None:
        sync_api.expect(self.page.locator("#count")).to_have_text(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Any]:
    closing: list[Any] = []

    def opened(pairs: tuple[Pair, ...], viewport: dict[str, int] = DESK, name: str = "ann", **how: Any) -> Opened:
        running = serving(tmp_path / "votes.sqlite", pairs)
        address, store = running.__enter__()
        context = browser.new_context(viewport=viewport, **how)
        closing.extend([lambda: running.__exit__(None, None, None), context.close])
        found = Opened(context.new_page(), store)
        found.page.set_default_timeout(10_000)
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
        found.page.goto(f"{address}/#{TOKEN}")
        found.page.get_by_label("Your name").fill(name)
        found.page.keyboard.press("Enter")
        found.page.locator("#pair").wait_for()
        return found

    yield opened
    for close in reversed(closing):
        close()


def test_ten_pairs_by_keyboard(visit: Any) -> None:
    opened = visit(make_pairs())
    shown = []
    for key in ("1", "2", "0", "b", "s", "1", "Backspace", "2", "1", "1", "2"):
        opened.page.locator("#pair").wait_for()
        if key != "Backspace":
            shown.append(opened.page.locator("#sides .pane").all_text_contents())
        opened.press(key)
    opened.counted("ann: 8 votes, 1 skipped")
    assert shown[6] == shown[5], "taken back, it is shown again, on the same sides"
    kinds = [VOTE, VOTE, VOTE, VOTE, SKIP, VOTE, UNDO, VOTE, VOTE, VOTE, VOTE]
    assert [said.kind for said in opened.store.log()] == kinds
    pairs = {pair.id: pair for pair in make_pairs()}
    votes = [said for said in opened.store.log() if said.kind == VOTE]
    lefts = [said.winner == said.left for said in votes if said.winner not in (TIE, BOTH_BAD)]
    assert lefts == [True, False, True, False, True, True, False]
    for said, (left, _) in zip((one for one in opened.store.log() if one.kind != UNDO), shown, strict=True):
        pair = pairs[said.pair]
        assert pair.texts[pair.names.index(said.left)] == left.strip(), "what is kept is what stood there"
    assert len({said.pair for said in opened.store.standing()}) == 9 and opened.complaints == []


def test_votes_given_offline_wait_and_are_sent_once(visit: Any) -> None:
    opened = visit(make_pairs())
    opened.page.context.set_offline(True)
    opened.page.keyboard.press("1")
    banner = opened.page.get_by_role("alert")
    sync_api.expect(banner).to_contain_text("No connection. 1 of yours wait here")
    opened.page.keyboard.press("2")  # the next pair was there already
    sync_api.expect(opened.page.locator("#count")).to_contain_text("2 on the way")
    assert opened.said() == []
    opened.page.context.set_offline(False)
    opened.counted("ann: 2 votes")
    sync_api.expect(banner).to_be_hidden()
    assert len(opened.said()) == 2


def test_a_vote_that_was_not_acknowledged_outlives_its_page_and_is_kept_once(visit: Any) -> None:
    opened = visit(make_pairs())
    context, address = opened.page.context, opened.page.url
    context.route("**/api/vote", lambda route: route.abort())
    opened.press("1")
    sync_api.expect(opened.page.get_by_role("alert")).to_contain_text("1 of yours wait here")
    context.unroute("**/api/vote")
    later = context.new_page()
    later.goto(address)
    later.get_by_role("button", name="Begin").click()
    sync_api.expect(later.locator("#count")).to_have_text("ann: 1 votes")
    opened.counted("ann: 1 votes")
    assert len(opened.said()) == 1


def test_a_link_that_lets_nobody_in_says_so_and_drops_no_vote(visit: Any) -> None:
    opened = visit(make_pairs())
    shut = {"status": 401, "content_type": "application/json", "body": '{"error": "the link is not complete"}'}
    opened.page.route("**/api/vote", lambda route: route.fulfill(**shut))
    opened.press("1")
    banner = opened.page.get_by_role("alert")
    sync_api.expect(banner).to_contain_text("Not let in: the link is not complete. 1 of yours wait here")
    opened.page.unroute("**/api/vote")
    opened.counted("ann: 1 votes")
    sync_api.expect(banner).to_be_hidden()


def test_a_page_that_is_loaded_again_goes_on_where_it_was(visit: Any) -> None:
    opened = visit(make_pairs())
    opened.page.keyboard.press("1")
    opened.counted("ann: 1 votes")
    prompt = opened.page.locator("#prompt").text_content()
    opened.page.reload()
    opened.page.get_by_role("button", name="Begin").click()
    opened.counted("ann: 1 votes")
    assert opened.page.locator("#prompt").text_content() == prompt


def test_long_texts_scroll_together_expand_and_are_compared(visit: Any) -> None:
    other = LONG.replace("Paragraph 7 ", "Section 7 ")
    opened = visit((Pair("p", "Which?", (LONG, other)),))
    panes = opened.page.locator("#sides .pane")
    panes.first.hover()
    opened.page.mouse.wheel(0, 900)
    sync_api.expect(panes.nth(1)).not_to_have_js_property("scrollTop", 0)
    tops = [pane.evaluate("pane => pane.scrollTop") for pane in panes.all()]
    assert tops[0] > 300 and abs(tops[0] - tops[1]) < 20
    heights = [panes.first.bounding_box()["height"]]
    opened.page.keyboard.press("e")
    heights.append(panes.first.bounding_box()["height"])
    assert heights[0] < DESK["height"] and heights[1] > 3 * heights[0]
    opened.page.keyboard.press("d")
    sync_api.expect(opened.page.locator("#sides ins, #sides del")).to_have_count(2)
    assert sorted(opened.page.locator("#sides ins, #sides del").all_text_contents()) == ["Paragraph", "Section"]
    opened.page.keyboard.press("d")
    sync_api.expect(opened.page.locator("#sides ins, #sides del")).to_have_count(0)
    assert opened.complaints == []


def test_a_text_that_is_cut_can_be_seen_whole(visit: Any) -> None:
    opened = visit((Pair("p", "Which?", ("word " * 5000 + "END", "short")),))
    sync_api.expect(opened.page.locator("#sides")).to_contain_text("more characters")
    opened.page.keyboard.press("e")
    sync_api.expect(opened.page.locator("#sides")).to_contain_text("word END")


def test_no_hostile_text_acts(visit: Any) -> None:
    texts = zip(HOSTILE[::9], HOSTILE[1::9], strict=False)
    opened = visit(in_order(Pair(named(*each), each[0], each) for each in texts))
    requests: list[str] = []
    opened.page.on("request", lambda request: requests.append(request.url))
    for _ in range(12):
        opened.press("d")
        opened.page.get_by_role("button", name="skip").click()
    sync_api.expect(opened.page.locator("#count")).to_contain_text("12 skipped")
    assert opened.page.evaluate("window.pwned") is None and opened.complaints == []
    assert opened.page.locator("#pair :is(script, img, iframe, a, style, base, meta, link, svg)").count() == 0
    assert {re.sub(r"^http://[\d.:]+/", "", one) for one in requests} <= {"api/next", "api/vote", "api/whole"}


@pytest.mark.parametrize(("viewport", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light")])
def test_it_is_fit_for_a_screen_reader_and_a_narrow_screen(visit: Any, viewport: Any, scheme: str) -> None:
    markdown = (
        "# Head\n\nText with `code`\n\n```python\nlong = " + "1 + " * 60 + "1\n```\n\n| a | b |\n|--|--|\n| 1 | 2 |"
    )
    opened = visit((Pair("p", "Which?", (markdown, "مرحبا بالعالم")),), viewport, color_scheme=scheme)
    found = axe.Axe().run(opened.page)
    assert [one["id"] for one in found.response["violations"]] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    arabic = opened.page.get_by_text("مرحبا بالعالم")
    assert arabic.evaluate("one => getComputedStyle(one).unicodeBidi") == "plaintext"
    for button in opened.page.get_by_role("button").all():
        assert button.bounding_box()["height"] >= 44


def test_at_twice_the_size_nothing_is_cut_off(visit: Any) -> None:
    """200% of a screen of 1280 points is one of 640 points."""
    opened = visit(make_pairs(), {"width": 640, "height": 430})
    assert opened.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    opened.page.get_by_role("button", name="second is better").click()
    opened.counted("ann: 1 votes")


def test_the_organiser_sees_figures_and_nobody_else(visit: Any) -> None:
    opened = visit(make_pairs())
    address = opened.page.url.split("/#")[0]
    for token, told in ((ORGANISER, "How it stands"), (TOKEN, "the link is not complete")):
        opened.page.goto("about:blank")
        opened.page.goto(f"{address}/organiser#{token}")
        sync_api.expect(opened.page.locator("body")).to_contain_text(told)


def test_the_organiser_leaves_a_person_out_by_keyboard(visit: Any) -> None:
    opened = visit(make_pairs())
    opened.press("1")
    opened.counted("ann: 1 votes")
    address = opened.page.url.split("/#")[0]
    opened.page.goto("about:blank")
    opened.page.goto(f"{address}/organiser#{ORGANISER}")
    opened.page.get_by_role("button", name="leave out: ann").focus()
    opened.page.keyboard.press("Enter")
    sync_api.expect(opened.page.locator("#people")).to_contain_text("left out")
    sync_api.expect(opened.page.locator("#count")).to_contain_text("0 votes")
    assert opened.store.left_out() == {"ann"}
    sync_api.expect(opened.page.get_by_role("button", name="count again: ann")).to_be_focused()
    assert [one["id"] for one in axe.Axe().run(opened.page).response["violations"]] == [] and opened.complaints == []
