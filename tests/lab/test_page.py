"""The lab's page: its JavaScript computes what Python computes, in a real browser, and a reader can use it."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from scipy.stats import binom

from preftune.lab import bandits, optima, statements
from preftune.lab import page as page_module
from preftune.lab.page import write_page
from preftune.lab.worlds import Floats, wins_of

FORMS = (page_module.HERE / "forms.js").read_text("utf-8")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium among the system's packages")


def browse(page: Path, folder: Path, *, hash_: str = "", width: int = 1000) -> str:
    """The page's document after its scripts have run."""
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=8000"]
    shown = subprocess.run([*command, f"{page.as_uri()}{hash_}"], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr[-2000:]
    return shown.stdout


def evaluate(expressions: list[str], folder: Path) -> list[Any]:
    """What the page's formulas give for JavaScript expressions; infinities and NaN come back as such."""
    script = f"{FORMS}\nconst odd = (k, v) => (typeof v === 'number' && !Number.isFinite(v) ? String(v) : v);\n"
    script += "document.body.textContent = JSON.stringify([" + ",\n".join(expressions) + "], odd);"
    page = folder / "forms.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body></body><script>{script}</script>", encoding="utf-8")
    text = re.search(r"<body>(.*?)</body>", browse(page, folder), re.S)[1]
    return json.loads(re.sub(r'"(-?Infinity|NaN)"', r"\1", text))  # which Python's JSON knows


def some_wins(rng: np.random.Generator, count: int) -> list[Floats]:
    """Wins among three responses: many with zeros, so that every way of running away occurs."""
    drawn = rng.poisson(rng.choice([0.4, 1, 6], size=(count, 1, 1)), size=(count, 3, 3)).astype(float)
    return [wins * (1 - np.eye(3)) for wins in drawn]


@in_browser
def test_javascript_and_python_give_the_same_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = [(wins, beta) for wins in some_wins(rng, 60) for beta in (0.05, 1.3)]
    asked = [
        f"forms.tilt(forms.scores.{method}({json.dumps(wins.tolist())}), {beta})"
        for wins, beta in cases
        for method in ("ipo", "dpo")
    ]
    found = np.array(evaluate(asked, tmp_path)).reshape(len(cases), 2, 3)
    uniform, kinds = np.full(3, 1 / 3), set()
    for (wins, beta), (ipo, dpo) in zip(cases, found, strict=True):
        likeliest = optima.most_likely(wins)
        kinds.add((likeliest.finite, bool(np.isnan(likeliest.score).any())))
        np.testing.assert_allclose(ipo, optima.tilt(uniform, optima.ipo_scores(wins), beta), atol=1e-9)
        np.testing.assert_allclose(dpo, optima.tilt(uniform, likeliest.score, beta), atol=1e-7)
    assert kinds == {(True, False), (False, False), (False, True)}


@in_browser
def test_the_spread_over_draws_is_that_of_the_binomial(tmp_path: Path) -> None:
    cases = [(n, p, b) for n in (1, 10, 1000) for p in (0.5, 0.83, 0.97) for b in (0.07, 1.1)] + [(10, 1.0, 0.5)]
    asked = [f"forms.spread('{m}', {b}, forms.binomial({n}, {p}))" for n, p, b in cases for m in ("dpo", "ipo")]
    found = iter(evaluate(asked, tmp_path))
    for n, p, beta in cases:
        share, chances = np.arange(n + 1) / n, binom.pmf(range(n + 1), n, p)
        for score in (logit(share), share - 0.5):
            policies, got = expit(score / beta), next(found)
            assert got["mean"] == pytest.approx(policies @ chances, abs=1e-7)
            assert got["low"] == pytest.approx(policies[int(binom.ppf(0.05, n, p))], abs=1e-7)
            assert got["high"] == pytest.approx(policies[int(binom.ppf(0.95, n, p))], abs=1e-7)


@in_browser
def test_paths_are_those_of_gradient_descent_and_end_at_the_optimum(tmp_path: Path) -> None:
    """Small steps of plain gradient descent pass within a hair of the points of the path, however it is walked."""
    soft, order = wins_of([(0, 1, 0.8, 1), (1, 2, 0.7, 1), (0, 2, 0.9, 1)], 3), wins_of([(0, 1, 1, 1), (1, 2, 1, 1)], 3)
    cases = [("ipo", soft, 0.5), ("dpo", soft, 0.5), ("ipo", order, 0.2), ("dpo", order, 0.2)]
    asked = [f"forms.path('{method}', {json.dumps(wins.tolist())}, {beta})" for method, wins, beta in cases]
    for (method, wins, beta), path in zip(cases, map(np.array, evaluate(asked, tmp_path)), strict=True):
        descended = [softmax(np.zeros(3))]
        theta = np.zeros(3)
        for step in range(8_000):
            h = beta * (theta[:, None] - theta)
            slope = wins / (1 + np.exp(h)) if method == "dpo" else wins * (1 - 2 * h)
            theta = theta + (0.02 if step < 1000 else 0.1) * (slope - slope.T).sum(1)
            descended.append(softmax(theta))
        nearest = np.abs(path[:, None] - np.array(descended)[None]).max(-1).min(1)
        inner = path[:, 0] < descended[-1][0]
        assert nearest[inner].max() < 0.01
        score = optima.ipo_scores(wins) if method == "ipo" else optima.most_likely(wins).score
        np.testing.assert_allclose(path[-1], optima.tilt(np.full(3, 1 / 3), score, beta), atol=2e-3)


# --- the page as a reader meets it ------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Texts by the id of the innermost element that has one."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "br", "link", "path", "line", "rect"):
            self.open.append(dict(attrs).get("id") or "")

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag not in ("path", "line", "rect"):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1]:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("lab") / "lab.html", steps=60)


@in_browser
@pytest.mark.parametrize("width", [1000, 390])
def test_the_page_draws_every_chart_and_tells_the_numbers_of_its_sliders(
    width: int, page: Path, tmp_path: Path
) -> None:
    document = browse(page, tmp_path, hash_="#beta=0.2&n=30&p=0.9&flips=0.1&votes=D3+as+meant", width=width)
    assert 'data-ready="yes"' in document
    assert document.count("marks") > 9  # three charts and six learning curves
    texts = Reader(document).texts
    assert not texts.get("broken")
    wins = [np.array([[0, heard], [1 - heard, 0]]) for heard in (0.9, 0.1 + 0.8 * 0.9)]
    half = np.full(2, 0.5)
    for column, w in zip(("truth", "heard"), wins, strict=True):
        assert float(texts[f"ipo-{column}"]) == pytest.approx(optima.tilt(half, optima.ipo_scores(w), 0.2)[0], abs=6e-5)
        likeliest = optima.most_likely(w).score
        assert float(texts[f"dpo-{column}"]) == pytest.approx(optima.tilt(half, likeliest, 0.2)[0], abs=6e-5)
    heard = wins_of([(a, b, 0.82, 1) for a, b in bandits.DATASETS["D3 as meant"]], 3)
    policy = optima.tilt(np.full(3, 1 / 3), optima.ipo_scores(heard), 0.2)
    told = [float(texts[f"three-ipo-{name}"]) for name in "abc"]
    np.testing.assert_allclose(told, policy, atol=6e-5)


def test_the_page_fetches_nothing_and_holds_every_statement(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r'(?:src|href)="(?!https://arxiv\.org)[^"#]', text.split("<script>")[0])
    assert text.count('class="statement"') == len(statements.STATEMENTS)
    assert "NOT CONFIRMED" not in text
    assert not page.with_name("lab.html.partial").exists()
