"""Judges in a study: who meets whom, what is asked once, what is concluded, and what is said of the judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import LIKES_A, QUICK, make_ballots
from studies import WORDS as WORDS

from preftune.data import keep_digests, kept_digests, prompt_digests
from preftune.errors import UserError
from preftune.evidence import (
    CONTROLS,
    COPY,
    IDENTICAL,
    OPPONENT,
    judge_facts,
    read_judgements,
    read_study,
    verdict,
)
from preftune.evidence.people import keep_votes, pairs_of, write_pairs
from preftune.judges import Contest, JudgeSpec, Opinion
from preftune.report.beside import put_beside
from preftune.report.page import page_of
from preftune.study import beta_search, looks
from preftune.study.judged_folders import judge_folders
from preftune.study.judging import Panel, agreement_with_votes
from preftune.study.study import Study, compare

JUDGED: dict[str, Any] = {name: value for name, value in QUICK.items() if name != "judge"}
JUDGED |= {"samples": 2, "checkpoints": 2, "seeds": (0, 1)}


def likes_a(prompt: Any, a: str, b: str) -> float:
    """Prefers the response with more of the letter a."""
    more = a.count("a") - b.count("a")
    return 0.5 if more == 0 else float(more > 0)


class Counting:
    """A judge that remembers what it was asked, and gives no verdict where it is told to."""

    name, description = "counting", "counts letters"
    identity: dict[str, Any] = {"version": 1}  # noqa: RUF012

    def __init__(self, silent: Sequence[str] = (), stops_after: int | None = None) -> None:
        self.asked: list[Contest] = []
        self.silent, self.stops_after = silent, stops_after

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        said = []
        for contest in contests:
            if self.stops_after is not None and len(self.asked) >= self.stops_after:
                raise KeyboardInterrupt
            self.asked.append(contest)
            p = likes_a(contest.prompt, contest.a, contest.b)
            silent = any(word in contest.a + contest.b for word in self.silent)
            said.append(Opinion(None, None, "it was silent") if silent else Opinion(p, p))
        return said


@pytest.fixture(scope="module")
def judged(model: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("judged") / "s"
    return compare("dpo,ipo", make_ballots(), model=model, judge=[likes_a, Counting()], out=folder, **JUDGED)


def test_every_run_end_meets_the_opponent_and_so_do_both_controls(judged: Study) -> None:
    study = judged.study
    ends = {(row.run, row.step) for row in study.ends()}
    met = [one for one in study.judgements if one.judge == "likes_a" and not one.again and one.against == OPPONENT]
    assert {(one.run, one.step) for one in met} == ends | {(control, 0) for control in CONTROLS}
    prompts = study.info["data"]["prompts_eval"]
    per_end = {end: [one for one in met if (one.run, one.step) == end] for end in ends}
    assert all(len(of) == prompts * 2 for of in per_end.values())
    assert all(one.sample == one.other for of in per_end.values() for one in of)


def test_the_opponent_shares_no_luck_with_the_policies(judged: Study) -> None:
    """Samples of the reference, its opponent and its copy under one number differ; of the reference itself they agree
    with every policy's as far as the two models do."""
    study = judged.study
    own = {(s.prompt_id, s.sample): s.response for s in study.samples if s.run == "reference"}
    for run in (OPPONENT, COPY):
        other = {(s.prompt_id, s.sample): s.response for s in study.opponents if s.run == run}
        assert other.keys() == own.keys()
        assert sum(other[key] == own[key] for key in own) < len(own) / 2


def test_arms_meet_at_about_the_same_kl_across_sample_numbers(judged: Study) -> None:
    study = judged.study
    between = [one for one in study.judgements if one.against not in (OPPONENT,)]
    kl = {(row.run, row.step): row.kl for row in study.results}
    assert between
    for one in between:
        a, b = kl[one.run, one.step], kl[one.against, one.against_step]
        assert a and b and 0.5 <= a / b <= 2 and one.other == (one.sample + 1) % 2


def test_the_axis_is_the_win_rate_and_the_first_judge_answers(judged: Study) -> None:
    answer = judged.verdict
    assert answer.axis == "win rate" and answer.judge == "likes_a" and "by judge likes_a" in answer.sentence
    assert [(one.axis, one.judge) for one in answer.secondary] == [
        ("win rate", "counting"),
        ("length-controlled win rate", "likes_a"),
        ("length-controlled win rate", "counting"),
    ]
    study = judged.study
    for point in answer.points:
        wins: dict[int, list[float]] = {}
        for one in study.judgements:
            where = (one.judge, one.run, one.step, one.against, one.again)
            if where == ("likes_a", point.run, point.step, OPPONENT, False):
                wins.setdefault(one.prompt_id, []).append((one.first + one.second) / 2)
        means = [sum(of) / len(of) for of in wins.values()]
        assert point.gain == pytest.approx(sum(means) / len(means) - 0.5)
    record = json.loads((judged.folder / "verdict.json").read_text())
    assert record["axis"] == "win rate" and record["judge"] == "likes_a"
    assert [(pair["axis"], pair["judge"]) for pair in record["pairs"]].index(("win rate", "likes_a")) == 0
    assert len(record["pairs"]) == 4


def test_gold_stays_primary_beside_judges(model: str, tmp_path: Path) -> None:
    few = {**JUDGED, "seeds": (0,), "betas": [0.3]}
    study = compare("dpo,ipo", make_ballots(), model=model, judge=[LIKES_A, likes_a], out=tmp_path / "s", **few)
    assert study.verdict.axis == "reward" and study.verdict.secondary[0].judge == "likes_a"


def test_what_is_known_of_the_judges(judged: Study) -> None:
    likes, counting = judge_facts(judged.study)
    assert likes.flips and likes.flips.value == 0 and likes.missed == 0
    assert likes.agreement["accuracy"]["value"] > 0.6 and not likes.why_no_axis
    assert set(likes.controls) == set(CONTROLS) and likes.controls[COPY].interval(0.999)[0] <= 0.5
    assert likes.asked == counting.asked and (likes.again, likes.drifted) == (20, 0)


def test_identical_texts_are_ties_and_nobody_is_asked(judged: Study) -> None:
    texts = {
        (s.run, s.step, s.prompt_id, s.sample): s.response for s in (*judged.study.samples, *judged.study.opponents)
    }
    for one in judged.study.judgements:
        own = texts[one.run, one.step, one.prompt_id, one.sample]
        other = texts[one.against, one.against_step, one.prompt_id, one.other]
        assert (one.why == IDENTICAL) == (own == other)
        assert own != other or one.preference == 0.5


def test_going_on_asks_nothing_again_and_what_had_no_verdict_once_more(model: str, tmp_path: Path) -> None:
    few = {**JUDGED, "seeds": (0,), "betas": [0.3]}
    first = Counting(silent=("h",))
    out = tmp_path / "s"
    before = compare("dpo,ipo", make_ballots(), model=model, judge=first, out=out, **few)
    silent = [one for one in before.study.judgements if one.preference is None]
    assert silent and {one.why for one in silent} == {"it was silent"}
    facts = judge_facts(before.study)[0]
    assert facts.missing == {"it was silent": len(silent)}
    again = Counting()
    after = compare("dpo,ipo", make_ballots(), model=model, judge=again, out=out, **few)
    assert len(again.asked) == len(silent)
    assert all(one.preference is not None for one in after.study.judgements)
    with pytest.raises(UserError, match="was judged by counting"):
        compare("dpo,ipo", make_ballots(), model=model, out=out, **few)
    other = Counting()
    other.identity = {"version": 2}
    with pytest.raises(UserError, match="judge counting is another one than it was"):
        compare("dpo,ipo", make_ballots(), model=model, judge=other, out=out, **few)


def test_an_interrupted_judge_goes_on_where_it_was(model: str, tmp_path: Path) -> None:
    few = {**JUDGED, "seeds": (0,), "betas": [0.3]}
    whole = compare("dpo,ipo", make_ballots(), model=model, judge=Counting(), out=tmp_path / "whole", **few)
    cut = Counting(stops_after=100)
    with pytest.raises(KeyboardInterrupt):
        compare("dpo,ipo", make_ballots(), model=model, judge=cut, out=tmp_path / "cut", **few)
    rest = Counting()
    ended = compare("dpo,ipo", make_ballots(), model=model, judge=rest, out=tmp_path / "cut", **few)
    assert set(ended.study.judgements) == set(whole.study.judgements)
    assert ended.verdict.record() == whole.verdict.record()


def test_a_judge_that_does_not_agree_with_held_out_votes_carries_no_axis(model: str, tmp_path: Path) -> None:
    def hates_a(prompt: Any, a: str, b: str) -> float:
        return 1 - likes_a(prompt, a, b)

    few = {**JUDGED, "seeds": (0,), "betas": [0.3]}
    study = compare("dpo,ipo", make_ballots(), model=model, judge=[hates_a, likes_a], out=tmp_path / "s", **few)
    answer = study.verdict
    assert answer.axis == "accuracy" and "hates_a, carries no axis" in answer.sentence
    assert [one.judge for one in answer.secondary] == ["likes_a", "likes_a"]
    assert any("hates_a carries no axis" in alarm for alarm in answer.alarms)
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "May be concluded" not in page and "The study answers by judge" not in page


def test_a_reward_judge_learns_from_votes_that_no_arm_sees(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {**JUDGED, "seeds": (0,), "betas": [0.3], "kind": "frozen"}
    study = compare("dpo,ipo", make_ballots(), model=model, judge="reward", out=tmp_path / "s", **few).study
    said = capsys.readouterr().err
    assert said.index("judge reward: it agrees with") < said.index("dpo-beta0.3-seed0, step")  # before it is needed
    data = study.info["data"]
    assert data["ballots_judge"] > 0
    del few["kind"]
    without = compare("dpo,ipo", make_ballots(), model=model, out=tmp_path / "t", **few).study.info["data"]
    assert data["ballots_judge"] + data["ballots_train"] == without["ballots_train"]
    judge = study.info["judges"][0]
    assert judge["name"] == "reward" and judge["identity"]["base"] == study.info["model"]["sha256"]
    assert (tmp_path / "s" / "judges" / "reward" / "done.json").exists()
    agrees = judge["agreement"]  # with every vote that it was not fitted on, those of the arms too
    assert agrees["votes"] + agrees["missing"] == data["votes_eval"] + data["votes_train"]
    own = kept_digests(tmp_path / "s" / "judges" / "reward")
    assert own and agrees["prompts"] + len(own) == len({ballot.prompt for ballot in make_ballots()})


def test_a_judge_is_tested_on_no_vote_that_it_is_known_to_have_learned_from(tmp_path: Path) -> None:
    ballots = tuple(make_ballots(12))
    panel = Panel(held_out=ballots[:4], learned=ballots[4:], digests=prompt_digests(one.prompt for one in ballots[4:6]))
    (tmp_path / "policy").mkdir()
    keep_digests(tmp_path, prompt_digests(one.prompt for one in ballots[:3]))
    for spec, known in (
        (JudgeSpec("reward", "reward"), ballots[4:6]),
        (JudgeSpec("model:m", "model", str(tmp_path)), ballots[:3]),
        (JudgeSpec("function", "function"), ()),
    ):
        asked = panel.unseen(spec)
        assert sorted(asked, key=repr) == sorted((one for one in ballots if one not in known), key=repr)
        assert set(asked[: len(set(ballots[:4]) - set(known))]) <= set(ballots[:4])  # the held-out ones first


def test_votes_on_one_prompt_are_one_cluster_whatever_ballot_they_stand_in() -> None:
    twice = [replace(one, id=f"{one.prompt}-{i}") for one in make_ballots(10) for i in range(2)]
    once = make_ballots(10)
    one, two = (agreement_with_votes(Counting(), ballots) for ballots in (once, twice))
    assert two["prompts"] == one["prompts"] and two["votes"] == 2 * one["votes"]
    assert two["accuracy"] == pytest.approx(one["accuracy"])


def test_the_reward_that_taught_an_arm_is_no_judge_of_it(model: str, tmp_path: Path) -> None:
    few = {**JUDGED, "seeds": (0,), "betas": [0.3], "kind": "full"}
    out = tmp_path / "s"
    compare("rloo", make_ballots(), model=model, out=out, **{**few, "steps": 2})
    with pytest.raises(UserError, match="the reward model that some arm learns from"):
        compare(
            "rloo", make_ballots(), model=model, out=out, judge=f"reward:{out}/rewards/seed0", **{**few, "steps": 2}
        )


def test_people_correct_the_judge(judged: Study, tmp_path: Path) -> None:
    """Votes by gold on half of the prompts: people alone and both together are there, and no run is named in a pair."""
    asked = tmp_path / "pairs.jsonl"
    count = write_pairs(judged.study, asked)
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    assert count == len(rows) and all(set(row) == {"pair", "prompt", "a", "b", "winner"} for row in rows)
    assert not any(row.run in asked.read_text() for row in judged.study.trained())
    half = rows[: len(rows) // 2]
    for row in half:
        p = likes_a("", row["a"], row["b"])
        row["winner"] = "tie" if p == 0.5 else "a" if p else "b"
    voted = tmp_path / "votes.jsonl"
    voted.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert keep_votes(judged.study, voted) == (len(half), len(rows) - len(half))
    answer = verdict(read_study(judged.folder))
    by_people = {one.axis: one for one in answer.secondary if one.judge == "likes_a"}
    people, both = by_people["win rate by people"], by_people["win rate by people and judge"]
    assert answer.axis == "win rate" and people.points and both.points
    truth = {(point.run, point.step): point.gain for point in answer.points}
    for point in both.points:  # where people and judge agree on every pair, people add nothing and take nothing away
        assert point.gain == pytest.approx(truth[point.run, point.step], abs=0.15)
    (judged.folder / "human-votes.jsonl").unlink()


def test_votes_on_samples_of_another_study_are_refused(judged: Study, tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"pair": "0123456789abcdef", "winner": "a"}\n')
    with pytest.raises(UserError, match=r"line 1: pair '0123456789abcdef' is none of this study's"):
        keep_votes(judged.study, path)
    assert not (judged.folder / "human-votes.jsonl").exists()


def test_pairs_are_blind_and_sides_are_balanced(judged: Study) -> None:
    pairs = list(pairs_of(judged.study))
    assert 0.3 < sum(pair.swapped for pair in pairs) / len(pairs) < 0.7
    prompts = [pair.own.prompt_id for pair in pairs]
    blocks = [prompt for place, prompt in enumerate(prompts) if place == 0 or prompts[place - 1] != prompt]
    assert len(blocks) == len(set(blocks)), "all pairs of a prompt stand together"


def test_judgements_read_as_they_were_written(judged: Study) -> None:
    assert read_judgements(judged.folder / "judgements.jsonl") == judged.study.judgements


def test_policies_that_exist_already_are_judged_and_go_on(judged: Study, model: str, tmp_path: Path) -> None:
    runs = [str(judged.folder / "runs" / row.run) for row in judged.study.finals()][:3]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{a} {b}"}) + "\n" for a in "abcdefgh" for b in "abcdefgh"))
    options: dict[str, Any] = {"prompts": str(prompts), "samples": 2, "max_new_tokens": 6, "max_length": 24}
    options |= {"device": "cpu", "out": tmp_path / "judged", "allow_overlap": True}
    first = Counting()
    study = judge_folders(runs, judge=first, **options)
    answer = verdict(study)
    assert len(answer.points) == 3 and all(point.gain > 0 for point in answer.points)
    assert sum(one.against != OPPONENT and not one.again for one in study.judgements) == 3 * 64 * 2, (
        "every two, at every sample"
    )
    assert (tmp_path / "judged" / "report.html").exists()
    again = Counting()
    assert judge_folders(runs, judge=again, **options).judgements == study.judgements and not again.asked
    with pytest.raises(UserError, match="holds another judging"):
        judge_folders(runs[:2], judge=Counting(), **options)
    with pytest.raises(UserError, match="no votes here to fit it on"):
        judge_folders(runs, judge="reward", **options)


def test_a_plain_model_is_judged_beside_a_named_reference(model: str, judged: Study, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": a}) + "\n" for a in "abcdefgh"))
    options: dict[str, Any] = {"prompts": str(prompts), "max_new_tokens": 6, "max_length": 24, "allow_overlap": True}
    run = str(judged.folder / "runs" / judged.study.finals()[0].run / "policy")
    with pytest.raises(UserError, match="judge: which reference"):
        judge_folders([run], judge=Counting(), out=tmp_path / "s", **options)
    assert not (tmp_path / "s" / "study.json").exists()
    study = judge_folders([run], judge=Counting(), reference=model, out=tmp_path / "s", **options)
    assert verdict(study).points[0].arm == "policy"


def test_two_judged_studies_beside_each_other_are_one(judged: Study, model: str, tmp_path: Path) -> None:
    """The same study apart, arm by arm, and put together again: the runs of both have the win rates that they had."""
    apart = [
        compare(arm, make_ballots(), model=model, judge=[likes_a, Counting()], out=tmp_path / arm, **JUDGED).study
        for arm in ("dpo", "ipo")
    ]
    both, _ = put_beside(*apart)
    answer = verdict(both)
    whole = {point.run: point.gain for point in judged.verdict.points}
    assert {point.run.split("/")[1]: point.gain for point in answer.points} == whole
    assert answer.axis == "win rate" and len(answer.comparisons) == 1
    assert "agree" in page_of(both, answer)
    with pytest.raises(UserError, match="its judges are not those of"):
        put_beside(apart[0], replace(apart[1], info={**apart[1].info, "judges": apart[1].info["judges"][:1]}))


def test_looks_on_the_axis_of_a_judge(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the verdict, by a judge: a look judges the runs and the prompts that came, and nothing else."""
    for name, value in (("SEEDS", (2, 3)), ("ALPHA", (0.02, 0.03)), ("TIMES", (1, 3))):
        monkeypatch.setattr(looks, name, value)
    monkeypatch.setattr(beta_search, "MOST", 2)
    few = {**JUDGED, "betas": [0.3], "checkpoints": 1, "epochs": 1.0, "lr": 1e-3, "samples": 1}
    few |= {"until": "verdict", "eval_prompts": 4, "eval_fraction": 0.4}
    del few["seeds"]
    judge = Counting()
    study = compare("dpo,ipo", make_ballots(), model=model, judge=judge, out=tmp_path / "s", **few)
    done = study.study.info["looks"]["done"]
    assert (done[0]["seeds"], done[0]["prompts"]) == (2, 4) and study.verdict.axis == "win rate"
    met = [one for one in study.study.judgements if not one.again and one.why != IDENTICAL]
    held_out = study.study.info["judges"][0]["agreement"]["votes"]
    assert len(judge.asked) == len(met) + held_out + sum(one.again for one in study.study.judgements)
    ends = {(row.run, row.step) for row in study.study.ends()}
    prompts = {(one.run, one.prompt_id) for one in study.study.judgements if (one.run, one.step) in ends}
    assert len(prompts) == len(ends) * done[-1]["prompts"]
