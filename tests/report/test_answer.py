"""The answer in its forms: cards, headline, who wins, how good judges are, Markdown, two studies beside each other."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import EVIL, Page, change, set_info
from report_studies import write_alarming_study, write_full_study
from synthetic_study import write_synthetic_study

from preftune.errors import UserError
from preftune.evidence import Comparison, Estimate, StudyRecord, read_study, verdict
from preftune.evidence.results import read_results, read_samples
from preftune.report import markdown, verdict_json, write_comparison, write_report
from preftune.report.beside import differences, put_beside
from preftune.report.cards import bar, cards, headline, in_sight, settling
from preftune.report.judging import opinions
from preftune.report.matrix import MOST, win_matrix, wins
from preftune.report.samples import MOST_PROMPTS, ROOM, how_many, spread
from preftune.report.summary import code, plain, summary


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """Two arms that lie far apart."""
    folder = tmp_path_factory.mktemp("told")
    curves = {"dpo": (0.7, 0.03), "ipo": (0.3, 0.03)}
    return read_study(write_synthetic_study(folder, curves=curves, seeds=(0, 1), prompts=32))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    return read_study(write_full_study(tmp_path_factory.mktemp("full"), prompts=12))


# --- cards ------------------------------------------------------------------------------------------------------------


def test_a_card_says_who_leads_by_how_much_and_what_could_have_been_seen(told: StudyRecord) -> None:
    (card,) = cards(told, verdict(told))
    (pair,) = verdict(told).comparisons
    assert card.word == "dpo is better" and card.tone == "told" and card.settles == ""
    assert pair.difference and card.difference.startswith(f"dpo leads by {pair.difference.value:.2f}")
    assert card.seen == f"could have seen ≥ {pair.detectable:.2g}" and card.rests == "8 runs, 32 prompts"


def test_the_headline_names_the_better_arm_and_calls_nothing_better_without_evidence(told: StudyRecord) -> None:
    assert headline(told, verdict(told)) == "At the same KL dpo gains more reward than ipo."
    answer = verdict(told)
    pairs = (replace(answer.comparisons[0], p_value=0.5),)
    assert headline(told, replace(answer, comparisons=pairs)) == (
        "No difference was found between dpo and ipo at the same KL."
    )
    none = (Comparison("dpo", "ipo", why="x"),)
    assert headline(told, replace(answer, comparisons=none)) == "dpo and ipo cannot be compared at the same KL yet."


def test_a_headline_is_told_with_its_alarms(tmp_path: Path) -> None:
    study = read_study(write_alarming_study(tmp_path, prompts=8))
    assert headline(study, verdict(study)).startswith("Alarms were raised. ")


def made(a: str, b: str, value: float, p: float) -> Comparison:
    return Comparison(a, b, 1.0, Estimate(value, 0.1, 10), p, detectable=0.3, runs=8, prompts=10)


@given(values=st.permutations([0.9, 0.5, 0.1]))
def test_one_arm_that_beats_all_others_is_the_headline(told: StudyRecord, values: list[float]) -> None:
    worth = dict(zip("xyz", values, strict=True))
    pairs = tuple(made(a, b, worth[a] - worth[b], 0.001) for a, b in ("xy", "xz", "yz"))
    best = max(worth, key=lambda arm: worth[arm])
    said = headline(told, replace(verdict(told), comparisons=pairs))
    assert said == f"At the same KL {best} gains more reward than every other arm."


def test_what_was_not_told_apart_is_counted_in_the_headline(told: StudyRecord) -> None:
    pairs = (made("x", "y", 0.5, 0.001), made("x", "z", 0.01, 0.9), Comparison("y", "z", why="far apart"))
    said = headline(told, replace(verdict(told), comparisons=pairs))
    assert said.endswith("x gains more reward than y. No difference was found between x and z. "
                         "1 of 3 pairs cannot be compared yet.")  # fmt: skip


@given(value=st.floats(-1, 1), detectable=st.floats(0.001, 2))
def test_more_runs_are_advised_as_the_square_of_what_is_missing(value: float, detectable: float) -> None:
    said = settling(replace(made("a", "b", value, 0.5), detectable=detectable))
    times = (detectable / max(abs(value), 1e-9)) ** 2
    if times > 20:
        assert "more than 20 times" in said
    else:
        found = re.search(r"About (\S+) times", said)
        assert found and float(found[1]) == pytest.approx(max(times, 1.1), rel=0.06)


def test_arms_without_any_variation_are_drawn_and_nothing_is_advised(told: StudyRecord) -> None:
    same = replace(made("a", "b", 0.0, 1.0), difference=Estimate(0.0, 0.0, 10), detectable=0.0)
    (card,) = cards(told, replace(verdict(told), comparisons=(same,)))
    assert (card.word, card.settles) == ("no difference found", "") and "nan" not in card.bar


@given(value=st.floats(-1, 1), se=st.floats(0.001, 1), widest=st.floats(0.5, 3))
def test_a_bar_lies_within_its_card_and_on_the_side_of_whoever_leads(value: float, se: float, widest: float) -> None:
    pair = replace(made("a", "b", value, 0.5), difference=Estimate(value, se, 10))
    drawn = str(bar(pair, max(widest, abs(value), *map(abs, pair.interval()))))
    left, right = (float(x) for x in re.findall(r'interval" d="M(\S+) 15\S*L(\S+) ', drawn)[0])
    middle = float(re.findall(r'cx="(\S+)"', drawn)[0])
    assert 4 <= left <= middle <= right <= 316
    assert (middle - 160) * value >= -0.1


def test_what_was_compared_comes_first_and_the_rest_is_folded(full: StudyRecord) -> None:
    found = cards(full, verdict(full))
    tones = [card.tone for card in found]
    assert tones == sorted(tones, key=["told", "none", "apart"].index) and len(found) == 15
    assert in_sight(found) == min(6, sum(tone != "apart" for tone in tones) or 2)
    assert all(card.settles for card in found if card.tone == "apart"), "each says which run would settle it"


# --- who wins, who judges ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_wins_of_two_policies_add_to_one(own: list[int], other: list[int]) -> None:
    a, b = np.array(own, float), np.array(other, float)
    assert wins(a, b) + wins(b, a) == pytest.approx(1)
    assert 0 <= wins(a, b) <= 1


def test_the_win_matrix_counts_pairs_of_samples_of_one_prompt_and_different_numbers(told: StudyRecord) -> None:
    found = win_matrix(told)
    assert found is not None and found.entries[0].name == "reference"
    rewards = {(s.run, s.prompt_id, s.sample): s.reward or 0 for s in told.samples if s.step in (0, 32)}
    for entry, row in zip(found.entries[1:], found.rows[1:], strict=True):
        pairs = [
            (own > other) + 0.5 * (own == other)
            for (run, prompt, number), own in rewards.items()
            for (against, same, another), other in rewards.items()
            if run in {r.run for r in entry.runs} and against == "reference" and same == prompt and number != another
        ]
        assert row[0] is not None and row[0].share == pytest.approx(sum(pairs) / len(pairs))
    for i, row in enumerate(found.rows):
        assert row[i] is None
        for j, cell in enumerate(row):
            other = found.rows[j][i]
            assert i == j or (cell is not None and other is not None and cell.share + other.share == pytest.approx(1))


def test_of_many_policies_the_matrix_shows_each_arm_at_about_one_kl(full: StudyRecord) -> None:
    found = win_matrix(full)
    assert found is not None and len(found.entries) == 7 <= MOST
    assert "6 of 11 policies" in found.note and len({entry.arm for entry in found.entries}) == 7


def test_an_opinion_that_says_the_same_agrees_and_one_that_says_the_opposite_does_not(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=12)
    change(folder, "samples.jsonl", read_samples,
           lambda row: replace(row, extra={"same": 2 * row.reward, "opposite": 1 - row.reward}))  # fmt: skip
    same, opposite = opinions(read_study(folder))
    assert (same.agrees, same.correlation, same.prompts) == ("100 ± 0.00", "1.00", 12)
    assert opposite.agrees.startswith("0.00") and opposite.correlation == "−1.00"


# --- samples ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5_000_000), max_size=300))
def test_so_many_prompts_as_fit_are_shown_and_one_at_least(sizes: list[int]) -> None:
    kept = how_many(sizes)
    assert kept == 0 if not sizes else 1 <= kept <= min(len(sizes), MOST_PROMPTS)
    if sizes and kept > 1:
        assert kept * sum(sizes) / len(sizes) <= ROOM
    if sizes and kept < min(len(sizes), MOST_PROMPTS):
        assert (kept + 1) * sum(sizes) / len(sizes) > ROOM


@given(count=st.integers(1, 40), more=st.integers(0, 60))
def test_shown_prompts_are_evenly_spaced(count: int, more: int) -> None:
    kept = spread(list(range(count + more)), count)
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert len(kept) == count and (not gaps or max(gaps) - min(gaps) <= 1)


# --- Markdown and JSON ------------------------------------------------------------------------------------------------


def test_the_summary_has_a_row_for_every_pair_and_every_alarm(tmp_path: Path) -> None:
    study = read_study(write_alarming_study(tmp_path, prompts=8))
    answer = verdict(study)
    text = summary(study, answer)
    assert text.count("\n| `") == len(answer.comparisons) + len(answer.best) and len(answer.alarms) == 11
    assert text.count("> - ") == 11
    assert plain(headline(study, answer)) in text


@given(text=st.text(st.characters(exclude_categories=())))
def test_untrusted_text_is_one_line_of_markdown_that_does_nothing(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown and not re.search(r"(?<!\\)[`*_\[\]|~!>]|<|@|(?<!&)#|://", shown)
    inside = code(text)
    fence = re.match("`+", inside)
    assert fence and "|" not in inside and "\n" not in inside
    assert fence[0] not in inside.strip("`").strip()


def test_a_hostile_name_breaks_no_table(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    name = "x`|\n<b>@all " + EVIL
    change(folder, "results.jsonl", read_results, lambda row: replace(row, arm=name if row.step else row.arm))
    text = markdown([Path(set_info(folder, arms=[name, "y"], title=name))])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows and all(line.replace("\\|", "").count("|") in (3, 6) for line in rows)
    outside = re.sub(r"(`+)[^`].*?(?<!`)\1(?!`)", "", text)
    assert not re.search(r"<(?!details|summary|/|sub)", outside) and "@" not in outside


def test_json_is_what_the_file_says(told: StudyRecord) -> None:
    write_report(told.folder)
    assert verdict_json([told.folder]) + "\n" == (told.folder / "verdict.json").read_text(encoding="utf-8")


# --- two studies ------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "first", tmp_path / "second"
    curves = {"dpo": (0.7, 0.03), "ipo": (0.3, 0.03)}
    for folder, arm in zip(folders, curves, strict=True):
        folder.mkdir()
        write_synthetic_study(folder, curves={"dpo": curves[arm]}, arms=("dpo",), seeds=(0, 1), prompts=32)
    return folders


def changed(folder: Path, **parts: Any) -> Path:
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    return set_info(folder, **{name: info[name] | value for name, value in parts.items()})


def test_an_arm_of_one_study_is_compared_with_that_of_the_other(two: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = map(read_study, two)
    merged, beside = put_beside(first, second)
    (pair,) = verdict(merged).comparisons
    assert (pair.a, pair.b, pair.verdict) == ("dpo[A]", "dpo[B]", "better") and pair.runs == 8
    alone = verdict(first).frontiers[0]
    assert verdict(merged).frontiers[0] == replace(alone, arm="dpo[A]"), "a frontier does not depend on its neighbour"
    page = Page(write_comparison(*two, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "At the same KL dpo[A] gains more reward than dpo[B]." in page.words
    assert [side.mark for side in beside.studies] == ["A", "B"] and "first beside second" in page.words


def test_each_study_is_asked_for_its_own_runs(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "third"
    other.mkdir()
    write_synthetic_study(other, curves={"dpo": (0.5, 0.03)}, arms=("dpo",), betas=(0.2,), seeds=(0, 1, 2), prompts=32)
    merged, _ = put_beside(read_study(two[0]), read_study(other))
    assert len(merged.expected()) == 4 + 3 and merged.unfinished() == () == merged.at_noise(0.0).unfinished()


def test_settings_that_differ_are_told(two: tuple[Path, Path]) -> None:
    changed(two[1], settings={"lr": 3e-4})
    assert differences(*(read_study(folder).info for folder in two)) == [("lr", "0.0001", "0.0003")]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"data": {"tokens_sha256": "other"}}, "its data is not that of"),
        ({"reference": {"sha256": "other"}}, "its reference model is not that of"),
        ({"gold": {"name": "other"}}, "its judge is not that of"),
        ({"settings": {"max_new_tokens": 99}}, "its --max-new-tokens is not that of"),
    ],
)
def test_studies_of_other_data_or_evaluation_are_refused(
    two: tuple[Path, Path], tmp_path: Path, parts: dict[str, Any], words: str
) -> None:
    set_info(two[0], reference={})
    set_info(two[1], reference={})
    changed(two[1], **parts)
    with pytest.raises(UserError, match=words):
        write_comparison(*two, tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()


def test_studies_of_other_prompts_and_a_study_with_itself_are_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="both are the same study"):
        put_beside(read_study(two[0]), read_study(two[0]))
    change(two[1], "samples.jsonl", read_samples, lambda row: replace(row, prompt="another"))
    with pytest.raises(UserError, match="held-out prompts are not those of"):
        put_beside(*map(read_study, two))
