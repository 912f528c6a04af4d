"""The command line as a person meets it: one line for a mistake, exit 2, nothing written."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from synthetic_study import write_synthetic_study
from two_ranks import environment

from preftune.cli.parser import COMMANDS, build_parser, given, method_in
from preftune.errors import Interrupted
from preftune.launch import launched
from preftune.methods import METHODS, all_options, flag, help_of
from preftune.training import Settings

ROW = {"prompt": "x", "chosen": "a b", "rejected": "c"}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


BAD_FILES = {
    "missing": (None, "no such file"),
    "empty": ("", "empty"),
    "broken": (json.dumps(ROW) + "\n{broken\n", "data.jsonl:2"),
    "no responses": (json.dumps({"prompt": "x"}) + "\n", "chosen"),
    "label 3": (json.dumps({"prompt": "x", "a": "1", "b": "2", "label": 3}) + "\n", "label"),
    "p 1.5": (json.dumps({"prompt": "x", "a": "1", "b": "2", "p": 1.5}) + "\n", "1.5"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_preference_file_is_one_line_exit_2_and_nothing_written(case, run, tmp_path):
    content, says = BAD_FILES[case]
    data = tmp_path / "data.jsonl"
    if content is not None:
        write(data, content)
    code, _, error = run("train", "dpo", "--model", "m", "--data", data, "--beta", 1, "--out", tmp_path / "out")
    assert code == 2
    assert error.count("\n") == 1 and "data.jsonl" in error and says in error
    assert not (tmp_path / "out").exists()


def test_a_truncated_gzip_is_one_line_exit_2(run, tmp_path):
    data = tmp_path / "data.jsonl.gz"
    whole = gzip.compress("".join(json.dumps({**ROW, "prompt": str(i)}) + "\n" for i in range(500)).encode())
    data.write_bytes(whole[: len(whole) // 2])
    code, _, error = run("train", "dpo", "--model", "m", "--data", data, "--beta", 1, "--out", tmp_path / "out")
    assert code == 2 and error.count("\n") == 1 and "data.jsonl.gz" in error
    assert not (tmp_path / "out").exists()


MISTAKES = {
    "a folder that is no model": (["--model", "{folder}", "--beta", "1"], "no model"),
    "beta 0": (["--model", "m", "--beta", "0"], "greater than 0"),
    "a rate that is no number": (["--model", "m", "--beta", "1", "--lr", "x"], "--lr x: must be a number, or auto"),
    "auto": (["--model", "m", "--beta", "1", "--lr", "auto"], "auto is for compare"),
    "beta that is no number": (["--model", "m", "--beta", "x"], "must be a number"),
    "beta left out": (["--model", "m"], "--beta"),
    "an unknown flag": (["--model", "m", "--beta", "1", "--lrr", "1"], "did you mean --lr?"),
    "a precision that is none": (["--model", "m", "--beta", "1", "--precision", "fp8"], "fp32, bf16"),
    "smoothing of a half": (["--model", "m", "--beta", "1", "--label-smoothing", "0.5"], "below 0.5"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_the_settings_is_one_line_exit_2_and_nothing_written(case, run, tmp_path):
    flags, says = MISTAKES[case]
    data = write(tmp_path / "data.jsonl", json.dumps(ROW) + "\n")
    flags = [flag.format(folder=tmp_path) for flag in flags]
    code, _, error = run("train", "dpo", "--data", data, "--out", tmp_path / "out", *flags)
    assert code == 2 and error.count("\n") == 1 and says in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["comapre"], "did you mean compare?"),
        ([], "name a command"),
        (["train", "dpoo", "--model", "m", "--data", "{data}", "--out", "o", "--beta", "1"], "did you mean 'dpo'?"),
        (["compare", "--model", "m", "--data", "{data}", "--methods", "ipoo", "--out", "o"], "did you mean 'ipo'?"),
        (["compare", "--model", "m", "--data", "{data}", "--methods", "ipo[lrr=1]", "--out", "o"], "'lr'"),
        (["compare", "--model", "m", "--data", "{data}", "--methods", "ipo", "--betas", "1,x", "--out", "o"], "1,x"),
        (["compare", "--model", "m", "--data", "{data}", "--methods", "ipo,ipo", "--out", "o"], "twice"),
        (["plan", "--model", "m", "--data", "{data}", "--methods", "ipoo", "--out", "o"], "did you mean 'ipo'?"),
        (["data", "covert", "{data}", "o"], "data convert"),
        (["demo", "--size", "huge", "--out", "o"], "default, full"),
        (["report", "."], "study.json"),
        (["report", ".", "x"], "give --compare"),
        (["report", "--compare", "."], "1 named"),
        (["report", ".", "--json", "--md"], "give one of them"),
        (["report", ".", "--out", "x.html"], "--out is the page of --compare"),
        (["report", "--compare", ".", "x", "--out", "nowhere/x.html"], "nowhere/x.html"),
        (["sample", ".", "--prompt", "x"], "no trained policy"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(arguments, says, run, tmp_path, monkeypatch):
    data = write(tmp_path / "data.jsonl", json.dumps(ROW) + "\n")
    monkeypatch.chdir(tmp_path)
    code, _, error = run(*(argument.format(data=data) for argument in arguments))
    assert code == 2 and error.count("\n") == 1 and says in error, error
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_settings_come_from_yaml_and_flags_after_it_win(tmp_path):
    settings = "betas: [0.1, 2]\nbatch_size: 3\nmethods: [dpo, 'ipo[reduction=mean]']\nlr: 1e-5\n"
    config = write(tmp_path / "c.yaml", settings)
    flags = ["--model", "m", "--data", "d", "--out", "o", "--batch-size", "5"]
    values = given(build_parser().parse_args(["compare", "--config", str(config), *flags]))
    assert values["betas"] == [0.1, 2.0] and values["batch_size"] == 5 and values["lr"] == 1e-5
    assert values["methods"] == "dpo,ipo[reduction=mean]"


def test_an_unknown_setting_in_yaml_is_refused_with_the_nearest(run, tmp_path):
    config = write(tmp_path / "c.yaml", "batchsize: 3\n")
    code, _, error = run("train", "dpo", "--config", config)
    assert code == 2 and error.count("\n") == 1 and "batchsize" in error and "batch-size" in error


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, run):
    code, out, _ = run(command, "--help")
    assert code == 0 and COMMANDS[command].example in out


@pytest.mark.parametrize("method", [name for name in METHODS if name != "best-of-n"])
def test_the_help_of_a_method_has_its_own_options_with_their_defaults_and_no_others(method, run):
    code, out, _ = run("train", method, "--help")
    words = " ".join(out.split())
    own = fields(METHODS[method].options)
    assert code == 0 and METHODS[method].about in words and len(out.splitlines()) <= (61 if len(own) <= 3 else 78)
    for option in (*fields(Settings), *own):
        stated = help_of(option)
        assert f"--{flag(option.name)} " in words and " ".join(stated.split()) in words.replace("- ", "-"), option.name
    shown = {found for found in re.findall(r"--([a-z][\w-]*)", out)}
    others = {flag(name) for name in all_options()} - {flag(option.name) for option in own}
    assert not shown & others
    assert ("--beta" in out) is METHODS[method].uses_reference and ("--kind" in out) is (
        method == "reward" or bool(METHODS[method].needs)
    )


def test_the_method_is_found_wherever_it_stands_and_is_no_value_of_a_flag():
    assert method_in(["train", "--out", "dpo", "ppo", "--help"]) == "ppo"
    assert method_in(["train", "--resume", "ipo"]) == "ipo" and method_in(["train", "--help"]) == ""


MISTAKES_WITHOUT_TORCH = [
    ["train", "dpo", "--beta", "0"],
    ["train", "dpo", "--beta", "1", "--rollouts", "3"],
    ["train", "amortized-ipo", "--beta", "1", "--head", "general", "--kind", "full"],
    ["train", "reward", "--beta", "1"],
    ["train", "ppo", "--beta", "1", "--kind", "lora"],
    ["compare", "--methods", "dpo,ipoo"],
    ["compare", "--methods", "dpo", "--whiten", "false"],
    ["compare", "--methods", "gpo[convex=concave]"],
    ["compare", "--methods", "dpo", "--betas", "-1"],
    ["compare", "--methods", "dpo", "--lr", "automatic"],
    ["compare", "--methods", "dpo", "--lr", "auto", "--validation-fraction", "2"],
    ["train", "dpo", "--beta", "1", "--lr", "auto"],
    ["plan", "--methods", "dpo,ipoo"],
    ["plan", "--methods", "dpo", "--betas", "-1"],
    ["plan", "--methods", "dpo", "--whiten", "false"],
]


@pytest.mark.parametrize("arguments", MISTAKES_WITHOUT_TORCH, ids=" ".join)
def test_a_wrong_setting_is_answered_before_torch_is_loaded(arguments, tmp_path):
    code = "import sys\nfrom preftune.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *arguments, "--model", "m", "--data", "d", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.strip() == "False" and done.stderr.count("\n") == 1, done.stderr


def test_the_package_is_the_command_line_too():
    done = subprocess.run([sys.executable, "-m", "preftune", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "preftune train METHOD --help" in done.stdout


def test_convert_writes_canonical_json_lines_and_counts_what_it_skips(run, tmp_path):
    rows = [ROW, {**ROW, "chosen": ""}, {**ROW, "prompt": "y"}]
    data = write(tmp_path / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    code, out, error = run("data", "convert", data, tmp_path / "out.jsonl")
    assert code == 0 and "2 ballots from 3 rows" in out and "1 × an empty response" in error
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_preview_shows_how_rows_are_read_and_writes_nothing(run, tmp_path):
    rows = [{"q": "x\u202e?", "best": "good", "worst": "bad"}, {"q": "y", "best": "same", "worst": "same"}]
    data = write(tmp_path / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns = "prompt=q,chosen=best,rejected=worst"
    code, out, _ = run("data", "convert", data, tmp_path / "out", "--preview", "3", "--columns", columns)
    assert code == 0 and not (tmp_path / "out").exists()
    assert "prompt: x⟨U+202E⟩?" in out and "[0] good" in out and "[0] over [1]" in out
    assert f"{data}:2: skipped: identical responses" in out
    code, _, error = run("data", "convert", data, "--preview", "3")
    assert code == 0 and error == ""
    code, _, error = run("data", "convert", data)
    assert code == 2 and "--preview N" in error
    code, _, error = run("data", "convert", data, "--preview", "0")
    assert code == 2 and "--preview 0" in error


def test_what_cannot_be_read_is_left_out_and_told_only_if_a_person_says_so(run, tmp_path):
    data = write(tmp_path / "data.jsonl", json.dumps(ROW) + "\n{oops\n")
    code, _, error = run("data", "convert", data, tmp_path / "out")
    assert code == 2 and f"{data}:2: broken JSON" in error and "--skip-bad" in error
    code, out, error = run("data", "convert", data, tmp_path / "out", "--skip-bad")
    assert code == 0 and "1 ballots from 2 rows" in out
    assert "skipped: 1 × rows that cannot be read" in error and f"{data}:2: broken JSON" in error


@pytest.mark.parametrize(
    ("stop", "says"), [(KeyboardInterrupt(), "stopped"), (Interrupted("after step 3"), "after step 3")]
)
def test_an_interruption_says_how_to_go_on_and_exits_130(stop, says, run, monkeypatch):
    def interrupted(given):
        raise stop

    monkeypatch.setitem(COMMANDS, "report", replace(COMMANDS["report"], run=interrupted))
    code, _, error = run("report", "somewhere")
    assert (code, error) == (130, f"preftune: {says}; run it again\n")


def test_the_installed_command_exits_2_without_a_traceback(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", "from preftune.cli import main; main()", "train", "dpo", "--data", "nope.jsonl"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr.count("\n") == 1


def test_the_lab_writes_its_page_and_its_study(run, tmp_path):
    code, out, _ = run("lab", "--quick", "--out", tmp_path / "lab.html")
    assert code == 0 and "lab.html" in out and (tmp_path / "lab.html").stat().st_size > 10_000
    code, out, _ = run("lab", "study", "--quick", "--seed", 3, "--out", tmp_path / "study.json")
    told = json.loads((tmp_path / "study.json").read_text())
    assert code == 0 and told["seed"] == 3 and told["quick"] is True and len(told["cells"]) > 40
    assert "noise-aware v" in out and "3-cycle" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lab", "pages"], "lab writes the page"),
        (["lab", "--out", "no/such/lab.html"], "there is no such folder"),
        (["lab", "--out", "."], "is a folder; name a file"),
    ],
)
def test_a_mistake_at_the_lab_is_one_line(arguments, says, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(*arguments)
    assert code == 2 and error.count("\n") == 1 and says in error
    assert not list(tmp_path.iterdir())


def test_a_report_is_drawn_printed_and_put_beside_another(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 1), ("b", 2)):
        write_synthetic_study(tmp_path / name, prompts=4, rng_seed=seed)
    before = sorted(tmp_path.rglob("*"))
    code, out, error = run("report", "a", "--json")
    assert code == 0 and json.loads(out)["schema"] == 2 and error == ""
    code, out, _ = run("report", "a", "--md")
    assert code == 0 and out.startswith("### DPO against IPO on movie reviews\n") and "| `dpo` and `ipo` |" in out
    assert sorted(tmp_path.rglob("*")) == before, "what prints writes nothing"
    assert run("report", "a")[:2] == (0, "report: a/report.html\n")
    assert {path.name for path in (tmp_path / "a").iterdir()} > {"report.html", "verdict.json", "frontier.png"}
    assert run("report", "--compare", "a", "b")[:2] == (0, "report: comparison.html\n")
    assert run("report", "--compare", "a", "b", "--out", "c.html")[:2] == (0, "report: c.html\n")
    code, out, _ = run("report", "--compare", "a", "b", "--json")
    assert code == 0 and len(json.loads(out)["pairs"]) == 6


# --- under torchrun ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_of_one_process_says_so_once(rank, run, monkeypatch):
    for name, value in environment(rank, 29500).items():
        monkeypatch.setenv(name, value)
    said = "preftune: report: is the work of one process; start it without torchrun\n"
    assert run("report", "study") == (2, "", "" if rank else said)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "0"}, "RANK=0 is set in the environment and WORLD_SIZE is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set in the environment and RANK is not"),
        (environment(0, 29500) | {"RANK": "one"}, "RANK=one in the environment: must be a whole number"),
        (environment(0, 29500) | {"RANK": "7"}, "RANK=7 in the environment: there are 2 processes, counted from 0"),
    ],
)
def test_an_odd_environment_is_one_line(variables, said, run, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, error = run("report", "study")
    assert (code, error.count("\n")) == (2, 1) and error.startswith(f"preftune: {said}; start with torchrun")


def test_torchrun_with_one_process_is_a_plain_run(monkeypatch):
    for name, value in (environment(0, 29500) | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    assert launched() is None
