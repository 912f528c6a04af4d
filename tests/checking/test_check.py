"""A file looked at: what must be found in it is found, and nothing is said of a file that is as it should be."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from suspicious import DAMAGE, SECRETS
from tiny import tiny_tokenizer

from preftune import Ballot, Vote
from preftune.checking import Checked, Finding, check_file, fails_strictly, findings_of, record_of, write_page
from preftune.checking.page import page_of
from preftune.checking.rows import Seen
from preftune.checking.tally import Lengths, Reservoir, width_class
from preftune.data import text_format

WORDS = [
    "river",
    "sea",
    "lake",
    "hill",
    "road",
    "tree",
    "house",
    "bird",
    "stone",
    "cloud",
    "bread",
    "fish",
    "north",
    "south",
    "cold",
    "warm",
]


def sentence(rng: random.Random, least: int = 4, most: int = 14) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most))).capitalize() + "."


def fine_rows(count: int = 400) -> list[dict[str, Any]]:
    """Pairs that nothing is wrong with: both sides from one source, the winner by chance."""
    rng = random.Random(0)
    texts = [[f"{i}: {sentence(rng)}", sentence(rng), sentence(rng)] for i in range(count)]
    return [dict(zip(("prompt", "chosen", "rejected"), three, strict=True)) for three in texts]


def check(folder: Path, rows: Iterable[Any], **options: Any) -> tuple[Checked, tuple[Finding, ...]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    checked = check_file(str(path), **options)
    return checked, findings_of(checked)


def test_of_a_file_that_is_as_it_should_be_there_is_no_warning(tmp_path: Path) -> None:
    checked, findings = check(tmp_path, fine_rows())
    assert not fails_strictly(findings), findings
    assert checked.tally.reading.ballots == 400 and checked.contests.prompts == 400
    assert {finding.key for finding in findings} == {"length", "words", "one-writer"}


def changed(change: Callable[[int, dict[str, Any]], Any], every: int = 10) -> list[Any]:
    return [change(i, row) if i % every == 0 else row for i, row in enumerate(fine_rows())]


def longer(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"chosen": f"{row['chosen']} {row['chosen']} {row['chosen']} {row['rejected']}"}


def sided(row: dict[str, Any], **said: Any) -> dict[str, Any]:
    """The row as two responses and who won."""
    return {"prompt": row["prompt"], "a": row["chosen"], "b": row["rejected"]} | said


def turned(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


CHAT = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Name a river."}]
COPIED = {"responses": ["A", "A", "B"], "ranks": [1, 2, 3]}
BROKEN_ROWS = {
    "skipped": ("warning", changed(lambda i, row: row | {"rejected": row["chosen"]})),
    "broken": ("error", changed(lambda i, row: {"question": "no responses"}, 100)),
    "no-ballots": ("error", [{"text": "a", "rating": 1}] * 3),
    "dropped": ("note", changed(lambda i, row: {"prompt": row["prompt"]} | COPIED)),
    "contradictions": ("warning", [*fine_rows(), *map(turned, fine_rows(20))]),
    "repeats": ("warning", [*fine_rows(), *fine_rows(20)]),
    "repeated-prompts": ("note", changed(lambda i, row: row | {"prompt": "Always the same."})),
    "roles": ("warning", changed(lambda i, row: row | {"prompt": CHAT})),
    "length": ("warning", [longer(row) for row in fine_rows()]),
    "words": ("warning", [row | {"chosen": "Indeed: " + row["chosen"]} for row in fine_rows()]),
    "two-writers": ("warning", [row | {"chosen": "Indeed: " + row["chosen"]} for row in fine_rows()]),
    "tell": ("warning", [row | {"chosen": " " + row["chosen"]} for row in fine_rows()]),
    "mixed": ("note", changed(lambda i, row: row | {"chosen": " " + row["chosen"]}, 3)),
    "same-words": ("warning", changed(lambda i, row: row | {"rejected": row["chosen"].upper() + "!"})),
    "beginning": ("warning", changed(lambda i, row: row | {"rejected": row["chosen"] + " And more."})),
    "models": ("note", changed(lambda i, row: row | {"chosen_model": "m1", "rejected_model": "m2"})),
    "split-leak": ("error", [row | {"prompt": "p", "split": "ab"[i]} for i, row in enumerate(fine_rows(2))]),
    "ties": ("note", [sided(row, p=0.5) for row in fine_rows(30)]),
    "place": ("warning", [sided(row, label=1 + (i % 10 == 0)) for i, row in enumerate(fine_rows())]),
    "agreement": ("warning", [sided(row, votes={"a": 2, "b": 2}) for row in fine_rows(30)]),
    "annotators": ("note", [row | {"annotator": f"ann-{i % 3}"} for i, row in enumerate(fine_rows(30))]),
}


@pytest.mark.parametrize("key", BROKEN_ROWS)
def test_what_is_wrong_with_a_file_is_found(key: str, tmp_path: Path) -> None:
    severity, rows = BROKEN_ROWS[key]
    _, findings = check(tmp_path, rows)
    found = {finding.key: finding for finding in findings}
    assert key in found and found[key].severity == severity, findings


@pytest.mark.parametrize("kind", [*DAMAGE, *SECRETS])
def test_bad_texts_are_counted_by_row_and_their_lines_named(kind: str, tmp_path: Path) -> None:
    bad = SECRETS.get(kind) or DAMAGE[kind][0]
    _, findings = check(tmp_path, changed(lambda i, row: row | {"rejected": bad + " x"}, 150))
    found = [finding for finding in findings if finding.key == "texts" and kind in finding.says]
    assert len(found) == 1 and found[0].count == 3 and [spot.row for spot in found[0].spots] == [1, 151, 301]


@pytest.mark.parametrize("secret", SECRETS.values())
def test_a_secret_is_shown_nowhere(secret: str, tmp_path: Path) -> None:
    rows = fine_rows(3)
    rows[0]["chosen"] += " " + secret
    rows[1]["prompt"] = f"My key is {secret}"
    rows[2] = {"prompt": secret, "chosen": secret, "rejected": [secret], secret: 1, "id": secret}
    checked, findings = check(tmp_path, rows)
    shown = json.dumps(record_of(checked, findings)) + page_of(checked, findings) + repr(findings)
    assert secret[8:] not in shown and secret.split("\n")[-1][8:] not in shown


def test_what_a_file_holds_is_text_on_the_page_and_nothing_else(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\u202e<img src=x onerror=alert(2)>"
    rows = [
        {
            "prompt": evil,
            "chosen": evil + "a",
            "rejected": evil + "b",
            evil: evil,
            "chosen_model": evil,
            "rejected_model": "m",
        }
    ]
    checked, findings = check(tmp_path, rows)
    path = tmp_path / "page.html"
    write_page(checked, findings, path)
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)" in page and "default-src &#39;none&#39;" in page
    assert not re.search(r"https?://", page)


def test_shared_prompts_are_an_error_and_their_absence_is_told(tmp_path: Path) -> None:
    other = tmp_path / "eval.jsonl"
    other.write_text(
        "".join(json.dumps({"prompt": row["prompt"].upper()}) + "\n" for row in fine_rows(3)), encoding="utf-8"
    )
    _, findings = check(tmp_path, fine_rows(), eval_source=str(other))
    leak = next(finding for finding in findings if finding.key == "leak")
    assert (leak.severity, leak.count, leak.of) == ("error", 3, 3) and "0 to the letter" in leak.says
    _, findings = check(tmp_path, fine_rows()[10:], eval_source=str(other))
    assert next(finding for finding in findings if finding.key == "leak").severity == "note"


def test_with_a_model_lengths_are_its_tokens_and_cuts_are_those_of_training(tmp_path: Path) -> None:
    form = text_format(tiny_tokenizer([*WORDS, "Sea."]))
    rows = [{"prompt": "sea " * 5, "chosen": "sea " * n, "rejected": "lake"} for n in range(1, 21)]
    rows.append({"prompt": "sea", "chosen": "sea <eos>", "rejected": "hill"})
    checked, findings = check(tmp_path, rows, form=form, model="tiny", max_length=16)
    tokens = checked.tokens
    assert tokens and tokens.whole[-1] == 5 + 20 + 1 and tokens.max_length == 16
    assert tokens.too_long == sum(5 + n + 1 > 16 for n in range(1, 21))
    assert sum(tokens.cut.values()) >= tokens.too_long
    assert {"cut", "specials"} <= {finding.key for finding in findings}
    assert dict(tokens.specials) == {"<eos>": 1}


def test_the_record_is_json_and_its_findings_are_those_of_the_page(tmp_path: Path) -> None:
    checked, findings = check(tmp_path, changed(lambda i, row: row | {"rejected": ""}))
    record = json.loads(json.dumps(record_of(checked, findings), allow_nan=False))
    assert record["rows"] == 400 and record["ballots"] == 360 and record["skipped"] == {"an empty response": 40}
    assert [finding["says"] for finding in record["findings"]] == [finding.says for finding in findings]
    page = page_of(checked, findings)
    assert all(str(finding.do) in page for finding in findings)


def test_every_ballot_has_the_same_chance_to_be_in_the_sample() -> None:
    times, ballot = [0] * 40, Ballot("x", ("a", "b"), (Vote(0, 1, 1.0),))
    for seed in range(2000):
        sample = Reservoir(seed, most=10)
        for number in range(40):
            sample.add(Seen(number, {}, ballot))
        for number, _ in sample.ballots:
            times[number] += 1
    assert len(sample.ballots) == 10 and all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in times)


def test_classes_of_lengths_are_two_to_a_doubling() -> None:
    classes = [width_class(size) for size in range(1, 4097)]
    assert classes == sorted(classes) and width_class(0) == 0
    starts = [classes.index(place) + 1 for place in sorted(set(classes))]
    assert starts == [
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
        32,
        48,
        64,
        96,
        128,
        192,
        256,
        384,
        512,
        768,
        1024,
        1536,
        2048,
        3072,
        4096,
    ]
    assert width_class(10**30) == len(Lengths().prompts) - 1


# --- known facts of real data ------------------------------------------------------------------------------------


def of(path: Path) -> tuple[Checked, dict[str, Finding]]:
    checked = check_file(str(path))
    return checked, {finding.key: finding for finding in findings_of(checked)}


def test_hh_has_its_empty_identical_and_edited_pairs(shared_data: Path) -> None:
    skipped = {}
    for name in ("helpful", "harmless"):
        checked, _ = of(shared_data / "hh-rlhf" / f"{name}-base.test.jsonl.gz")
        skipped[name] = dict(checked.tally.reading.skipped)
        assert not checked.tally.texts.rows, "clean texts raise no alarm"
    differ, empty, same = "a prompt that differs between the sides", "an empty response", "identical responses"
    assert skipped == {"helpful": {differ: 9, empty: 4, same: 2}, "harmless": {differ: 5, empty: 4}}


def test_pandalm_has_its_ties_empty_sides_and_models(shared_data: Path) -> None:
    checked, found = of(shared_data / "multi-vote" / "pandalm.jsonl.gz")
    assert checked.tally.votes.rows_with_tie == 136
    assert checked.tally.reading.skipped == {"an empty response": 54}
    assert found["models"].count == checked.tally.reading.ballots == 945
    assert checked.contests.agreement and checked.contests.agreement.votes == 3 * 945


def test_what_holds_no_preference_ends_well(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "mtbench_question.jsonl", *(shared_data / "human-ratings").glob("*.jsonl.gz")):
        checked, found = of(path)
        write_page(checked, tuple(found.values()), tmp_path / "page.html")
        assert found["no-ballots"].severity == "error"
