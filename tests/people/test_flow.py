"""From ballots to votes to policies to a verdict by people, with a script in the place of the people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import QUICK, make_ballots
from studies import WORDS as WORDS

from preftune import compare, read_ballots
from preftune.data import kept_digests, prompt_digests, write_ballots
from preftune.errors import UserError
from preftune.people import Address, figures_of, open_arena, open_labelling, read_labelling
from preftune.people import folders as people_folders
from preftune.people.arena import SEEN, arena_of
from preftune.people.desk import Desk
from preftune.people.folders import meetings_of
from preftune.people.pairs import TIE, Pair
from preftune.people.store import VOTE, Said
from preftune.report import write_report

Likes = Callable[[str], int]


def people_like(monkeypatch: pytest.MonkeyPatch, likes: Likes) -> None:
    """Two people who agree about what they like."""

    def winner(pair: Pair) -> str:
        first, second = map(likes, pair.texts)
        return TIE if first == second else pair.names[0 if first > second else 1]

    def serve(store: Any, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        desk = Desk(store, pairs, share)
        for person in ("ann", "bob"):
            while found := desk.offer(person, 1, ()):
                (pair,) = found
                desk.say(Said(f"{len(store.log())}", person, pair.id, VOTE, winner(pair), ms=2500))

    monkeypatch.setattr(people_folders, "serve", serve)


@pytest.mark.slow
def test_from_ballots_to_votes_to_policies_to_a_verdict_by_people(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people_like(monkeypatch, lambda text: text.count("a"))
    write_ballots([replace(ballot, votes=()) for ballot in make_ballots(60)], tmp_path / "in.jsonl")
    labels = tmp_path / "labels"
    open_labelling(read_labelling(tmp_path / "in.jsonl"), labels, Address(), share=0.2)
    ballots = read_ballots(labels / "labelled.jsonl")
    assert len(ballots) > 40 and len({one.by for ballot in ballots for one in ballot.annotations}) == 2
    options = {name: value for name, value in QUICK.items() if name != "judge"} | {"betas": [0.3]}
    study = compare("dpo,ipo", ballots, model=model, out=tmp_path / "study", **options).study

    for path, _ in open_arena(tmp_path / "study", "arms", Address(), share=0.2):
        assert path.exists()
    (asked,) = figures_of(tmp_path / "study" / "arena" / "arms")["questions"]
    assert asked["name"] == "dpo beside ipo" and asked["prompts"] > 5 and asked["low"] < asked["wins"] < asked["high"]
    assert "people" in write_report(tmp_path / "study").read_text(encoding="utf-8")

    found = arena_of(study, meetings_of(study))
    assert found.skipped.get(SEEN, 0) == 0, "evaluation prompts are held out"
    voted = read_ballots(tmp_path / "study" / "arena" / "arms" / "labelled.jsonl")
    run = tmp_path / "study" / "runs" / next(iter(found.samples.values()))[0].run
    assert kept_digests(run).isdisjoint(prompt_digests(ballot.prompt for ballot in voted))
    with pytest.raises(UserError, match=r"--prompts: .* prompts are also in"):
        compare(
            "dpo", voted, model=model, out=tmp_path / "again", prompts=[ballot.prompt for ballot in voted], **options
        )
