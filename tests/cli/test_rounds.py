"""Rounds on the command line: people vote on pages that end by themselves, a table at the end, mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import WORDS as WORDS

from preftune.data import read_ballots, read_prompts
from preftune.people import folders as people_folders
from preftune.people.desk import Desk
from preftune.people.store import VOTE, Said

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(f"w{k} w{k + 1}" for k in range(10)))
    return path


def ann_answers(patch: pytest.MonkeyPatch, most: int) -> list[int]:
    """In the place of a server: ann prefers shorter responses, and answers so many pairs a page; the pages so far."""
    opened: list[int] = []

    def serve(store: Any, pairs: Any, standing: Any, address: Any, *, share: float, name: str, ends: bool) -> None:
        desk = Desk(store, pairs, share)
        opened.append(len(pairs))
        assert ends and desk.unanswered() and name == "ann"
        for pair in desk.offer("ann", most, ()):
            first, second = map(len, pair.texts)
            winner = "tie" if first == second else pair.names[0 if first < second else 1]
            desk.say(Said(f"{len(store.log())}", "ann", pair.id, VOTE, winner, ms=2000))

    patch.setattr(people_folders, "serve", serve)
    return opened


def test_people_vote_and_judge_on_pages_that_end_when_all_is_answered_or_there_is_enough(
    run: Run, model: str, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ann_answers(monkeypatch, most=3)
    given = ["rounds", "ipo", "--model", model, "--prompts", prompts, "--voter", "people", "--out", out, "--by", "ann"]
    given += ["--rounds", 1, "--beta", 0.1, "--max-new-tokens", 4, "--steps", 3, "--device", "cpu"]
    given += ["--eval-fraction", 0.1]
    for left in (6, 3):
        code, printed, said = run(*given)
        assert code == 130 and not printed
        wanted = (
            f"preftune: {out}/round-1/label: {left} pairs have no answer yet (--enough takes the votes that are there"
        )
        assert said.splitlines()[-1] == f"{wanted}); the same command goes on from here"
    assert not (out / "round-1" / "ballots.jsonl").exists()
    code, printed, said = run(*given, "--enough")
    assert code == 0 and opened == [9, 9, 2], "a pair of each prompt, twice; two samples to the one that is held out"
    table = printed.splitlines()
    assert any(line.split()[:2] == ["1", "6"] and "start" in line for line in table)
    assert "round 1 is not told apart from the start" in printed and "By people, blind, on held-out prompts" in printed
    ballots = read_ballots(out / "round-1" / "ballots.jsonl")
    assert sum(len(ballot.annotations) for ballot in ballots) == 6
    assert {ballot.prompt for ballot in ballots}.isdisjoint(read_prompts(out / "held-out.jsonl"))
    assert "people" in (out / "round-1" / "judged" / "report.html").read_text()
    assert run(*given)[1] == printed and len(opened) == 3, "what is there is not asked again"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ipo", "--voter", "nobody", "--beta", 1], "--voter nobody: must be people, reward:DIR, model:DIR"),
        (["ip", "--voter", "people"], "unknown method 'ip'; did you mean 'ipo'?"),
        (["ipo", "--voter", "people"], "--beta None: ipo needs a β greater than 0"),
        (["ipo", "--voter", "people", "--beta", 1, "--rollouts", 3], "rollouts"),
        (["ipo", "--voter", "people", "--beta", 1, "--judge-budget", 3], "--judge-budget 3: no judge has use for it"),
        (["ipo", "--voter", "people", "--beta", 1, "--data", "x"], "unknown flag --data to this command"),
        (["ipo", "--beta", 1], "missing: "),
        (["ipo", "--beta", 1, "--voter", "model:M", "--enough"], "--enough: is for people, and --voter model:M votes"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    run: Run, prompts: Path, out: Path, arguments: list[object], told: str
) -> None:
    code, printed, said = run("rounds", *arguments, "--model", "none", "--prompts", prompts, "--out", out)
    (line,) = said.strip().splitlines()
    assert code == 2 and not printed and line.startswith("preftune: ") and told in line
    assert not out.exists()


def test_help_is_of_the_method_that_is_named(run: Run) -> None:
    code, printed, _ = run("rounds", "ppo", "--help")
    assert code == 0 and "preftune rounds ppo --model MODEL" in printed and "--rollouts" in printed
    assert printed.count("--max-new-tokens N") == 1, "what is sampled for it is as long as what is voted on"
    assert "reward  " not in run("rounds", "--help")[1]
