"""Records of a study folder: what is written is what is read, whatever interrupts the writing."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import write_synthetic_study

from preftune.errors import UserError
from preftune.evidence.conclusion import verdict
from preftune.evidence.results import REFERENCE, Result, Sample, read_metrics, read_results, read_samples, read_study
from preftune.evidence.rows import append_records, write_json, write_records

RESULT = Result(run="dpo-0.1-0", arm="dpo", method="dpo", beta=0.1, seed=0, step=8, kl=0.5)
SAMPLE = Sample(run="dpo", step=8, prompt_id=3, prompt="p", sample=0, response="r", tokens=2, ended=True, kl=0.5)

any_text = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs too
numbers = st.floats()
measured = st.floats(-1e100, 1e100) | st.sampled_from([float("nan"), float("inf"), -float("inf")])
results = st.builds(
    Result,
    run=any_text,
    arm=any_text,
    method=any_text,
    beta=st.none() | numbers,
    seed=st.integers(),
    step=st.integers(),
    reward=st.none() | numbers,
    kl=st.none() | numbers,
    extra=st.dictionaries(any_text, numbers, max_size=1),
)
samples = st.builds(
    Sample,
    run=any_text,
    step=st.integers(),
    prompt_id=st.integers(),
    prompt=any_text,
    sample=st.integers(),
    response=any_text,
    tokens=st.integers(0),
    ended=st.booleans(),
    kl=measured,
    reward=st.none() | measured,
    extra=st.dictionaries(any_text, numbers, max_size=1),
)


def told(record: Any) -> str:
    """A record in print, where nan equals nan and two halves of a surrogate pair are the character that they make."""

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            return {whole(key): whole(item) for key, item in value.items()}
        if isinstance(value, str):
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return value

    return repr(whole(asdict(record)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@given(row=results)
def test_a_result_is_read_as_it_was_written(folder: Path, row: Result) -> None:
    write_records(folder / "results.jsonl", [row])
    (back,) = read_results(folder / "results.jsonl")
    assert told(back) == told(row)


@given(row=samples)
def test_a_sample_is_read_as_it_was_written_whatever_its_text(folder: Path, row: Sample) -> None:
    write_records(folder / "samples.jsonl", [row])
    (back,) = read_samples(folder / "samples.jsonl")
    assert told(back) == told(row)


@given(row=results)
def test_every_line_is_json_for_any_reader(folder: Path, row: Result) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    write_records(folder / "strict.jsonl", [row, row])
    lines = (folder / "strict.jsonl").read_bytes().decode("utf-8").split("\n")
    assert len(lines) == 3 and lines[-1] == ""
    for line in lines[:-1]:
        json.loads(line, parse_constant=refuse)


def test_a_write_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_records(path, [RESULT])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_records(path, [RESULT, {"step": object()}])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"lr": float("nan")})
    assert path.read_bytes() == before


@given(rows=st.lists(samples, min_size=1, max_size=3, unique_by=lambda s: (s.run, s.step)), data=st.data())
def test_a_file_cut_anywhere_reads_its_whole_lines_and_can_be_continued(
    folder: Path, rows: list[Sample], data: st.DataObject
) -> None:
    path = folder / "samples.jsonl"
    write_records(path, rows)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    kept = [told(row) for row, end in zip(rows, ends, strict=True) if end <= cut]  # all but its newline is whole
    assert [told(row) for row in read_samples(path)] == kept
    new = replace(SAMPLE, step=-1, run="another run")
    append_records(path, [new])
    assert [told(row) for row in read_samples(path)] == [*kept, told(new)]


def test_appending_makes_the_file_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_records(path, [{"step": 1, "loss": 0.7}])
    append_records(path, [{"step": 2, "loss": float("inf")}])
    assert read_metrics(path) == ({"step": 1, "loss": 0.7}, {"step": 2, "loss": float("inf")})


def test_a_line_written_again_after_an_interruption_replaces_the_first(tmp_path: Path) -> None:
    write_records(tmp_path / "results.jsonl", [RESULT, replace(RESULT, step=16), replace(RESULT, kl=0.75)])
    assert [(row.step, row.kl) for row in read_results(tmp_path / "results.jsonl")] == [(8, 0.75), (16, 0.5)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: should be a JSON object, got list"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"arm": "dpo"}', "line 2: `run` is missing"),
        (json.dumps({**asdict(RESULT), "colour": "red"}), "line 2: unknown `colour`"),
        (json.dumps({**asdict(RESULT), "step": "8"}), "line 2: `step` should be a whole number, got '8'"),
        (json.dumps({**asdict(RESULT), "step": True}), "line 2: `step` should be a whole number, got True"),
        (json.dumps({**asdict(RESULT), "kl": "much"}), "line 2: `kl` should be a number, got 'much'"),
        (json.dumps({**asdict(RESULT), "arm": None}), "line 2: `arm` should be text, got None"),
        (json.dumps({**asdict(RESULT), "extra": {"vader": None}}), "line 2: `extra.vader` should be a number"),
        (json.dumps({**asdict(RESULT), "extra": 3}), "line 2: `extra` should be an object of numbers"),
    ],
)
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(asdict(RESULT)) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_results(path)
    assert f"{path}, {complaint}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metrics_need_their_step(tmp_path: Path) -> None:
    write_records(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 0.7}, {"loss": 0.6}])
    with pytest.raises(UserError, match="line 2: `step` is missing"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_study_is_read_whole(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path, arms=("dpo", "sft"), seeds=(0, 1), prompts=4, steps=(2, 4)))
    assert len(study.results) == 1 + (2 + 1) * 2 * 2  # the reference; two β and none; two seeds; two steps
    assert len(study.samples) == len(study.results) * 4 * 2
    assert {len(steps) for steps in study.metrics.values()} == {4}
    assert study.reference() == study.results[0] and study.results[0].run == REFERENCE
    assert {(row.run, row.step) for row in study.finals()} == {(run, 4) for run in study.metrics}
    assert study.unfinished() == () and study.notes == ()


def test_an_arm_without_beta_is_expected_once_per_seed(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, arms=("dpo", "sft"), betas=(0.1, 0.5), seeds=(0, 1), unfinished=6)
    study = read_study(folder)
    assert sorted(study.expected(), key=repr) == sorted(
        [("dpo", beta, seed, 0.0) for beta in (0.1, 0.5) for seed in (0, 1)] + [("sft", None, s, 0.0) for s in (0, 1)],
        key=repr,
    )
    assert study.unfinished() == study.expected()


def test_arms_with_betas_of_their_own_are_expected_at_those(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, arms=("dpo", "ipo", "sft"), unfinished=5)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"arm_betas": {"dpo": [0.5], "ipo": [0.1, 0.02]}})
    asked = [(arm, beta) for arm, beta, *_ in read_study(folder).expected()]
    assert asked == [("dpo", 0.5), ("ipo", 0.1), ("ipo", 0.02), ("sft", None)]
    write_json(folder / "study.json", info)
    asked = [(arm, beta) for arm, beta, *_ in read_study(folder).expected()]
    assert asked == [("dpo", 0.1), ("dpo", 0.5), ("ipo", 0.1), ("ipo", 0.5), ("sft", None)]


def test_a_run_that_stopped_early_is_unfinished(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    rows = [row for row in read_results(folder / "results.jsonl") if (row.arm, row.beta, row.step) != ("ipo", 0.5, 32)]
    write_records(folder / "results.jsonl", rows)
    assert read_study(folder).unfinished() == (("ipo", 0.5, 0, 0.0),)
    info = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    write_json(folder / "study.json", info | {"steps": {"ipo": 24}})
    assert read_study(folder).unfinished() == ()


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, prompts=4)
    content = (folder / "samples.jsonl").read_bytes()
    (folder / "samples.jsonl").write_bytes(content[:-20])
    study = read_study(folder)
    assert len(study.samples) == content.count(b"\n") - 1
    assert study.notes == ("The last line of samples.jsonl was cut off by an interruption and is left out.",)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (None, "is no study folder"),
        ("{", "is not JSON"),
        ("[]", "should hold one JSON object"),
        ('{"betas": [], "seeds": []}', "`arms` is missing"),
        ('{"arms": "dpo", "betas": [], "seeds": []}', "`arms` should be of the kind list, got 'dpo'"),
        ('{"arms": [1], "betas": [], "seeds": []}', "`arms` holds 1, which is no str"),
        ('{"arms": ["dpo"], "betas": ["0.1"], "seeds": [0]}', "`betas` holds '0.1', which is no float"),
        ('{"arms": [], "betas": [], "seeds": [], "arm_betas": []}', "`arm_betas` should be of the kind object"),
        (
            '{"arms": [], "betas": [], "seeds": [], "arm_betas": {"dpo": 0.1}}',
            "`arm_betas.dpo` should be a list",
        ),
        (
            '{"arms": [], "betas": [], "seeds": [], "arm_betas": {"dpo": [null]}}',
            "dpo[0]` should be a number",
        ),
        ('{"arms": [], "betas": [], "seeds": [], "notes": "none"}', "`notes` should be of the kind list"),
    ],
)
def test_a_folder_that_is_no_study_is_refused(tmp_path: Path, change: str | None, complaint: str) -> None:
    if change is not None:
        (tmp_path / "study.json").write_text(change, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_study(tmp_path)
    assert complaint in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "arms", "arithmetic", "wrong"),
    [
        ({"lora": 4}, ["ipo"], None, True),
        ({"lora": 0}, ["ipo", "dpo[lora=8]"], 2, True),
        ({"lora": 4}, ["ipo"], 3, False),
        ({"lora": 0}, ["ipo", "dpo[lora=0]"], None, False),
        ({}, ["ipo"], None, False),
    ],
)
def test_held_out_figures_of_adapters_from_before_the_store_was_mended_are_left_out_and_said_to_be(
    settings: dict[str, int], arms: list[str], arithmetic: int | None, wrong: bool, tmp_path: Path
) -> None:
    info = {"arms": arms, "betas": [0.1], "seeds": [0], "settings": settings}
    info |= {} if arithmetic is None else {"arithmetic": arithmetic}
    write_json(tmp_path / "study.json", info)
    measured = {"kl": 1.0, "accuracy": 0.5, "accuracy_se": 0.0, "log_loss": 0.7, "validation": 0.7}
    rows = [
        Result(run=run, arm=run, method=run, beta=None, seed=0, step=1, **measured) for run in (REFERENCE, "ipo-seed0")
    ]
    write_records(tmp_path / "results.jsonl", rows)
    study = read_study(tmp_path)
    reference, row = study.results
    assert reference.accuracy == 0.5 and row.kl == 1.0
    figures = (row.accuracy, row.accuracy_se, row.log_loss, row.validation)
    assert figures == ((None,) * 4 if wrong else (0.5, 0.0, 0.7, 0.7))
    assert any("measured held-out votes against its first policy" in note for note in study.notes) == wrong
    assert any("first policy" in caveat for caveat in verdict(study).caveats) == wrong
