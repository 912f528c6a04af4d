"""The report: one page that fetches nothing, tells everything that the folder holds, and lets no text act."""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import write_synthetic_study

from preftune.errors import UserError
from preftune.evidence.conclusion import verdict
from preftune.evidence.results import Result, Sample, read_results, read_samples, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.report import frontier_image, write_report
from preftune.report.charts import VEGA_LITE
from preftune.report.folding import ENOUGH, LONG, fold
from preftune.text import excerpt, harmless

any_text = st.text(st.characters(exclude_categories=()))
MARKUP = '</script><script>alert(1)</script><!--<img src=x onerror="alert(2)">'
EVIL = MARKUP + "'\"&amp;{{ 7*7 }}\u202egnp.exe\x1b[31m\x00\ud800\u2028"


class Page(HTMLParser):
    """What a browser would find in a page: its tags, its scripts, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.rows: list[list[str]] = []  # of all tables, cell by cell
        self.text = ""
        self._inside, self._cell = "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        self.text += " "
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
            self._cell = True
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        self._cell = self._cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self._inside != "style":
            self.text += data
            if self._cell:
                self.rows[-1][-1] += data

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    def spec(self, name: str) -> dict[str, Any]:
        """The specification of one chart."""
        (specs,) = (text for attrs, text in self.scripts if attrs.get("id") == "specs")
        return json.loads(specs)[name]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def change(folder: Path, name: str, read: Callable[[Path], Any], edit: Callable[[Any], Any]) -> Path:
    write_records(folder / name, [edit(row) for row in read(folder / name)])
    return folder


def change_info(folder: Path, **fields: Any) -> Path:
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    # as a hostile hand would write it: halves of surrogate pairs as their escapes
    (folder / "study.json").write_text(json.dumps(info | fields), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_study(tmp_path_factory.mktemp("plain"), prompts=16)


@pytest.fixture(scope="module")
def page(plain: Path) -> Page:
    return page_of(plain)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which every text that a stranger may have written tries to act."""
    folder = write_synthetic_study(tmp_path_factory.mktemp("evil"), prompts=16)

    def spoil_sample(row: Sample) -> Sample:
        return replace(row, prompt=EVIL, response=EVIL, extra={EVIL: 1.0})

    def spoil_result(row: Result) -> Result:
        return replace(row, arm=row.arm if row.arm == "reference" else row.arm + EVIL, extra={EVIL: 1.0})

    change(folder, "samples.jsonl", read_samples, spoil_sample)
    change(folder, "results.jsonl", read_results, spoil_result)
    info = read_study(folder).info
    return change_info(
        folder,
        title=EVIL,
        command=EVIL,
        notes=[EVIL],
        arms=[arm + EVIL for arm in info["arms"]],
        settings={EVIL: EVIL},
        targets={EVIL: EVIL},
        versions={EVIL: EVIL},
        model={"name": EVIL, EVIL: EVIL},
        data={"source": EVIL, "skipped": {EVIL: 1}},
        gold={"name": EVIL, "description": EVIL},
    )


# --- one page, no network, nothing runs but ours ----------------------------------------------------------------------


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "href", "srcset", "action", "data", "poster"} & attrs.keys()
    assert "default-src 'none'" in policy_of(page)


def policy_of(page: Page) -> str:
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    return policy


def test_exactly_the_page_s_own_scripts_may_run(page: Page) -> None:
    allowed = re.findall(r"'sha256-([^']+)'", policy_of(page))
    running = [text for attrs, text in page.scripts if attrs.get("type") != "application/json"]
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running] == allowed
    (rule,) = (part for part in policy_of(page).split("; ") if part.startswith("script-src"))
    assert "unsafe" not in rule and "http" not in rule


def test_hostile_text_adds_no_tag_no_script_and_no_attribute(page: Page, evil: Path) -> None:
    spoilt = page_of(evil)
    assert {tag for tag, _ in spoilt.tags} <= {tag for tag, _ in page.tags} | {"details", "summary"}
    assert len(spoilt.scripts) == len(page.scripts) == 3
    assert not [name for _, attrs in spoilt.tags for name in attrs if name.startswith("on")]
    assert policy_of(spoilt) == policy_of(page)
    assert "alert(1)" in spoilt.text and "{{ 7*7 }}" in spoilt.text  # shown, not run


def test_hostile_text_hides_nothing_and_reorders_nothing(evil: Path) -> None:
    html = write_report(evil).read_text(encoding="utf-8")
    without_library = Page(html).text + json.dumps(Page(html).spec("frontier"), ensure_ascii=False)
    hidden = {char for char in without_library if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert hidden <= {"\n"}
    for mark in ("⟨U+202E⟩", "⟨U+001B⟩", "⟨U+0000⟩", "⟨U+D800⟩", "⟨U+2028⟩"):
        assert mark in without_library


def test_hostile_names_stay_names_in_the_charts(evil: Path) -> None:
    spec = page_of(evil).spec("frontier")
    names = {row["arm"] for row in spec["datasets"]["points"]}
    assert names == {arm + harmless(EVIL) for arm in ("dpo", "ipo")}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    assert "<script" not in svg and "<img" not in svg


def test_what_looks_like_a_secret_is_told_on_by_no_text_that_is_shown() -> None:
    secret = "hf_" + "aB3" * 12
    for shown in (
        harmless(f"my key is {secret}."),
        excerpt(f"my key is {secret}, and so on"),
        excerpt("x " * 25 + secret),
    ):
        assert secret not in shown and secret[10:] not in shown
    assert harmless(f"my key is {secret}.").startswith("my key is hf_")
    assert excerpt("two\n lines") == "'two lines'" and len(excerpt("a" * 100)) == 62


@given(text=any_text)
def test_harmless_text_shows_all_and_hides_nothing(text: str) -> None:
    shown = harmless(text)
    assert all(
        unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} or c in "\n\t\xad\u200c\u200d" for c in shown
    )
    restored = re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda m: chr(int(m[1], 16)), shown)
    assert restored == re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda m: chr(int(m[1], 16)), text.replace("\r\n", "\n"))
    shown.encode("utf-8")


@given(length=st.integers(0, 3 * ENOUGH), keep_end=st.booleans())
def test_folding_loses_no_character_uncounted(length: int, keep_end: bool) -> None:
    text = "".join(chr(0x4E00 + i % 1000) for i in range(length))
    folded = fold(text, keep_end=keep_end)
    assert len(folded.shown) + len(folded.rest) + folded.omitted == length
    assert len(folded.shown) <= 1.2 * LONG and len(folded.shown) + len(folded.rest) <= max(ENOUGH, 1.2 * LONG)
    kept = folded.rest + folded.shown if keep_end else folded.shown + folded.rest
    assert text.endswith(kept) if keep_end else text.startswith(kept)


def test_a_very_long_response_does_not_make_a_very_long_page(plain: Path, tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    before = write_report(folder).stat().st_size
    change(folder, "samples.jsonl", read_samples, lambda row: replace(row, response="word " * 40_000))
    after = page_of(folder)
    assert (folder / "report.html").stat().st_size - before < 4 * 5 * 2 * ENOUGH
    assert "… 189,999 more characters in samples.jsonl …" in after.words
    assert ("details", {}) in after.tags


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_the_page_tells_the_answer_and_what_was_compared(plain: Path, page: Page) -> None:
    assert " ".join(verdict(read_study(plain)).sentence.split()) in page.words
    assert page.words.index("SmolLM2-135M-Instruct (135 million parameters) · dpo, ipo · β 0.1, 0.5 · seed 0") < 200
    for alarm in verdict(read_study(plain)).alarms:
        assert alarm in page.words


def test_the_page_tells_the_betas_of_each_arm_where_they_differ(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo", "ipo", "sft"))
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"arm_betas": {"dpo": [0.5, 0.1], "ipo": [0.02, 0.1]}})
    assert "dpo, ipo, sft · β 0.1, 0.5 (dpo), 0.02, 0.1 (ipo) · seed 0" in page_of(folder).words


def test_every_mean_of_the_last_checkpoints_stands_in_the_table_with_its_error(plain: Path, page: Page) -> None:
    rows = {row[0].strip(): row for row in page.rows if len(row) == 11}
    study = read_study(plain)
    assert len(rows) == 1 + len(study.finals())
    for result in study.finals():
        percent = (result.win_rate, result.win_rate_se, result.accuracy, result.accuracy_se)
        win, win_se, accuracy, accuracy_se = (100 * (value or 0) for value in percent)
        told = rows[f"{result.arm} β={result.beta}"]
        expected = [
            (result.gain, result.gain_se),
            (result.reward, result.reward_se),
            (result.kl, result.kl_se),
            (win, win_se),
            (result.extra["vader"], result.extra["vader_se"]),
            (accuracy, accuracy_se),
            (result.log_loss, result.log_loss_se),
            (result.length, result.length_se),
        ]
        for cell, (value, error) in zip(told[2:], expected, strict=False):
            printed = [float(number.replace("−", "-")) for number in cell.split("±")]
            assert printed == pytest.approx([value, error], abs=0.06 * (error or 0) + 0.0005), (cell, value, error)


def test_the_frontier_has_every_checkpoint_and_joins_runs_in_the_order_of_training(plain: Path, page: Page) -> None:
    data = page.spec("frontier")["datasets"]
    study = read_study(plain)
    assert {(r["run"], r["step"]) for r in data["points"]} == {(r.run, r.step) for r in study.trained()}
    assert {(r["run"], r["step"]) for r in data["finals"]} == {(r.run, 32) for r in study.trained()}
    assert {r["run"] for r in data["paths"] if r["step"] == 0} == {r.run for r in study.trained()}
    paths = next(layer for layer in page.spec("frontier")["layer"] if layer["data"] == {"name": "paths"})
    assert paths["encoding"]["order"]["field"] == "step" and paths["encoding"]["detail"]["field"] == "run"
    for r in data["points"]:
        assert r["gain_low"] < r["gain"] < r["gain_high"] and r["kl_low"] < r["kl"] < r["kl_high"]


def test_the_curves_in_the_chart_are_the_fitted_frontiers(plain: Path, page: Page) -> None:
    fits = {fit.arm: fit for fit in verdict(read_study(plain)).frontiers}
    for row in page.spec("frontier")["datasets"]["curves"]:
        assert row["gain"] == pytest.approx(fits[row["arm"]].at(row["kl"]), abs=1e-9)
        assert row["kl"] <= fits[row["arm"]].high + 1e-9


def test_the_charts_can_be_drawn(page: Page) -> None:
    for name in ("frontier", "training-margin", "length"):
        svg = vl_convert.vegalite_to_svg(page.spec(name) | {"width": 400}, vl_version=VEGA_LITE)
        assert svg.startswith("<svg") and "#2867b2" in svg and "#c8553d" in svg  # both arms in their colours


def test_every_chart_has_its_place_in_the_page(page: Page) -> None:
    places = {attrs.get("id") for _, attrs in page.tags}
    (specs,) = (json.loads(text) for attrs, text in page.scripts if attrs.get("id") == "specs")
    assert specs.keys() <= places and {"frontier", "training-log_ratio_preferred", "training-log_ratio_other"} <= places


def test_training_curves_keep_the_mean_of_what_was_logged(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo",), betas=(0.1,), steps=(1000,))
    rows = page_of(folder).spec("training-margin")["datasets"]["steps"]
    (logged,) = read_study(folder).metrics.values()
    assert 100 <= len(rows) <= 150
    mean = sum(step["margin"] for step in logged) / len(logged)
    assert sum(row["value"] for row in rows) / len(rows) == pytest.approx(mean, abs=0.01)


def test_counts_of_data_and_the_way_to_reproduce_are_told(page: Page) -> None:
    for words in (
        "rows read 320",
        "skipped: identical responses 33",
        "shortened: prompt: oldest turns dropped 3",
        "votes on them 1,503",
        "preftune demo --out demo-study",
        "17ab55d2" * 8,
        "torch 2.13.0",
        "batch size 8",
        "½/β = 5 nats per sequence",
        "the learning rate moves the KL as much as β does",
    ):
        assert words in page.words


def test_samples_stand_side_by_side_for_prompts_that_nobody_chose(plain: Path, page: Page) -> None:
    samples = read_samples(plain / "samples.jsonl")
    cards = [attrs for tag, attrs in page.tags if tag == "article"]
    assert len(cards) == 5 * (1 + 4)  # five prompts; the reference and four runs
    assert "5 of 16 held-out prompts, evenly spaced in their order" in page.words
    for prompt in (0, 3, 6, 9, 12):
        for row in samples:
            if row.prompt_id == prompt and row.sample == 0 and row.step in (0, 32):
                assert row.response.strip() in page.text and row.prompt in page.text


def test_second_opinions_have_a_column(page: Page) -> None:
    assert "vader second opinion" in page.words


def test_without_gold_the_axis_is_accuracy_and_no_reward_is_named(tmp_path: Path) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, gold=False))
    assert "no quality is claimed" in page.words
    assert not re.search(r"\b(reward|gain|win rate)\b", page.words.lower())
    layers = page.spec("frontier")["layer"]
    titles = {layer["encoding"]["y"].get("title") for layer in layers if "y" in layer.get("encoding", {})}
    assert "held-out accuracy" in titles and not any("reward" in str(title) for title in titles)
    assert min(row["gain"] for row in page.spec("frontier")["datasets"]["paths"]) == 0.5


@pytest.mark.parametrize("unfinished", [1, 4])
def test_an_interrupted_study_is_drawn_and_called_partial(tmp_path: Path, unfinished: int) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, unfinished=unfinished))
    assert "The study is partial. Not finished:" in page.words
    assert ("frontier" in {attrs.get("id") for _, attrs in page.tags}) == (unfinished < 4)


def test_with_several_seeds_their_mean_comes_first(tmp_path: Path) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, arms=("dpo",), betas=(0.1,), seeds=(0, 1, 2)))
    assert re.search(r"dpo β=0.1 3 seeds .* seed 0 32 .* seed 1 32 .* seed 2 32", page.words)
    finals = read_study(tmp_path).finals()
    assert f"{sum(row.gain or 0 for row in finals) / 3:.2f}" in page.words.split("3 seeds")[1][:30]


def test_numbers_that_are_none_break_nothing(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    nan = float("nan")
    change(folder, "results.jsonl", read_results, lambda r: replace(r, length=nan, kl=nan if r.step == 8 else r.kl))
    page = page_of(folder)
    assert "The KL is not a number" in page.words and "unknown" in page.words


def test_a_folder_of_json_files_alone_says_enough(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"arms": ["dpo"], "betas": [0.1], "seeds": [0]})
    assert "none of the 1 runs has reached a checkpoint" in page_of(tmp_path).words


def test_drawing_again_gives_the_same_page_and_nothing_else(plain: Path) -> None:
    before = {path.name for path in plain.iterdir()}
    first = write_report(plain).read_bytes()
    assert write_report(plain).read_bytes() == first
    assert {path.name for path in plain.iterdir()} == before | {"report.html"}
    assert len(first) < 2_000_000


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_frontier_is_drawn_as_a_picture_with_its_legend(plain: Path, tmp_path: Path) -> None:
    svg = frontier_image(plain, tmp_path / "frontier.svg").read_text(encoding="utf-8")
    for words in ("dpo", "ipo", "KL from the reference", "gain in predicted human rating"):
        assert words in svg
    assert frontier_image(plain, tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_another_kind_or_of_no_study_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"svg or a \.png"):
        frontier_image(plain, tmp_path / "frontier.jpg")
    with pytest.raises(UserError, match="is no study folder"):
        frontier_image(tmp_path, tmp_path / "frontier.svg")
    assert list(tmp_path.iterdir()) == []
