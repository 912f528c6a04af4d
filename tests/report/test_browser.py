"""The report in Chromium: it draws, filters, asks nobody for anything, and no text of a stranger acts in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from report_pages import HOSTILE, write_hostile_study
from report_studies import write_full_study, write_large_study
from synthetic_study import write_synthetic_study

from preftune.evidence import read_samples
from preftune.report import write_comparison, write_report
from preftune.text import harmless

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests: playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("browser tests: no Chromium on the PATH", allow_module_level=True)

TEXTS = """cards => cards.map(card => ["none", "ins", "del"].map(without => {
  const said = card.querySelector(".said").cloneNode(true);
  for (const part of said.querySelectorAll(without)) part.remove();
  return said.textContent;
}))"""  # of each answer: all of it, without what is marked as added, without what is marked as gone
HANDLERS = "[...document.querySelectorAll('*')].some(e => e.getAttributeNames().some(name => name.startsWith('on')))"
FOREIGN = "iframe, img, base, object, embed, form, link, body style, meta[http-equiv=refresh]"
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 360, "height": 780}


@dataclass
class Opened:
    """A page in a browser, with everything that it asked for or complained about."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def seen(self, selector: str) -> int:
        return self.page.locator(selector).locator("visible=true").count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    contexts = []

    def opened(path: Path, viewport: dict[str, int] = DESK, **options: Any) -> Opened:
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: (found.complaints.append(dialog.message), dialog.dismiss()))
        found.page.goto(path.as_uri())
        return found

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_full_study(tmp_path_factory.mktemp("full"), prompts=12))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_hostile_study(tmp_path_factory.mktemp("hostile")))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_large_study(tmp_path_factory.mktemp("large"), samples=6))


# --- drawn, quiet, fast -----------------------------------------------------------------------------------------------


def test_every_chart_is_drawn_and_nothing_is_asked_for(full: Path, visit: Any) -> None:
    opened = visit(full)
    for chart in opened.page.locator("svg.chart").locator("visible=true").all():
        box = chart.bounding_box()
        assert box and box["width"] > 150 and box["height"] > 20
        assert chart.locator("path").count() > 0
    assert opened.seen("svg.chart") > 15
    assert opened.requests == [full.as_uri()] and opened.complaints == []


def test_the_answer_stands_on_the_first_screen(full: Path, visit: Any) -> None:
    for viewport in (DESK, PHONE):
        page = visit(full, viewport).page
        for selector in ("h1", ".answer", ".cards .card >> nth=0"):
            box = page.locator(selector).bounding_box()
            assert box and box["y"] + box["height"] < viewport["height"], selector
    frontier = visit(full).page.locator(".frontier svg").first.bounding_box()
    assert frontier and frontier["y"] + frontier["height"] < DESK["height"]


def test_it_can_be_read_without_its_script(full: Path, visit: Any) -> None:
    opened = visit(full, java_script_enabled=False)
    assert opened.seen("svg.chart") > 15 and opened.seen(".answer-card") >= 9
    assert opened.seen("#gallery-controls") == 0 and opened.seen("#downloads") == 0


def test_a_page_of_two_hundred_runs_of_ten_checkpoints_stays_small(large: Path, visit: Any) -> None:
    assert large.stat().st_size < 6_000_000
    opened = visit(large)
    assert opened.count("tr.result") > 200 and opened.complaints == []
    assert opened.page.evaluate("document.querySelectorAll('*').length") < 20_000


# --- filters ----------------------------------------------------------------------------------------------------------


def test_an_arm_is_hidden_everywhere_and_comes_back(full: Path, visit: Any) -> None:
    opened = visit(full)
    before = opened.seen("[data-arm='1']")
    button = opened.page.get_by_role("button", name="ipo", exact=True)
    button.click()
    assert before > 30 and opened.seen("[data-arm='1']") == 0 and opened.seen("[data-arm='0']") > 30
    assert opened.seen(".card[data-arms='0 1']") == 0
    assert opened.page.locator(".answer-card h3", has_text="ipo β").filter(has_not_text="amortized").count() == 0
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert opened.seen("[data-arm='1']") == before


def test_results_are_filtered_by_run_and_seeds_shown(full: Path, visit: Any) -> None:
    opened = visit(full)
    assert opened.seen("tr.result") == 1 + 11  # the reference; five arms at two β, and sft
    opened.page.get_by_label("every seed").check()
    assert opened.seen("tr.result") == 1 + 33
    opened.page.get_by_label("Filter by run").fill("ppo β=0.5")
    assert opened.seen("tr.result") == 1 and opened.page.locator("#run-count").inner_text() == "1 of 34"
    opened.page.get_by_label("Filter by run").fill("")
    assert opened.seen("tr.result") == 34


def test_samples_are_searched(full: Path, visit: Any) -> None:
    opened = visit(full)
    opened.page.get_by_role("searchbox", name="Search").fill("A TIRED DETECTIVE")
    found = opened.page.locator(".exchange").all()
    assert 0 < len(found) <= 12
    assert all("a tired detective" in exchange.inner_text().lower() for exchange in found)
    assert {mark.lower() for mark in opened.page.locator("#gallery mark").all_inner_texts()} == {"a tired detective"}
    opened.page.get_by_role("searchbox", name="Search").fill("no such words")
    assert opened.seen(".exchange") == 0 and "0 of 12 prompts" in opened.page.locator("#sample-count").inner_text()


def test_samples_of_the_chosen_runs_stand_side_by_side(full: Path, visit: Any) -> None:
    page = visit(full).page
    page.locator("#sample-runs summary").click()
    for box in page.locator("#sample-runs label input").all():
        box.uncheck()
    page.get_by_label("find a run").fill("rloo β=0.5 seed 1")
    page.locator("#sample-runs label:visible input").check()
    page.get_by_label("find a run").fill("")
    page.locator("#sample-runs label:visible input").first.check()
    heads = page.locator(".exchange >> nth=0").locator("h3").all_inner_texts()
    assert [head.strip() for head in heads] == ["reference", "rloo β=0.5 seed 1"]
    first = next(s for s in read_samples(full.parent / "samples.jsonl") if s.run == "rloo-0.5-1" and s.step == 32)
    assert page.locator(".answer-card .said").nth(1).inner_text() == first.response.strip()
    page.keyboard.press("Escape")
    assert page.locator("#sample-runs .list:visible").count() == 0


def test_what_differs_from_the_reference_is_marked_and_nothing_else(full: Path, visit: Any) -> None:
    page = visit(full).page
    page.get_by_label("mark what differs").check()
    checked = 0
    for exchange in page.locator(".exchange").all():
        cards = exchange.locator(".answer-card").evaluate_all(TEXTS)
        reference = cards[0][0]
        for _, without_added, without_gone in cards[1:]:
            assert without_added == reference
            checked += without_gone != reference
    assert checked > 5 and page.locator("ins").count() > 5 and page.locator("del").count() > 5


def test_downloads_are_the_files(full: Path, visit: Any) -> None:
    page = visit(full, accept_downloads=True).page
    with page.expect_download() as caught:
        page.get_by_role("button", name="download verdict.json").click()
    assert caught.value.suggested_filename == "verdict.json"
    assert caught.value.path().read_bytes() == (full.parent / "verdict.json").read_bytes()


def test_a_mark_says_what_it_is(full: Path, visit: Any) -> None:
    page = visit(full).page
    page.locator(".frontier .end-dot").locator("visible=true").last.hover()
    assert "KL" in page.locator("#tip").inner_text() and page.locator("#tip").is_visible()


# --- hostile texts ----------------------------------------------------------------------------------------------------


def test_two_hundred_hostile_texts_are_shown_and_do_nothing(hostile: Path, visit: Any) -> None:
    assert len(set(HOSTILE)) == 200
    opened = visit(hostile)
    page = opened.page
    while page.locator("#sample-more").is_visible():
        page.locator("#sample-more").click()
    page.get_by_label("mark what differs").check()
    page.get_by_label("mark what differs").uncheck()
    page.get_by_role("searchbox", name="Search").fill("<script>")
    page.get_by_role("searchbox", name="Search").fill("")
    assert page.evaluate("window.pwned") is None and page.evaluate("({}).polluted") is None
    assert opened.complaints == [] and opened.requests == [hostile.as_uri()]
    assert (
        page.locator("iframe, img, base, object, embed, form, link, body style, meta[http-equiv=refresh]").count() == 0
    )
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(e => !e.getAttributeNames().some(n => n.startsWith('on')))"
    )
    shown = set(page.locator(".said, .plain li, #conclude li, dt").evaluate_all("all => all.map(e => e.textContent)"))
    assert {harmless(text) for text in HOSTILE} <= shown


@pytest.mark.parametrize("kind", ["full", "hostile", "large"])
def test_a_phone_scrolls_tables_and_nothing_else(kind: str, visit: Any, request: pytest.FixtureRequest) -> None:
    page = visit(request.getfixturevalue(kind), PHONE).page
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    table = page.get_by_role("region", name="results")
    assert table.evaluate("box => { box.scrollLeft = 200; return box.scrollLeft; }") == 200
    lefts = table.evaluate("box => [box, box.querySelector('tbody th')].map(e => e.getBoundingClientRect().left)")
    assert lefts[1] == pytest.approx(lefts[0], abs=2), "the first column stays"
    for name in page.locator("tr.result th").locator("visible=true").all()[:40]:
        box = name.bounding_box()
        assert box is None or 110 < box["width"] < 190, "and has room for a name, and no more"


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["full", "hostile"])
def test_axe_finds_nothing_serious(kind: str, scheme: str, visit: Any, request: pytest.FixtureRequest) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="browser tests: axe-core is missing")
    opened = visit(request.getfixturevalue(kind), color_scheme=scheme)
    rules = axe.Axe().run(opened.page).response["violations"]
    serious = [rule for rule in rules if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in serious] == []


def test_a_dark_screen_has_a_dark_page_and_paper_a_light_one(full: Path, visit: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = visit(full, color_scheme="dark").page
    assert page.evaluate(ground) == "rgb(18, 22, 27)"
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden() and page.locator("#gallery-controls").is_hidden()
    assert len(page.pdf()) > 20_000


def test_the_keyboard_reaches_everything(full: Path, visit: Any) -> None:
    page = visit(full).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    button = page.get_by_role("button", name="dpo", exact=True)
    button.focus()
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator(".scroll:not([tabindex='0'])").count() == 0
    page.locator("#sample-runs summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#sample-runs .list").is_visible()


def test_two_studies_stand_beside_each_other(tmp_path: Path, visit: Any) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        (tmp_path / name).mkdir()
        write_synthetic_study(tmp_path / name, seeds=(0, 1), prompts=12, rng_seed=seed)
    opened = visit(write_comparison(tmp_path / "first", tmp_path / "second", tmp_path / "both.html"))
    assert opened.seen(".beside .card") == 2 and opened.count(".first .card[data-arms]") == 4
    assert opened.seen("svg.chart") > 5 and opened.complaints == []
