"""The report: one page that fetches nothing, tells everything that the folder holds, and lets no text act."""

import base64
import hashlib
import json
import math
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import EVIL, Page, change, page_of, set_info, spoil
from synthetic_study import write_synthetic_study

from preftune.evidence.conclusion import verdict
from preftune.evidence.results import Result, read_metrics, read_results, read_samples, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.report import write_report
from preftune.report.folding import ENOUGH, LONG, fold
from preftune.text import excerpt, harmless

any_text = st.text(st.characters(exclude_categories=()))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_study(tmp_path_factory.mktemp("plain"), prompts=16)


@pytest.fixture(scope="module")
def page(plain: Path) -> Page:
    return page_of(plain)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoil(write_synthetic_study(tmp_path_factory.mktemp("evil"), prompts=16))


# --- one page, no network, nothing runs but ours ----------------------------------------------------------------------


def test_the_page_asks_for_nothing_outside_itself(page: Page) -> None:
    for tag, attrs in page.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "use", "image"}
        assert not {"src", "srcset", "action", "data", "poster", "xlink:href"} & attrs.keys()
        assert (attrs.get("href") or "#").startswith("#")
    assert "default-src 'none'" in policy_of(page)
    style = page.html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


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
    assert len(spoilt.scripts) == len(page.scripts) == 2
    assert not [name for _, attrs in spoilt.tags for name in attrs if name.startswith("on")]
    assert policy_of(spoilt) == policy_of(page)
    assert "alert(1)" in spoilt.text and "{{ 7*7 }}" in spoilt.text  # shown, not run


def test_hostile_text_hides_nothing_and_reorders_nothing(evil: Path) -> None:
    html = write_report(evil).read_text(encoding="utf-8")
    hidden = {char for char in html if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert hidden <= {"\n"}
    for mark in ("⟨U+202E⟩", "⟨U+001B⟩", "⟨U+0000⟩", "⟨U+D800⟩", "⟨U+2028⟩"):
        assert mark in Page(html).text


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


def test_a_very_long_response_does_not_make_a_very_long_page(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    before = write_report(folder).stat().st_size
    change(folder, "samples.jsonl", read_samples, lambda row: replace(row, response="word " * 40_000))
    after = page_of(folder)
    assert (folder / "report.html").stat().st_size - before < 4 * 5 * 2 * 1.2 * ENOUGH
    assert f"… {40_000 * 5 - 1 - ENOUGH:,} more characters in samples.jsonl …" in after.words


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_the_first_screen_has_the_question_the_answer_and_a_card_for_every_pair(plain: Path, page: Page) -> None:
    words = page.words
    question, answer = (
        words.index("DPO against IPO on"),
        words.index("dpo and ipo cannot be compared at the same KL yet."),
    )
    card, frontier = words.index(" not comparable "), words.index("KL from the reference, nats")
    assert question < answer < card < frontier < words.index("What may be concluded")
    assert len([1 for tag, attrs in page.tags if tag == "article" and "data-arms" in attrs]) == 1
    assert " ".join(verdict(read_study(plain)).sentence.split()) in words
    assert "SmolLM2-135M-Instruct (135 million parameters) · dpo, ipo · β 0.1, 0.5 · seed 0" in words[:1200]
    for alarm in verdict(read_study(plain)).alarms:
        assert alarm in words


def test_the_page_tells_the_betas_of_each_arm_where_they_differ(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo", "ipo", "sft"))
    set_info(folder, arm_betas={"dpo": [0.5, 0.1], "ipo": [0.02, 0.1]})
    assert "dpo, ipo, sft · β 0.1, 0.5 (dpo), 0.02, 0.1 (ipo) · seed 0" in page_of(folder).words


def test_every_mean_of_the_last_checkpoints_stands_in_the_table_with_its_error(plain: Path, page: Page) -> None:
    rows = {row[0].strip(): row for row in page.rows if len(row) == 11}
    study = read_study(plain)
    assert len(rows) == 2 + len(study.finals())  # the head, the reference
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


def test_the_search_for_beta_is_told_run_by_run(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    tried = [{"arm": "dpo", "beta": 0.1, "kl": 0.75, "why": "where every arm starts"}]
    page = page_of(set_info(folder, search={"ended": True, "tried": tried}))
    assert "How β was found" in page.words and "dpo 0.1 0.75 where every arm starts" in page.words
    assert "How β was found" not in page_of(set_info(folder, search={"tried": "all"})).words


def test_second_opinions_have_a_column_and_are_held_against_the_judge(page: Page) -> None:
    assert "vader second opinion" in page.words
    assert "How good the judges are" in page.words and "agrees % of runs and prompts" in page.words


def test_without_gold_the_axis_is_accuracy_and_no_reward_is_named(tmp_path: Path) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, gold=False))
    assert "no quality is claimed" in page.words and "no method is called better here" in page.words
    assert not re.search(r"\b(reward|gain|win rate|wins)\b", page.words.lower())
    assert "held-out accuracy" in page.words
    assert any("accuracy 0.5" in tip for tip in page.tips)


@pytest.mark.parametrize("unfinished", [1, 4])
def test_an_interrupted_study_is_drawn_and_called_partial(tmp_path: Path, unfinished: int) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, unfinished=unfinished))
    assert "The study is partial. Not finished:" in page.words
    assert f"So far {4 - unfinished} of 4 runs have finished." in page.words[:1500]
    assert bool(page.tips) == (unfinished < 4)


def test_with_several_seeds_their_mean_comes_first(tmp_path: Path) -> None:
    page = page_of(write_synthetic_study(tmp_path, prompts=8, arms=("dpo",), betas=(0.1,), seeds=(0, 1, 2)))
    assert re.search(r"dpo β=0.1 3 seeds .* seed 0 32 .* seed 1 32 .* seed 2 32", page.words)
    finals = read_study(tmp_path).finals()
    assert f"{sum(row.gain or 0 for row in finals) / 3:.2f}" in page.words.split("3 seeds")[1][:30]


def test_rates_of_label_noise_have_a_table_and_a_frontier_each(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=8, arms=("dpo", "ipo"))
    rows = read_results(folder / "results.jsonl")
    noisy = {row.run: 0.2 if row.beta == 0.5 else 0.0 for row in rows}
    change(folder, "results.jsonl", read_results, lambda row: replace(row, noise=noisy[row.run]))
    page = page_of(set_info(folder, noises=[0.0, 0.2]))
    assert "Label noise gain at the end over the reference 0% flipped 20% flipped" in page.words
    assert page.words.count("With 20% of the training votes flipped") >= 2


def test_numbers_that_are_none_break_nothing(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    nan = float("nan")
    change(folder, "results.jsonl", read_results, lambda r: replace(r, length=nan, kl=nan if r.step == 8 else r.kl))
    page = page_of(folder)
    assert "The KL is not a number" in page.words and "unknown" in page.words
    drawn = [value for tag, attrs in page.tags if tag in ("path", "text", "svg") for value in attrs.values() if value]
    assert drawn and not [value for value in drawn if re.search(r"\b(nan|inf)\b", value)]


def test_values_of_other_kinds_than_ours_break_nothing(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    page = page_of(
        set_info(
            folder,
            gold={"description": ["one", 2]},
            opinions={"other": 3, "more": None},
            notes=[{"a": 1}, None, 7],
            data={"votes_train": "many", "skipped": [1, 2], "rows": None},
            settings={"lr": {"from": 1, "to": [2]}, "batch_size": "eight"},
            reward={"kind": 3, "0": {"held_out": {"accuracy": 1}, "reliability": 4, "baselines": [1]}},
            budgets={"dpo-0.1-0": {"votes_seen": "some"}, "ipo-0.1-0": 4},
            preferences={"dpo-0.1-0": {"held_out": {"accuracy": {"value": "high"}}}},
            seconds={"study": "long"},
        )
    )
    assert "The reward is not named" in page.words and "lr: from 1" in page.words


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -1e308, 1e308, 1e-308])
def test_wild_numbers_are_drawn_nowhere_and_break_nothing(tmp_path: Path, wild: float) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)

    def spoil(row: Result) -> Result:
        errors = {name: wild for name in ("gain_se", "kl_se", "length_se", "reward_se", "accuracy_se")}
        return replace(row, **errors, **({"length": wild, "gain": wild} if row.step == 16 else {}))

    change(folder, "results.jsonl", read_results, spoil)
    if not math.isfinite(wild):
        change(folder, "samples.jsonl", read_samples, lambda row: replace(row, reward=wild) if row.step == 16 else row)
    for path in folder.glob("runs/*/metrics.jsonl"):
        write_records(path, [{**step, "loss": wild, "margin": wild} for step in read_metrics(path)])
    page = page_of(folder)
    drawn = [value for tag, attrs in page.tags if tag in ("path", "text", "svg") for value in attrs.values() if value]
    assert drawn and not [value for value in drawn if re.search(r"\b(nan|inf)\b", value)]
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_json_files_alone_says_enough(tmp_path: Path) -> None:
    write_json(tmp_path / "study.json", {"arms": ["dpo"], "betas": [0.1], "seeds": [0]})
    assert "none of the 1 runs has reached a checkpoint" in page_of(tmp_path).words


def test_drawing_again_gives_the_same_page_and_nothing_else(plain: Path) -> None:
    made = {"report.html", "verdict.json", "frontier.svg", "frontier.png"}
    first = write_report(plain).read_bytes()
    before = {path.name for path in plain.iterdir()}
    assert write_report(plain).read_bytes() == first
    assert {path.name for path in plain.iterdir()} == before >= made
    assert len(first) < 500_000


def test_what_a_page_offers_to_download_is_what_the_folder_holds(plain: Path, page: Page) -> None:
    files = page.data["files"]
    assert json.loads(files["verdict.json"]) == json.loads((plain / "verdict.json").read_text(encoding="utf-8"))
    lines = files["results.csv"].splitlines()
    assert len(lines) == 1 + len(read_results(plain / "results.jsonl"))
    assert lines[0].startswith("run,arm,method,beta,seed,step,noise,reward,reward_se")
    assert float(lines[1].split(",")[lines[0].split(",").index("accuracy")]) == 0.5


def test_no_cell_of_the_csv_begins_like_a_formula(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    change(folder, "results.jsonl", read_results, lambda row: replace(row, arm="=1+1" if row.step else row.arm))
    files = page_of(set_info(folder, arms=["=1+1"])).data["files"]
    assert ",'=1+1," in files["results.csv"] and ",=1+1" not in files["results.csv"]


# --- samples ----------------------------------------------------------------------------------------------------------


def test_samples_stand_side_by_side_for_prompts_that_nobody_chose(plain: Path, page: Page) -> None:
    assert (
        "All 16 held-out prompts in their order, and the first sample of each run at its last checkpoint" in page.words
    )
    data = page.data
    assert [voice["name"] for voice in data["voices"]] == [
        "reference",
        *(f"{arm} β={beta}" for arm in ("dpo", "ipo") for beta in (0.1, 0.5)),
    ]
    first = {
        (s.prompt_id, s.run): s for s in read_samples(plain / "samples.jsonl") if s.sample == 0 and s.step in (0, 32)
    }
    runs = dict.fromkeys(run for _, run in first)
    for prompt, (shown, answers) in enumerate(data["exchanges"]):
        assert shown[0] == first[prompt, "reference"].prompt
        for run, answer in zip(runs, answers, strict=True):
            assert answer[0] == first[prompt, run].response.strip()


def test_some_samples_stand_in_the_page_without_its_script(page: Page) -> None:
    cards = [attrs for tag, attrs in page.tags if tag == "article" and attrs.get("class") == "answer-card"]
    assert len(cards) == 3 * (1 + 2)  # three prompts; the reference and a run of each arm


@pytest.mark.parametrize("text", [EVIL, "<b>", "\u2028", "é"])
def test_the_data_of_the_script_are_what_was_written(tmp_path: Path, text: str) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4, arms=("dpo",), betas=(0.1,))
    change(folder, "samples.jsonl", read_samples, lambda row: replace(row, response=text))
    assert page_of(folder).data["exchanges"][0][1][0][0] == harmless(text.strip())
