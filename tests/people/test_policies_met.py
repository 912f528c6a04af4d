"""Policies that nobody compared before meet in an arena: as blind as a study, as barred, as reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tiny import WORDS, tiny_llama

from preftune.data import prompt_digests, read_ballots
from preftune.errors import UserError
from preftune.evidence import OPPONENT, PEOPLE_JUDGE, read_study
from preftune.people import Address, figures_of, open_arena
from preftune.people import folders as people_folders
from preftune.people.desk import Desk
from preftune.people.server import SERVED, make_app
from preftune.people.store import VOTE, Said
from preftune.report import write_report
from preftune.study import ask_folders

PROMPTS = [f"w{k} w{k + 1}" for k in range(12)]
TAUGHT = PROMPTS[:3]  # what one of the policies learned from
Serve = Callable[[Desk, Any], None]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two policies and a reference, and the file of what they are asked."""
    folder = tmp_path_factory.mktemp("policies")
    own = [
        tiny_llama(folder / name, WORDS, seed)
        for seed, name in enumerate(("start-of-both", "secret-one", "secret-two"))
    ]
    (folder / "secret-two" / "training_prompts.txt").write_text("\n".join(prompt_digests(TAUGHT)))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    options = {"prompts": str(folder / "prompts.txt"), "reference": own[0], "max_new_tokens": 5, "device": "cpu"}
    return {"folders": own[1:], **options}


def ask(asked: dict[str, Any], out: Path, **options: Any) -> Path:
    given = asked | options
    return ask_folders(given.pop("folders"), out=out, **given).folder


@pytest.fixture
def study(asked: dict[str, Any], tmp_path: Path) -> Path:
    return ask(asked, tmp_path / "met")


def serves(monkeypatch: pytest.MonkeyPatch, does: Serve) -> None:
    """In the place of a server, `does` is called with the desk and what the organiser sees."""

    def serve(store: Any, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        does(Desk(store, pairs, share), standing)

    monkeypatch.setattr(people_folders, "serve", serve)


def first_wins(desk: Desk, standing: Any) -> None:
    for pair in desk.offer("ann", 999, ()):
        desk.say(Said(pair.id, "ann", pair.id, VOTE, pair.names[0]))


def test_two_policies_meet_sample_against_other_sample_and_their_votes_are_reported_and_train(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serves(monkeypatch, first_wins)
    open_arena(study, "arms", Address(), share=1.0)
    found = read_study(study)
    assert {(one.judge, one.run, one.against) for one in found.judgements} == {
        (PEOPLE_JUDGE, "secret-one", "secret-two")
    }
    assert all(one.other == (one.sample + 1) % 2 and one.preference == 1 for one in found.judgements)
    (question,) = figures_of(study / "arena" / "arms")["questions"]
    assert question["name"] == "secret-one beside secret-two" and question["wins"] == 1.0 and question["clear"]
    page = write_report(study).read_text(encoding="utf-8")
    assert "people" in page and "secret-one" in page
    voted = read_ballots(study / "arena" / "arms" / "labelled.jsonl")
    assert sum(len(ballot.votes) for ballot in voted) == len(found.judgements)


def test_nobody_is_asked_about_what_a_policy_learned_from(
    study: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    serves(monkeypatch, first_wins)
    open_arena(study, "arms", Address(), share=1.0)
    prompts = {one.prompt_id: one.prompt for one in read_study(study).samples}
    met = {prompts[one.prompt_id] for one in read_study(study).judgements}
    assert met and met.isdisjoint(TAUGHT)
    assert "6 pairs on prompts that a run was trained on" in capfd.readouterr().err
    assert any("Not held out" in caveat for caveat in read_study(study).info["caveats"])


def test_each_may_meet_the_reference_as_a_judge_has_it(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ask(asked, tmp_path / "met", opponents=True, samples=1)
    serves(monkeypatch, first_wins)
    open_arena(folder, "reference", Address(), share=1.0)
    found = read_study(folder)
    assert {one.run for one in found.opponents} > {OPPONENT} and {vote.win for vote in found.people} == {1.0}
    assert set(Counter(vote.run for vote in found.people)) == {"secret-one", "secret-two"}


@pytest.mark.parametrize("against", ["arms", "reference"])
def test_no_byte_that_is_served_has_the_name_of_a_policy_or_of_the_reference(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, against: str
) -> None:
    folder = ask(asked, tmp_path / "met", opponents=True)
    served: list[str] = []

    def everything(desk: Desk, standing: Any) -> None:
        app = make_app(desk, standing, tokens=("v", "o"), hosts=Address().names, name="")
        client = TestClient(app, base_url="http://localhost")
        served.extend(repr(client.get(path).headers) + client.get(path).text for path in SERVED)
        to, who = {"authorization": "Bearer v"}, {"authorization": "Bearer o"}
        for number in range(12):
            told = client.post("/api/next", json={"by": "ann"}, headers=to)
            pair = told.json()["pairs"][0]
            vote = {"id": str(number), "by": "ann", "pair": pair["pair"], "kind": "vote", "winner": "tie"}
            answers = [told, *(client.post(f"/api/{path}", json=vote, headers=to) for path in ("whole", "vote"))]
            answers.append(client.post("/organiser/api/standing", json={}, headers=who))
            assert all(answer.status_code == 200 for answer in answers)
            served.extend(repr(answer.headers) + answer.text for answer in answers)

    serves(monkeypatch, everything)
    open_arena(folder, against, Address(), share=1.0)
    text = "\n".join(served)
    assert len(served) > 50 and not any(name in text for name in ("secret", "start-of-both", OPPONENT, "reference"))


def test_it_goes_on_with_what_is_there_and_is_none_of_other_prompts(
    asked: dict[str, Any], study: Path, tmp_path: Path
) -> None:
    before = (study / "samples.jsonl").read_bytes()
    rows = (study / "results.jsonl").read_text().splitlines(keepends=True)
    (study / "results.jsonl").write_text("".join(rows[:2]))  # stopped between the samples of the last one and its row
    ask(asked, study)
    assert (study / "samples.jsonl").read_bytes() == before
    assert (study / "results.jsonl").read_text().splitlines(keepends=True) == rows
    other = tmp_path / "other.txt"
    other.write_text("w5 w5\n")
    with pytest.raises(UserError, match="holds a judging on other prompts; name a new --out"):
        ask(asked, study, prompts=str(other))


def test_judges_that_were_asked_before_are_still_told_of(asked: dict[str, Any], study: Path) -> None:
    info = json.loads((study / "study.json").read_text())
    judge = {"name": "j", "description": "made up"}
    (study / "study.json").write_text(json.dumps(info | {"judges": [judge]}))
    ask(asked, study)
    assert read_study(study).info["judges"] == [judge]
