"""People judge a study: blind to the last byte, at matched KL, by an interval that holds after every vote."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from report_pages import change, set_info
from report_studies import write_noisy_study
from starlette.testclient import TestClient
from synthetic_study import write_synthetic_study

from preftune.data import kept_digests, prompt_digests, read_ballots
from preftune.errors import UserError
from preftune.evidence import (
    JUDGEMENTS_FILE,
    OPPONENT,
    OPPONENTS_FILE,
    Judgement,
    anytime_interval,
    exact_interval,
    met_by_people,
    people_of,
    read_samples,
    read_study,
    write_records,
)
from preftune.people import Address, figures_of, leave_out_person, open_arena
from preftune.people import folders as people_folders
from preftune.people.arena import SAME, SEEN, Arena, arena_of
from preftune.people.desk import Desk
from preftune.people.figures import people, questions
from preftune.people.folders import meetings_of
from preftune.people.pairs import TIE, Pair
from preftune.people.server import SERVED, make_app
from preftune.people.store import AGAIN, VOTE, Said, Store
from preftune.report import write_report

SPOKEN = ("dpo", "ipo", "reference", "opponent", "beta", "seed", "study")


def number_prompts(sample: Any) -> Any:
    return replace(sample, prompt=f"{sample.prompt} ({sample.prompt_id})")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two arms, two β, two seeds, 40 prompts of two samples each; the opponent's samples beside them."""
    found = write_synthetic_study(tmp_path / "s", seeds=(0, 1), prompts=40, gold=False)
    change(found, "samples.jsonl", read_samples, number_prompts)
    reference = [sample for sample in read_samples(found / "samples.jsonl") if sample.run == "reference"]
    write_records(
        found / OPPONENTS_FILE, [replace(one, run=OPPONENT, response=one.response + "!") for one in reference]
    )
    return found


def arms_of(folder: Path) -> Arena:
    study = read_study(folder)
    return arena_of(study, meetings_of(study))


# --- who meets --------------------------------------------------------------------------------------------------------


def test_arms_meet_at_each_seed_where_their_kl_is_nearest(folder: Path) -> None:
    found = arms_of(folder)
    rows = {(row.run, row.step): row for row in found.study.ends()}
    assert len(found.meetings) == 2 and {rows[a].seed for a, _ in found.meetings} == {0, 1}
    for a, b in found.meetings:
        assert rows[a].arm != rows[b].arm and rows[a].seed == rows[b].seed and 0.5 < rows[a].kl / rows[b].kl < 2
    assert list(found.questions.values()) == ["dpo beside ipo"]
    for own, other in found.samples.values():
        assert own.prompt_id == other.prompt_id and own.sample != other.sample, "samples of one number share their luck"


def test_policies_that_were_there_already_all_meet(folder: Path) -> None:
    assert len(meetings_of(read_study(set_info(folder, betas=[])))) == 28


def test_label_noise_makes_a_comparison_of_its_own(tmp_path: Path) -> None:
    study = read_study(write_noisy_study(tmp_path / "s", prompts=12))
    found = arena_of(study, meetings_of(study))
    assert set(found.questions.values()) == {"dpo beside ipo", "dpo beside ipo, label noise 0.2"}


def test_every_prompt_comes_once_before_any_comes_again(folder: Path) -> None:
    found = arms_of(folder)
    pairs = found.pairs
    assert Counter(pair.round for pair in pairs)[0] == 40 == len({pair.group for pair in pairs[:40]})
    seeds = Counter(own.run[-1] for own, _ in (found.samples[pair.id] for pair in pairs[:40]))
    assert min(seeds.values()) > 8, "which seed it is of is random"


def test_run_ends_meet_the_opponent_all_at_one_prompt_together(folder: Path) -> None:
    found = arena_of(read_study(folder))
    assert len(found.questions) == 8 and len(found.pairs) == 8 * 40 * 2
    assert all(other.run == OPPONENT for _, other in found.samples.values())
    for start in range(0, 320, 8):
        assert len({pair.group for pair in found.pairs[start : start + 8]}) == 1


def test_identical_texts_and_prompts_that_were_trained_on_are_not_asked_about(folder: Path) -> None:
    change(folder, "samples.jsonl", read_samples, lambda one: replace(one, response="x") if one.prompt_id == 3 else one)
    trained = prompt_digests({one.prompt for one in read_samples(folder / "samples.jsonl") if one.prompt_id in (5, 6)})
    run = arms_of(folder).meetings[0][0][0]
    (folder / "runs" / run / "policy").mkdir()
    (folder / "runs" / run / "policy" / "training_prompts.txt").write_text("\n".join(trained))
    assert kept_digests(folder / "runs" / run) == trained
    found = arms_of(folder)
    assert found.skipped[SEEN] == 4 and found.skipped[SAME] >= 4
    assert {own.prompt_id for own, _ in found.samples.values() if own.run == run} == set(range(40)) - {3, 5, 6}


def test_what_is_not_asked_about_is_told_and_so_is_what_may_tell_whose_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def edit(one: Any) -> Any:
        says = {3: "x", 4: f"I was trained with DPO. {one.sample}", 5: f"I am SmolLM, and dpoed. {one.sample}"}
        return replace(
            one, response=says.get(one.prompt_id, f"{one.response} {one.run} {one.sample}".replace("-", "_"))
        )

    change(folder, "samples.jsonl", read_samples, edit)
    set_info(folder, model={"name": "HuggingFaceTB/SmolLM"})
    judge(folder, monkeypatch, "arms", {})
    told = capfd.readouterr().err
    assert "not asked about: 4 pairs of identical texts" in told
    assert "8 pairs have a response that names an arm or the model" in told


def test_a_study_in_which_nobody_meets_is_told_so(tmp_path: Path) -> None:
    alone = write_synthetic_study(tmp_path / "s", arms=("dpo",), prompts=8)
    with pytest.raises(UserError, match="no two arms meet at about the same KL; --against reference"):
        open_arena(alone, "arms", Address())
    with pytest.raises(UserError, match="has no pairs to vote on"):
        open_arena(alone, "reference", Address())


# --- blind ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["arms", "reference"])
def test_no_byte_that_is_served_has_the_name_of_a_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, against: str
) -> None:
    """Every page, every answer, every header, to those who vote and to the organiser."""
    served: list[str] = []

    def serve(store: Store, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        app = make_app(Desk(store, pairs, share), standing, tokens=("v", "o"), hosts=address.names, name=name)
        client = TestClient(app, base_url="http://localhost")
        served.extend(repr(client.get(path).headers) + client.get(path).text for path in SERVED)
        served.extend(answers(client, min(len(pairs), 90)))

    monkeypatch.setattr(people_folders, "serve", serve)
    open_arena(folder, against, Address(), share=1.0)
    known = {row.run for row in read_study(folder).results} | {row.arm for row in read_study(folder).results}
    text = "\n".join(served).lower()
    texts = "".join(one.prompt + one.response for one in read_samples(folder / "samples.jsonl")).lower()
    assert not any(word in texts for word in SPOKEN)
    assert {name for name in {*known, *SPOKEN} if name.lower() in text.replace("the first is better", "")} == set()
    assert len(served) > 2 * 80


def answers(client: TestClient, count: int) -> list[str]:
    """All that one person is told who votes on everything, and the organiser after that."""
    found, to = [], {"authorization": "Bearer v"}
    for number in range(count):
        answer = client.post("/api/next", json={"by": "ann"}, headers=to)
        (pair, *_) = answer.json()["pairs"]
        vote = {
            "id": str(number),
            "by": "ann",
            "pair": pair["pair"],
            "kind": "vote",
            "winner": pair["sides"][0]["name"],
        }
        for path, body in (("vote", vote), ("whole", vote)):
            found.append(client.post(f"/api/{path}", json=body, headers=to))
        found.append(answer)
    found.append(client.post("/organiser/api/standing", json={}, headers={"authorization": "Bearer o"}))
    found.append(client.post("/api/undo", json={"by": "ann", "id": "u"}, headers=to))
    assert all(one.status_code == 200 for one in found) and found[-2].json()["votes"] > 80
    return [repr(one.headers) + one.text for one in found]


# --- votes as evidence ------------------------------------------------------------------------------------------------


def judge(folder: Path, monkeypatch: pytest.MonkeyPatch, against: str, says: dict[str, Any], most: int = 999) -> None:
    """Each person says the same of the first response of every pair: 1 is better, 0 worse, else a tie."""

    def serve(store: Store, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        desk = Desk(store, pairs, share)
        for person, win in says.items():
            for pair in desk.offer(person, most, ()):
                winner = {1: pair.names[0], 0: pair.names[1]}.get(win, TIE)
                desk.say(Said(pair.id, person, pair.id, VOTE, winner))

    monkeypatch.setattr(people_folders, "serve", serve)
    open_arena(folder, against, Address(), share=1.0)


def test_votes_on_arms_are_drawn_by_the_report_and_go_when_a_person_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(folder, monkeypatch, "arms", {"ann": 1, "bob": 0, "cy": 1}, most=60)
    found = read_study(folder).judgements
    assert {one.judge for one in found} == {"people"} and {one.preference for one in found} == {2 / 3}
    met, asked = met_by_people(read_study(folder)), figures_of(folder / "arena" / "arms")["questions"]
    for one, seen in zip(met, asked, strict=True):
        told = asdict(one.question) | {"clear": one.question.clear, "judged": None}
        assert told == seen, "the report has the figures that the organiser saw"
    assert met[0].pairs == 60 and met[0].wins.value == pytest.approx(2 / 3) and met[0].question.wins == 1.0
    page = write_report(folder).read_text(encoding="utf-8")
    assert "people prefer dpo" in page and "an interval that holds however often it was looked at" in page
    leave_out_person(folder / "arena" / "arms", "bob", True)
    assert {one.preference for one in read_study(folder).judgements} == {1.0}
    assert len(read_study(folder).judgements) == 60


def test_votes_on_run_ends_are_peoples_votes_of_the_study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(folder, monkeypatch, "reference", {"ann": 1, "bob": TIE}, most=80)
    found = read_study(folder).people
    assert len(found) == 160 and Counter(vote.win for vote in found) == {1.0: 80, 0.5: 80}
    assert len({vote.by for vote in found}) == 2 and not {"ann", "bob"} & {vote.by for vote in found}
    leave_out_person(folder / "arena" / "reference", "bob", True)
    assert {vote.win for vote in read_study(folder).people} == {1.0}


def test_with_a_judge_both_are_told_together_by_an_interval_that_always_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = read_study(folder)
    ends = [(row.run, row.step) for row in study.ends()]
    says = {(run, prompt): ((31 * prompt + 7 * i) % 5) / 4 for i, (run, _) in enumerate(ends) for prompt in range(40)}
    rows = [
        Judgement("j", run, step, prompt, k, OPPONENT, 0, k, says[run, prompt], says[run, prompt])
        for run, step in ends
        for prompt in range(40)
        for k in (0, 1)
    ]
    write_records(folder / JUDGEMENTS_FILE, rows)
    set_info(folder, judges=[{"name": "j", "description": "made up"}])

    def serve(store: Store, pairs: Any, standing: Any, address: Address, *, share: float, name: str = "") -> None:
        desk, arena = Desk(store, pairs, share), arena_of(read_study(folder))
        for pair in desk.offer("ann", 8 * 30, ()):
            own, _ = arena.samples[pair.id]
            win = says[own.run, own.prompt_id] + (0.5 if own.prompt_id % 4 == 0 else 0) > 0.5
            desk.say(Said(pair.id, "ann", pair.id, VOTE, pair.names[0 if win else 1]))
        assert standing()["questions"][0]["judged"] is not None

    monkeypatch.setattr(people_folders, "serve", serve)
    open_arena(folder, "reference", Address(), share=1.0)
    found = figures_of(folder / "arena" / "reference")["questions"]
    told = [one["judged"] for one in found]
    wanted = [anytime_interval(powered.both, 200, 0.05 / 8) for _, powered in people_of(read_study(folder))]
    assert len(told) == 8 and sorted((one["low"], one["high"]) for one in told) == sorted(wanted)
    assert all(one["low"] < one["wins"] < one["high"] for one in told)


def test_exported_votes_train_and_bar_their_prompts_afterwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What learns from them keeps digests of their prompts, and an arena asks nobody about it on these."""
    judge(folder, monkeypatch, "arms", {"ann": 1}, most=20)
    ballots = read_ballots(folder / "arena" / "arms" / "labelled.jsonl")
    assert {ballot.source for ballot in ballots} == {"arena"} and sum(len(one.votes) for one in ballots) == 20
    (own, _), *_ = arms_of(folder).samples.values()
    (folder / "runs" / own.run / "policy").mkdir()
    digests = prompt_digests(ballot.prompt for ballot in ballots)
    (folder / "runs" / own.run / "policy" / "training_prompts.txt").write_text("\n".join(digests))
    asked = {a.prompt for a, _ in arms_of(folder).samples.values() if a.run == own.run}
    assert asked and asked.isdisjoint({ballot.prompt for ballot in ballots})


# --- figures ----------------------------------------------------------------------------------------------------------


def pair_of(prompt: int, number: int = 0, question: str = "q") -> Pair:
    return Pair(f"{question}{prompt}-{number}", f"prompt {prompt}", (f"a{number}", f"b{number}"), question)


def said(pair: Pair, winner: int | str, person: str = "ann", seconds: float = 5.0, left: int = 0) -> Said:
    name = pair.names[winner] if isinstance(winner, int) else winner
    return Said(pair.id, person, pair.id, VOTE, name, pair.names[left], int(1000 * seconds))


def test_a_comparison_takes_the_first_vote_on_each_prompt_and_shares_its_level() -> None:
    pairs = {pair.id: pair for pair in (pair_of(k, n, q) for k in range(30) for n in (0, 1) for q in ("q", "r"))}
    votes = [said(pair, 0 if pair.id.endswith("0") else 1) for pair in sorted(pairs.values(), key=lambda pair: pair.id)]
    first, second = questions(votes, pairs, {"q": "one", "r": "two"})
    assert (first.prompts, first.wins) == (30, 1.0) == (second.prompts, second.wins)
    assert (first.low, first.high) == exact_interval([1.0] * 30, 0.025) and first.clear
    assert first.low < exact_interval([1.0] * 30, 0.05)[0]


def test_before_the_first_vote_nothing_is_known() -> None:
    (nothing,) = questions([], {}, {"q": "one"})
    assert (nothing.wins, nothing.low, nothing.high, nothing.clear) == (None, 0.0, 1.0, False)
    assert nothing.more == 373  # 1.9 · 1.96 / .1²


def test_ties_make_fewer_votes_needed() -> None:
    pairs = {pair.id: pair for pair in map(pair_of, range(100))}
    (found,) = questions(
        [said(pair, TIE if k < 20 else k % 2) for k, pair in enumerate(pairs.values())], pairs, {"q": ""}
    )
    assert found.more == 298 - 100 and not found.clear


@pytest.mark.parametrize(
    ("says", "seconds", "told"),
    [("12", 5.0, ""), ("12", 0.4, "fast"), ("1", 5.0, "in a row"), ("1", 5.0, "one side"), ("0", 5.0, "in a row")],
)
def test_who_only_presses_buttons_is_flagged_and_who_reads_is_not(says: str, seconds: float, told: str) -> None:
    votes = []
    for k in range(24):
        winner = {"1": 0, "2": 1, "0": TIE}[says[(k * k // 3) % len(says)]]
        votes.append(said(pair_of(k), winner, seconds=seconds))
    (found,) = people(votes, ())
    assert (told in "; ".join(found.flags)) if told else found.flags == ()
    assert found.votes == 24 and found.seconds == seconds


def test_who_says_something_else_when_asked_again_is_flagged() -> None:
    pairs = [pair_of(k) for k in range(24)]
    votes = [said(pair, (0, 1, 1, 0, TIE)[k % 5]) for k, pair in enumerate(pairs)]
    steady = [replace(one, kind=AGAIN) for one in votes[:4]]
    (found,) = people(votes, (), steady)
    assert (found.steady, found.repeats, found.flags) == (1.0, 4, ())
    (found,) = people(votes, (), [replace(one, winner="other") for one in steady[:2]] + steady[2:])
    assert found.steady == 0.5 and found.flags == ("says something else when asked again",)


def test_agreement_is_told_once_two_people_voted_on_the_same_pairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(folder, monkeypatch, "arms", {"ann": 1}, most=20)
    assert figures_of(folder / "arena" / "arms")["agreement"] == ""
    judge(folder, monkeypatch, "arms", {"bob": 1}, most=20)
    found = figures_of(folder / "arena" / "arms")
    assert "α is 1.00" in found["agreement"] and [one["agrees"] for one in found["people"]] == [1.0, 1.0]
    assert found["questions"][0]["name"] == "dpo beside ipo" and found["questions"][0]["prompts"] == 20
    json.dumps(found)
