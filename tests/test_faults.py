"""Disks that are full, folders that cannot be written to, files that are cut: one line, and nothing lost."""

from __future__ import annotations

import gzip
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import STEPS, PowerCut, assert_equal_runs, contents, run, watch_steps
from safetensors import SafetensorError
from studies import make_ballots
from tiny import WORDS, tiny_tokenizer

from preftune.cli import main
from preftune.data import containers, read_ballots, templates, text_format, write_ballots
from preftune.data.ballots import Message
from preftune.errors import UserError
from preftune.files import write_named, write_whole
from preftune.model import engine, saving
from preftune.model.stores import Store, StoreKey
from preftune.preference import trained
from preftune.study.looks import Clock

FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def cut_at(step: int, **how: Any) -> None:
    """A run that dies after a step, its state saved after each."""

    def die(number: int) -> None:
        if number == step:
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        watch_steps(patch, after=die)
        run(**how, save_every=0)


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(model, folder)
    return folder


# --- a saved state that is not what was written -----------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": half,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a folder": in_its_place,
}
BROKEN = [
    *((name, damage) for name in ("record.json", "weights.safetensors", "moments.safetensors") for damage in DAMAGE),
]


@pytest.mark.parametrize(("name", "damage"), BROKEN)
def test_a_broken_state_is_set_aside_and_the_run_comes_to_the_same_end(
    name: str, damage: str, model: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out)
    DAMAGE[damage](out / "state" / name)
    run(model, out, resume=True)
    said = capsys.readouterr().err.replace("\n", "")
    assert "the saved state is broken" in said and name in said and "set aside as state.broken" in said
    assert_equal_runs(out, whole)


def test_a_state_with_one_bit_turned_is_set_aside(model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out)
    flipped(out / "state" / "moments.safetensors")
    run(model, out, resume=True)
    assert_equal_runs(out, whole)
    assert (out / "state.broken").is_dir()


def test_a_state_whose_log_is_cut_is_set_aside(model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out)
    half(out / "metrics.jsonl")
    run(model, out, resume=True)
    assert_equal_runs(out, whole)


def test_the_state_before_a_broken_one_counts_where_it_is_still_there(model: str, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out)
    shutil.copytree(out / "state", out / "state.old")
    half(out / "state" / "weights.safetensors")
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        watch_steps(patch, after=steps.append)
        run(model, out, resume=True)
    assert steps == list(range(6, STEPS + 1))
    assert_equal_runs(out, whole)


REWARD: dict[str, Any] = {"method": "reward", "beta": None, "lora": 2, "eval_fraction": 0.3, "steps": 8}


@pytest.fixture(scope="module")
def fitted(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that nothing happened to."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    run(model, folder, **REWARD)
    return folder


def assert_equal_rewards(found: Path, wanted: Path) -> None:
    assert contents(found / "reward") == contents(wanted / "reward")
    names = {path.name for path in found.iterdir()} - {"state.broken"}
    assert names == {path.name for path in wanted.iterdir()}


def test_a_fit_that_dies_after_its_last_step_is_gone_on_with(
    model: str, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights that it keeps are still there when the model that is made of them is not."""

    def dies(*args: Any, **named: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(trained.Trainee, "save", dies)
        run(model, tmp_path / "out", **REWARD)
    run(model, tmp_path / "out", resume=True, **REWARD)
    assert_equal_rewards(tmp_path / "out", fitted)


@pytest.mark.parametrize("damage", [half, flipped, Path.unlink])
def test_the_best_weights_of_a_fit_are_those_that_were_written(
    damage: Callable[[Path], object], model: str, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out, **REWARD)
    damage(next(out.glob("state.kept-*.safetensors")))
    run(model, out, resume=True, **REWARD)
    assert "its best weights are not what was written" in capsys.readouterr().err.replace("\n", " ")
    assert_equal_rewards(out, fitted)


# --- no room ----------------------------------------------------------------------------------------------------------


def refuses(*args: Any, **named: Any) -> None:
    raise FULL


def test_a_full_disk_while_saving_a_state_leaves_the_one_before_it(
    model: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    cut_at(5, model=model, out=out)
    before = contents(out / "state")
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match="the state cannot be saved"),
    ):
        patch.setattr(engine, "save_file", refuses)
        run(model, out, resume=True, save_every=0)
    assert contents(out / "state") == before and not (out / "state.partial").exists()
    run(model, out, resume=True)
    assert_equal_runs(out, whole)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_full_disk_while_saving_a_policy_leaves_no_policy_without_weights(
    lora: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, tmp_path / "whole", lora=lora)
    out, real, calls = tmp_path / "out", saving.save_policy, []

    def fills(*args: Any, **named: Any) -> None:
        real(*args, **named)
        calls.append(1)
        next(args[2].glob("*.safetensors")).unlink()
        raise FULL

    with monkeypatch.context() as patch, pytest.raises(UserError, match="policy: cannot be written"):
        patch.setattr("preftune.model.policy.save_policy", fills)
        run(model, out, lora=lora)
    assert calls and not (out / "policy").exists() and not (out / "run.json").exists()
    steps: list[int] = []
    with monkeypatch.context() as patch:
        watch_steps(patch, after=steps.append)
        run(model, out, lora=lora, resume=True)
    assert steps == [], "the training was lost"
    assert_equal_runs(out, tmp_path / "whole")


def mounted(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "-o", "size=128k")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "disk", "-o", "ro")


def train_command(model: str, out: Path, data: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    write_ballots(make_ballots(), data)
    arguments = ["train", "dpo", "--model", model, "--data", str(data), "--beta", "0.1", "--steps", "3"]
    return subprocess.run(
        [sys.executable, "-m", "preftune", *arguments, "--device", "cpu", "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_in_one_line(model: str, small_disk: Path, tmp_path: Path) -> None:
    done = train_command(model, small_disk / "out", tmp_path / "data.jsonl")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "No space left" in done.stderr and not (small_disk / "out" / "policy").exists()


def test_a_disk_that_is_read_only_is_said_before_anything_is_loaded(read_only_disk: Path, model: str) -> None:
    with pytest.raises(UserError, match=r"--out .*(Read-only|cannot be)"):
        run(model, read_only_disk / "out")


# --- the store --------------------------------------------------------------------------------------------------------

KEY = StoreKey("m", "0" * 64, "fp32", "branch", "here")


@pytest.mark.parametrize("content", [b"no store at all, but some text that somebody put there", b"SQLite"])
def test_a_store_that_is_none_is_set_aside_and_said(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{KEY.name}.sqlite"
    path.write_bytes(content)
    assert Store(tmp_path, KEY).sizes() == {"logprobs": 0, "features": 0}
    assert path.with_name(path.name + ".broken").read_bytes() == content
    assert "is no store; set aside" in capsys.readouterr().err.replace("\n", "")


def test_a_store_that_was_cut_is_set_aside(tmp_path: Path) -> None:
    path = Store(tmp_path, KEY).path
    half(path)
    assert Store(tmp_path, KEY).sizes() == {"logprobs": 0, "features": 0}
    assert path.with_name(path.name + ".broken").exists()


def test_a_store_in_the_middle_of_a_change_is_waited_for_and_not_set_aside(tmp_path: Path) -> None:
    """Whoever writes puts the first page down first, and with it how many pages there will be."""
    path = Store(tmp_path, KEY).path
    writing = sqlite3.connect(path, check_same_thread=False)
    writing.execute("BEGIN EXCLUSIVE")
    header = path.read_bytes()[:32]
    with path.open("rb+") as file:
        file.seek(28)
        file.write((int.from_bytes(header[28:32], "big") + 1).to_bytes(4, "big"))

    def end() -> None:
        with path.open("rb+") as file:
            file.write(header)
        writing.rollback()
        writing.close()

    later = threading.Timer(0.2, end)
    later.start()
    assert Store(tmp_path, KEY).sizes() == {"logprobs": 0, "features": 0}
    later.join()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_store_in_use_that_breaks_is_the_users_error(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    store.path.write_bytes(b"x" * 4096)
    with pytest.raises(UserError, match=r"the store cannot be used .*delete it, or PREFTUNE_CACHE"):
        store.sizes()


def test_a_store_whose_disk_is_full_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, KEY)

    def connect(*args: Any, **named: Any) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(UserError, match="database or disk is full"):
        store.logprobs([b"key"])


def test_a_cache_that_is_a_file_is_the_users_error(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("precious")
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"cache.*cannot be made .*PREFTUNE_CACHE names another folder"):
        run(model, tmp_path / "out")
    assert (tmp_path / "cache").read_text() == "precious"


# --- files of a study -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"seconds": "x"}', '{"seconds": 1e999}', '{"seconds": -5}', "[" * 10**5]
)
def test_a_clock_that_cannot_be_read_counts_for_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_text(content)
    clock = Clock.of(tmp_path, 7.0, 0.0)
    assert clock.before == 7.0


# --- where a person wants a file --------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write_ballots(make_ballots(4), tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text().startswith('{"id"')
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="a: cannot be written"):
        write_named(tmp_path / "a", b"x")


def test_a_device_and_a_pipe_are_written_into_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_ballots(make_ballots(4), pipe)
    assert child.communicate(timeout=60)[0].startswith(b'{"id"') and pipe.is_fifo()
    with pytest.raises(UserError, match=r"full: cannot be written .No space left"):
        write_ballots(make_ballots(4), "/dev/full")
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no /dev/shm")
def test_files_in_shared_memory_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though /dev holds devices otherwise: they are written whole or not at all."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "x.jsonl"
        write_ballots(make_ballots(4), path)
        before = path.read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            write_ballots(make_ballots(5), path)
        assert path.read_bytes() == before and list(Path(folder).iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root")
def test_a_device_node_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    node = tmp_path / "node"
    try:
        os.mknod(node, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        pytest.skip("no right to make devices")
    write_ballots(make_ballots(4), node)
    assert node.is_char_device()


def test_a_file_of_ours_follows_no_link_that_somebody_left_in_the_folder(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("report.html", "report.html.partial"):
        (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "report.html", b"page")
    assert victim.read_text() == "precious" and (tmp_path / "report.html").read_bytes() == b"page"


@pytest.mark.parametrize(("place", "code", "told"), [("/dev/full", 2, "No space left"), ("closed", 141, "")])
def test_an_output_that_nobody_takes_is_no_traceback(place: str, code: int, told: str, tmp_path: Path) -> None:
    """`> /dev/full`, and `| head` that has read enough."""
    write_ballots(make_ballots(), tmp_path / "data.jsonl")
    command = [sys.executable, "-m", "preftune", "data", "check", str(tmp_path / "data.jsonl"), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    taken: Any = writing if place == "closed" else open(place, "wb")  # noqa: SIM115 - either way it is closed below
    done = subprocess.run(command, stdout=taken, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    if place != "closed":
        taken.close()
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert told in done.stderr and done.stderr.count("\n") == (1 if told else 0), done.stderr


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["preftune", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_file_that_is_read_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own name, through a link, or in a folder that is read."""
    folder, link = tmp_path / "parts", tmp_path / "link.jsonl"
    folder.mkdir()
    data = folder / "train.jsonl"
    write_ballots(make_ballots(4), data)
    link.symlink_to(data)
    before = contents(tmp_path)
    for read, out in ((data, data), (data, link), (link, data), (folder, data), (f"{folder}:train", data)):
        assert command(monkeypatch, "data", "convert", read, out) == 2
        assert command(monkeypatch, "data", "check", read, "--html", out) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2 and all("is read here" in line and "name another file" in line for line in told)
    assert command(monkeypatch, "data", "check", tmp_path / "none", "--eval-data", data, "--html", data) == 2
    assert f"--html {data}: is read here" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert command(monkeypatch, "data", "convert", data, tmp_path / "other.jsonl") == 0


# --- inputs without end -----------------------------------------------------------------------------------------------


def test_a_pipe_or_a_device_is_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(UserError, match="is a pipe or a device"):
            read_ballots(str(path))


@pytest.mark.parametrize(("line", "told"), [(b"\0", "a line of more than"), (b"\n" * 1024, "times its size")])
def test_a_gzip_that_grows_without_end_is_refused(
    line: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "LONGEST_LINE", 1 << 20)
    monkeypatch.setattr(containers, "UNSUSPECTED", 1 << 20)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(line * ((4 << 20) // len(line))))
    with pytest.raises(UserError, match=told):
        read_ballots(str(tmp_path / "bomb.jsonl.gz"))


ENDLESS = {
    "time": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ 'A' * 10 ** 15 }}",
    "output": "{{ 'A' * 70000000 }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_chat_template_without_end_is_the_users_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data cannot mend it: no row is skipped for it."""
    monkeypatch.setattr(templates.bounded.__wrapped__, "__defaults__", (0.5,))
    with pytest.raises(UserError, match="does not come to an end"):
        text_format(tiny_tokenizer(WORDS, ENDLESS[name])).prompt((Message("user", "w1"),))


GROWING = {
    "a text": "{{ 'A' * 700000000 }}",
    "a wide text": "{{ 'a'|center(700000000) }}",
    "a number": "{{ '%700000000d' % 1 }}",
    "a list": "{{ ([0] * 90000000)|length }}",
    "by and by": "{% set ns = namespace(x='A') %}{% for i in range(30) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is bounded on Linux")
@pytest.mark.parametrize("name", GROWING)
def test_a_chat_template_has_so_much_memory_and_no_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would take more than half a GiB; afterwards the process has the bounds that it had."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(templates.roomy.__wrapped__, "__defaults__", (1 << 28,))
    with pytest.raises(UserError, match="does not come to an end"):
        text_format(tiny_tokenizer(WORDS, GROWING[name])).prompt((Message("user", "w1"),))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_model_of_ten_million_layers_is_refused_before_they_are_made(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(re.sub(r'"num_hidden_layers": \d+', '"num_hidden_layers": 10000000', config.read_text()))
    with pytest.raises(UserError, match="asks for 10000000 layers"):
        run(str(tmp_path / "model"), tmp_path / "out")
