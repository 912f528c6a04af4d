"""Requests to stop are obeyed where nothing is lost, a folder has one writer, and a failed run does not end a study."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import assert_equal_runs, contents, metrics_of, run, watch_steps
from studies import QUICK, make_ballots
from tiny import tiny_llama

from preftune.cli.entry import main
from preftune.data.ballots import Ballot, Vote
from preftune.data.reading import write_ballots
from preftune.errors import Interrupted, UserError
from preftune.evidence.results import REFERENCE, read_results
from preftune.model.policy import Policy
from preftune.stopping import only_writer, stop_requests
from preftune.study import runs, single
from preftune.study.single import train
from preftune.study.study import Study, compare
from preftune.training import votes

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("letters"), list("abcdefgh"))


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


# --- what a request does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_waits_while_work_is_held_and_interrupts_otherwise(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stopping:
        stopping.held = True
        send(number)
        assert stopping()
        with pytest.raises(KeyboardInterrupt), stopping.interruptible():
            pytest.fail("went on although somebody had asked")
        with pytest.raises(KeyboardInterrupt):
            send(number)  # asked twice: at once
    with stop_requests() as stopping, pytest.raises(KeyboardInterrupt):
        assert not stopping()
        send(number)
    assert signal.getsignal(number) is before


def test_one_within_another_is_the_same_and_hands_on_what_is_held_if_told_to() -> None:
    with stop_requests() as outer:
        with stop_requests() as inner:
            assert inner is outer
            inner.held = True
        assert not outer.held
        with stop_requests(hand_on=True) as inner:
            inner.held = True
        assert outer.held


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stopping:
            send(signal.SIGHUP)
            assert not stopping()
    finally:
        signal.signal(signal.SIGHUP, before)


# --- at any moment of a run -------------------------------------------------------------------------------------------


PLACES = {  # where each is called
    "prepare": single,
    "held_out_reference": votes,
    "vote_table": votes,
    "save": Policy,
    "read_metrics": single,
}
HELD_OUT = [Ballot(f"w{n} w2", (f"w{n}", "w3 w4"), (Vote(0, 1, 1),)) for n in range(4)]


def run_until_asked(patch: pytest.MonkeyPatch, place: str, number: signal.Signals, out: Path, **how: Any) -> None:
    """A run in which somebody asks to stop the first time that it comes to the place."""
    asked: list[int] = []
    home: Any = PLACES[place]
    real = getattr(home, place)

    def once(*args: Any, **named: Any) -> Any:
        if not asked:
            asked.append(1)
            send(number)
        return real(*args, **named)

    patch.setattr(home, place, once)
    run(out=out, eval_ballots=HELD_OUT, **how)


@pytest.mark.parametrize("lora", [0, 3])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_is_stopped_anywhere_ends_like_one_that_was_not(
    place: str, lora: int, model: str, tmp_path: Path
) -> None:
    """Before the training, in the evaluation at its end, while the policy is saved: no step of it is made twice."""
    run(model, tmp_path / "whole", lora=lora, eval_ballots=HELD_OUT)
    out, steps = tmp_path / "out", []
    with pytest.MonkeyPatch.context() as patch:
        try:
            run_until_asked(patch, place, signal.SIGTERM, out, model=model, lora=lora)
        except (Interrupted, KeyboardInterrupt):
            assert not (out / "run.json").exists()
        else:
            assert place in ("save", "read_metrics"), "a request was not obeyed"
    if not (out / "run.json").exists():
        with pytest.MonkeyPatch.context() as patch:
            watch_steps(patch, after=steps.append)
            run(model, out, lora=lora, resume=True, eval_ballots=HELD_OUT)
        assert (len(steps) == 0) == (place not in ("prepare",)), "the training was lost"
    assert_equal_runs(out, tmp_path / "whole")
    found, wanted = (json.loads((folder / "run.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert found == wanted and "held_out" in found


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from preftune.cli import main
from preftune.training import run
score = run.response_logprobs
run.response_logprobs = lambda *args, **named: (time.sleep(0.02), score(*args, **named))[1]
sys.argv = ["preftune", *{arguments!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_asked_to_stop_exits_with_130_and_goes_on_with_resume(
    number: signal.Signals, model: str, tmp_path: Path
) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    write_ballots([Ballot(f"w{n} w1", (f"w{n + 3} w2", "w5"), (Vote(0, 1, 1),)) for n in range(10)], data)
    arguments = ["train", "ipo", "--model", model, "--data", str(data), "--beta", "0.3", "--lr", "5e-3"]
    arguments += ["--batch-size", "3", "--steps", "40", "--device", "cpu", "--out"]
    script = SLOW.format(tests=str(Path(__file__).parent), arguments=[*arguments, str(out)])
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: child.poll() is not None or ((out / "metrics.jsonl").exists() and len(metrics_of(out)) > 2))
        child.send_signal(number)
        errors = child.communicate(timeout=300)[1]
    finally:
        child.kill()
    assert child.returncode == 130 and "the state is saved; --resume goes on" in errors.replace("\n", " ")
    for folder, more in ((out, ["--resume"]), (tmp_path / "whole", [])):
        done = subprocess.run(
            [sys.executable, "-c", "from preftune.cli import main; main()", *arguments, str(folder), *more],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert_equal_runs(out, tmp_path / "whole")


def wait_for(happened: Any) -> None:
    """Look again and again, as long as it takes."""
    while not happened():
        time.sleep(0.05)


# --- one writer -------------------------------------------------------------------------------------------------------


HOLD = """
import sys, time
from pathlib import Path
from preftune.stopping import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_folder_that_another_process_writes_is_refused_until_it_is_done(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held_elsewhere(out) as child:
        before = contents(out)
        for command in (
            lambda: run(model, out),
            lambda: compare("dpo", make_ballots(), model=model, out=out, **QUICK),
            lambda: train("reward", make_ballots(), model=model, out=out, kind="frozen"),
        ):
            with pytest.raises(UserError, match="another process is writing there"):
                command()
        assert contents(out) == before
        child.kill()  # a process that dies holds nothing
        child.wait()
        with only_writer(out):
            pass


def test_a_folder_that_was_made_and_not_used_is_not_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such"), only_writer(tmp_path / "a" / "b"):
        raise UserError("no such model")
    assert not (tmp_path / "a").exists()
    with only_writer(tmp_path / "c"):
        (tmp_path / "c" / "kept").write_text("")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["kept"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"), only_writer(tmp_path / "file" / "d"):
        pass


# --- a run that fails -------------------------------------------------------------------------------------------------


def failing(patch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    real = runs.train_any

    def train_any(*args: Any, folder: Path, **named: Any) -> Policy:
        if folder.name == name:
            raise error
        return real(*args, folder=folder, **named)

    patch.setattr(runs, "train_any", train_any)


def test_a_failed_run_is_marked_and_tried_again_and_the_rest_goes_on(letters: str, tmp_path: Path) -> None:
    options = {"model": letters, "out": tmp_path / "study", **QUICK, "lora": 2}
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, "dpo-beta0.1-seed0", RuntimeError("out of memory\nin many lines"))
        study = compare("dpo,ipo", make_ballots(), **options)
    assert study.failed == {"dpo-beta0.1-seed0": "RuntimeError: out of memory in many lines"}
    mark = study.folder / "runs" / "dpo-beta0.1-seed0" / "failed.json"
    assert "Traceback" in json.loads(mark.read_text())["traceback"]
    assert {row.run for row in study.results} == {
        REFERENCE,
        "dpo-beta0.5-seed0",
        "ipo-beta0.1-seed0",
        "ipo-beta0.5-seed0",
    }
    assert any("out of memory" in caveat for caveat in study.verdict.caveats)
    assert "out of memory" in study.report().read_text()

    again = compare("dpo,ipo", make_ballots(), **options)
    assert not again.failed and not mark.exists() and not again.study.unfinished()
    whole = compare("dpo,ipo", make_ballots(), **options | {"out": tmp_path / "whole"})
    found, wanted = ({(r.run, r.step): r for r in read_results(s.folder / "results.jsonl")} for s in (again, whole))
    assert found == wanted


def test_a_study_with_a_failed_run_exits_with_1_and_a_request_to_stop_is_no_failure(
    letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ballots(make_ballots(), tmp_path / "data.jsonl")
    arguments = ["compare", "--methods", "dpo,ipo", "--model", letters, "--data", str(tmp_path / "data.jsonl")]
    arguments += ["--betas", "0.1", "--steps", "2", "--max-new-tokens", "3", "--device", "cpu", "--max-length", "24"]
    monkeypatch.setattr("sys.argv", ["preftune", *arguments, "--out", str(tmp_path / "study")])
    for error, code in ((UserError("no such luck"), 1), (Interrupted("enough"), 130)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
            failing(patch, "ipo-beta0.1-seed0", error)
            main()
        assert stop.value.code == code
    assert "1 of the runs failed (ipo-beta0.1-seed0: no such luck)" in capsys.readouterr().err
    assert Study(tmp_path / "study").study.unfinished() == (("ipo", 0.1, 0, 0.0),)


def test_what_cannot_train_at_all_is_refused_before_anything_is_written(letters: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compares at least 2 responses"):
        compare("dpo,rloo", make_ballots(), model=letters, out=tmp_path / "study", rollouts=1, **QUICK)
    assert not (tmp_path / "study").exists()
