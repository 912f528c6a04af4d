"""The benchmark of faults, on one command: what is killed and gone on with, and what else happens to it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from bench.attempts import Strike
from bench.commands import COMMANDS, differences, make_inputs
from bench.disturbances import one_folder
from bench.tries import STOPPED, Undisturbed, kill, undisturbed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A short training with LoRA, accumulated, its state saved after every step."""
    folder = tmp_path_factory.mktemp("faults")
    command = next(command for command in COMMANDS if command.name == "train ipo --lora 2")
    return undisturbed(command, make_inputs(folder), folder / "whole")


def test_a_process_is_struck_where_it_was_meant_to_be(whole: Undisturbed, tmp_path: Path) -> None:
    """In the middle of a save it dies of SIGKILL and stops for SIGTERM, which says how to go on."""
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, STOPPED)):
        ended = whole.start(tmp_path, on=(tmp_path / "out").exists()).end(Strike("saving a state", 2, 0.0, number))
        assert ended.struck and ended.code == code, ended.said
    assert "--resume goes on" in ended.said and not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("seed", [9, 20, 31])
def test_what_is_killed_and_gone_on_with_is_what_nobody_disturbed(
    seed: int, whole: Undisturbed, tmp_path: Path
) -> None:
    found = kill(whole, seed, tmp_path)
    assert found.strikes and not found.wrong, found


def test_of_two_processes_in_one_folder_one_is_refused(whole: Undisturbed, tmp_path: Path) -> None:
    found = one_folder(whole, 0, tmp_path)
    assert not found.wrong, found


def test_a_difference_of_one_bit_is_found(whole: Undisturbed) -> None:
    path = whole.work / "out" / "policy" / "model.safetensors"
    held = path.read_bytes()
    assert differences(whole.work / "out", whole.left) == []
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert differences(whole.work / "out", whole.left) == ["policy/model.safetensors"]
    path.write_bytes(held)
