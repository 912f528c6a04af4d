"""Settings that cannot be meant: one line that names the setting, exit 2, before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from studies import WORDS, make_ballots
from tiny import tiny_llama

from preftune.cli import config
from preftune.data import write_ballots

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a data file and a file that is no folder."""
    folder = tmp_path_factory.mktemp("there")
    tiny_llama(folder / "model", WORDS)
    write_ballots(make_ballots(), folder / "data.jsonl")
    (folder / "file").write_text("precious")
    return folder


@pytest.fixture
def at(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(there)
    return there


SHARED = ["--model", "model", "--data", "data.jsonl", "--device", "cpu", "--max-length", "24", "--steps", "2"]
TRAIN = ["train", "dpo", *SHARED, "--beta", "0.1"]
COMPARE = ["compare", *SHARED, "--methods", "dpo,ipo", "--betas", "0.1"]
SAMPLE = ["sample", "model", "--prompt", "a b", "--device", "cpu"]
EVALUATE = ["evaluate", "model", "--reference", "model", "--data", "data.jsonl", "--device", "cpu"]

WRONG = [
    (COMPARE, "--eval-fraction 2", "--eval-fraction 2.0: must be at least 0 and below 1"),
    (COMPARE, "--eval-fraction -1", "--eval-fraction -1.0: must be at least 0 and below 1"),
    (COMPARE, "--eval-fraction 1", "--eval-fraction 1.0: must be at least 0 and below 1"),
    (TRAIN, "--eval-fraction 1", "--eval-fraction 1.0: must be at least 0 and below 1"),
    (COMPARE, "--eval-prompts -1", "--eval-prompts -1: must be at least 1"),
    (COMPARE, "--eval-prompts 0", "--eval-prompts 0: must be at least 1"),
    (COMPARE, "--samples -1", "--samples -1: must be at least 0"),
    (COMPARE, "--max-new-tokens 0", "--max-new-tokens 0: must be at least 1"),
    (COMPARE, "--kind foo", "--kind 'foo': unknown"),
    (COMPARE, "--methods ppo --kind foo", "--kind 'foo': unknown"),
    (COMPARE, "--device meta", "--device meta: holds no numbers"),
    (TRAIN, "--device meta", "--device meta: holds no numbers"),
    (TRAIN, "--steps 99999999999999999999", "--steps 99999999999999999999: would be 1e+20 steps"),
    (["train", "dpo", *SHARED[:-2], "--beta", "0.1"], "--epochs 1e300", "--epochs 1e+300: would be"),
    (SAMPLE, "--samples 0", "--samples 0: must be at least 1"),
    (SAMPLE, "--samples -1", "--samples -1: must be at least 1"),
    (SAMPLE, "--max-new-tokens 0", "--max-new-tokens 0: must be at least 1"),
    (SAMPLE, "--precision fp8", "--precision fp8: must be one of fp32, bf16"),
    (SAMPLE, "--device meta", "--device meta: holds no numbers"),
    (EVALUATE, "--samples -1", "--samples -1: must be at least 0"),
    (EVALUATE, "--max-new-tokens 0", "--max-new-tokens 0: must be at least 1"),
    (EVALUATE, "--eval-prompts 0", "--eval-prompts 0: must be at least 1"),
    (EVALUATE, "--precision fp8", "--precision fp8: must be one of fp32, bf16"),
    (EVALUATE, "--micro-tokens 0", "--micro-tokens 0: must be greater than 0"),
    (EVALUATE, "--device meta", "--device meta: holds no numbers"),
    (EVALUATE, "--out file", "--out file: cannot be made"),
    (EVALUATE, "--out /dev/null", "--out /dev/null: cannot be made"),
    (COMPARE, "--out file", "--out file: cannot be made"),
    (COMPARE, "--out /dev/null", "--out /dev/null: cannot be made"),
    (TRAIN, "--out file", "--out file: is a file"),
    (TRAIN, "--out /dev/null", "--out /dev/null: cannot be made"),
]


@pytest.mark.parametrize(("command", "more", "told"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_setting_that_cannot_be_meant_is_refused(
    command: list[str], more: str, told: str, run: Cli, at: Path, tmp_path: Path
) -> None:
    needs_out = command[0] in ("train", "compare") and "--out" not in more
    code, _, errors = run(*command, *more.split(), *(["--out", tmp_path / "out"] if needs_out else []))
    assert code == 2 and errors.splitlines()[-1].startswith(f"preftune: {told}"), errors
    assert not (tmp_path / "out").exists() and (at / "file").read_text() == "precious"


def test_a_prompt_of_no_tokens_is_refused(run: Cli, at: Path) -> None:
    code, _, errors = run("sample", "model", "--prompt", "", "--device", "cpu")
    assert code == 2 and "--prompt '': comes to no token" in errors


BOMB = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
CONFIGS = {
    "itself": (b"methods: &a [*a]\n", "c.yaml:1: has an anchor or alias"),
    "bomb": (BOMB.encode(), "c.yaml:1: has an anchor or alias"),
    "latin": ("# café\nbeta: 0.1\n".encode("latin-1"), "c.yaml:1: is not UTF-8 text"),
    "deep": (b"beta: " + b"[" * 10_000, "c.yaml: is nested more than 20 deep"),
    "open": (b"a: [", "c.yaml: is not YAML"),
    "zeros": (b"\0\0\0", "c.yaml: is not YAML"),
    "list": (b"- a\n- b\n", "Unexpected config"),
    "large": (b"#" * (config.LARGEST + 1), "c.yaml: is larger than 1 MiB"),
    "unknown": (b"betta: 0.1\n", "--config: unknown setting betta; did you mean beta"),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("written", ["--config=c.yaml", "--config c.yaml"])
def test_a_file_of_settings_that_is_none_is_refused(name: str, written: str, run: Cli, at: Path) -> None:
    content, told = CONFIGS[name]
    (at / "c.yaml").write_bytes(content)
    code, _, errors = run("train", "dpo", *written.split(), *SHARED, "--out", "out")
    assert code == 2 and told in errors and errors.count("\n") == 1, errors
    assert not (at / "out").exists()


def test_a_file_of_settings_that_is_not_there_or_no_file_is_refused(run: Cli, at: Path) -> None:
    for name, told in (("nowhere.yaml", "no such file"), ("model", "is a folder")):
        code, _, errors = run("train", "dpo", "--config", name)
        assert code == 2 and f"--config {name}: {told}" in errors


def test_a_name_that_steers_the_terminal_or_is_markup_is_shown_and_not_obeyed(
    run: Cli, at: Path, tmp_path: Path
) -> None:
    for name in ("run[red]x", "\x1b[31mred", "a\u202eb"):
        (tmp_path / name).symlink_to(at / "model")
        for command in (
            ["sample", "--prompt", "a b"],
            ["evaluate", "--reference", at / "model", "--data", "data.jsonl"],
        ):
            short = ["--max-new-tokens", "2", "--eval-prompts", "2"][: 4 if command[0] == "evaluate" else 2]
            code, out, errors = run(command[0], tmp_path / name, *command[1:], *short, "--device", "cpu")
            assert code == 0 and not {"\x1b", "\u202e"} & {*out, *errors}, (out, errors)
            assert "run[red]x" in out or name != "run[red]x"
    code, _, errors = run("sample", "\x1b[31mnowhere", "--prompt", "a")
    assert code == 2 and "\x1b" not in errors and "U+001B" in errors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["compare", *SHARED, "--methods", "dpo[lora]", "--out", "out"],
            "'lora' has no value; write lora=VALUE",
        ),
        (["demo", "--quick"], "unknown flag --quick to this command; see --help"),
        (["train", "dpo", "--frobnicate", "1"], "unknown flag --frobnicate; see --help"),
        (["train", "dpo", "--betta", "1"], "unknown flag --betta; did you mean --beta?"),
    ],
)
def test_a_message_names_what_is_wrong_and_nothing_else(arguments: list[str], told: str, run: Cli, at: Path) -> None:
    code, _, errors = run(*arguments)
    assert (code == 2 and errors == f"preftune: {told}\n") or told in errors, errors
