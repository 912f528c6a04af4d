"""Rounds: on-policy IPO goes to the fixed point of its theory, and who is killed anywhere ends at the same bits."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_worlds import FAST, World, normalised
from hypothesis import given, settings
from hypothesis import strategies as st
from running import PowerCut, contents, watch_steps

from preftune.data import Ballot, Message, kept_digests, prompt_digests, read_ballots, read_prompts, write_ballots
from preftune.errors import UserError
from preftune.evidence import clustered_mean, read_judgements, read_study
from preftune.judges import Contest, Judge, Opinion
from preftune.lab import optima
from preftune.lab.worlds import Floats
from preftune.rounds import making, run_rounds, stages
from preftune.study import judging

WORDS = ["x", "y", "a", "b", "c"]
BETA = 0.2


# --- the theory -------------------------------------------------------------------------------------------------------

SCORES = np.array([0.0, 0.5, 1.0, 2.0, 3.0])
TRUTH = 1 / (1 + np.exp(SCORES[None, :] - SCORES[:, None]))


def exact(_: Any, a: str, b: str) -> float | None:
    """The preference of a world that is known, with no noise; of nothing else it has none."""
    return float(TRUTH[WORDS.index(a), WORDS.index(b)]) if {a, b} <= set(WORDS) else None


def step(reference: Floats, sampler: Floats, truth: Floats, beta: float) -> Floats:
    """What IPO makes of pairs drawn from μ × μ: π_ref·exp(p(· ≻ μ)/β)."""
    return optima.tilt(reference, optima.borda(truth, sampler), beta)


def apart(a: Floats, b: Floats) -> float:
    """Total variation."""
    return float(abs(a - b).sum() / 2)


@pytest.fixture(scope="module")
def theory(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    """Two rounds of IPO on one prompt, a word a response, 256 samples a round; the other prompt is held out."""
    folder = tmp_path_factory.mktemp("theory")
    (folder / "prompts.txt").write_text("x\ny\n")
    options: dict[str, Any] = {"prompts": folder / "prompts.txt", "samples": 256, "max_new_tokens": 1, "beta": BETA}
    run_rounds("ipo", model=model, voter=exact, out=folder / "out", eval_fraction=0.5, rounds=2, **options, **FAST)
    (held_out,) = read_prompts(folder / "out" / "held-out.jsonl")
    return folder / "out", World("y" if held_out == "x" else "x", tuple(WORDS))


def test_each_round_ends_at_the_optimum_for_pairs_of_the_last_policy(theory: tuple[Path, World], model: str) -> None:
    folder, world = theory
    start = normalised(world.logprobs(model))
    for number in (1, 2):
        (row,) = map(json.loads, (folder / f"round-{number}" / "samples.jsonl").read_text().splitlines())
        drawn = Counter(text for text in row["responses"] if text)
        sampler = np.array([drawn[word] for word in WORDS]) / drawn.total()
        assert (sampler > 0).all(), "what was never drawn is not known to it"
        found = normalised(world.logprobs(folder / f"round-{number}" / "policy"))
        np.testing.assert_allclose(found, step(start, sampler, TRUTH, BETA), rtol=0, atol=0.01)


def test_rounds_go_to_the_policy_that_is_the_best_answer_to_itself(theory: tuple[Path, World], model: str) -> None:
    folder, world = theory
    start = normalised(world.logprobs(model))
    fixed = start
    for _ in range(2000):
        fixed = 0.9 * fixed + 0.1 * step(start, fixed, TRUTH, BETA)
    assert apart(step(start, fixed, TRUTH, BETA), fixed) < 1e-9
    places = [model, *(str(folder / f"round-{number}" / "policy") for number in (1, 2))]
    far = [apart(normalised(world.logprobs(place)), fixed) for place in places]
    assert far[0] > 0.2 and far[1] < far[0] / 3 and far[2] < far[1] / 3


floats = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda x: np.array(x) / sum(x))


@settings(max_examples=40)
@given(floats, floats, floats, st.lists(st.floats(0, 1), min_size=6, max_size=6), st.floats(0.5, 5))
def test_from_half_on_a_larger_beta_brings_any_two_policies_nearer(
    reference: Floats, a: Floats, b: Floats, wins: list[float], beta: float
) -> None:
    """TV(T(μ), T(μ')) ≤ TV(μ, μ')/2β, whatever the preference: rounds converge where β > ½."""
    truth = np.full((4, 4), 0.5)
    truth[np.triu_indices(4, 1)] = wins
    truth[np.tril_indices(4, -1)] = 1 - truth.T[np.tril_indices(4, -1)]
    moved = apart(step(reference, a, truth, beta), step(reference, b, truth, beta))
    assert moved <= apart(a, b) / (2 * beta) + 1e-12


@pytest.mark.parametrize(
    ("circle", "beta", "wanted"),
    [
        (False, 0.2, (0.419, 0.063, 0.008, 0.001)),
        (True, 0.3, (0.088, 0.068, 0.051, 0.041)),
        (True, 0.2, (0.103, 0.116, 0.126, 0.166)),
    ],
)
def test_rounds_come_nearer_where_scores_explain_the_preference_and_may_not_where_it_runs_in_circles(
    circle: bool, beta: float, wanted: Sequence[float]
) -> None:
    """The figures of docs/ROUNDS.md, without samples."""
    places = np.arange(5)
    ahead = (places[None, :] - places[:, None]) % 5
    truth = np.select([ahead == 0, ahead <= 2], [0.5, 0.9], 0.1) if circle else TRUTH
    start = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    fixed = start
    for _ in range(5000):
        fixed = 0.95 * fixed + 0.05 * step(start, fixed, truth, beta)
    assert apart(step(start, fixed, truth, beta), fixed) < 1e-12
    policies = [start]
    for _ in (1, 2, 3):
        policies.append(step(start, policies[-1], truth, beta))
    np.testing.assert_allclose([apart(one, fixed) for one in policies], wanted, atol=6e-4)


def test_the_reference_is_the_start_in_every_round(theory: tuple[Path, World], model: str) -> None:
    records = [json.loads((theory[0] / f"round-{number}" / "run.json").read_text()) for number in (1, 2)]
    assert {record["reference"]["name"] for record in records} == {model}
    started = [record["model"]["name"] for record in records]
    assert started == [model, str(theory[0] / "round-1" / "policy")]
    assert len({record["seed"] for record in records}) == 2


# --- a round ----------------------------------------------------------------------------------------------------------


class Likes:
    """A judge who likes a word; it may be struck down after so many questions."""

    name, description = "likes", "counts the letter a"
    identity: dict[str, Any] = {"version": 1}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked, self.falls_at = 0, math.inf

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        found = []
        for contest in contests:
            self.asked += 1
            if self.asked > self.falls_at:
                raise PowerCut
            more = contest.a.count("a") - contest.b.count("a")
            p = 0.5 + 0.4 * (more > 0) - 0.4 * (more < 0)
            found.append(Opinion(p, p) if "c c" not in contest.a else Opinion(None, None, "it was silent"))
        return found


SMALL: dict[str, Any] = {"rounds": 2, "beta": 0.1, "max_new_tokens": 3, "lr": 5e-3, "steps": 4, "batch_size": 4}
SMALL |= {"samples": 3, "max_length": 24, "device": "cpu", "method": "ipo", "save_every": 0.0}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(f"{a} {b}" for a in "xyab" for b in "abc"))
    return path


@pytest.fixture(scope="module")
def small(model: str, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds that nothing interrupts; the second one was asked for later."""
    given: dict[str, Any] = {"model": model, "prompts": prompts, "voter": Likes()}
    out = tmp_path_factory.mktemp("small") / "out"
    told, _ = run_rounds(out=out, **given, **SMALL | {"rounds": 1})
    assert [row.round for row in told] == [1]
    run_rounds(out=out, **given, **SMALL)
    with pytest.raises(UserError, match=r"--rounds 1: .* has more already"):
        run_rounds(out=out, **given, **SMALL | {"rounds": 1})
    return out


def test_a_round_is_a_folder_of_its_samples_votes_run_and_judgement(small: Path, prompts: Path) -> None:
    held_out = prompt_digests(read_prompts(small / "held-out.jsonl"))
    assert len(held_out) == 2 and held_out < prompt_digests(read_prompts(prompts))
    for number in (1, 2):
        folder = small / f"round-{number}"
        learned = prompt_digests(ballot.prompt for ballot in read_ballots(folder / "ballots.jsonl"))
        assert learned <= (kept_digests(folder) or set()) <= prompt_digests(read_prompts(prompts)) - held_out
        study = read_study(folder / "judged")
        assert {row.run for row in study.results} == {
            "reference",
            f"round-{number}",
            "start" if number == 1 else "round-1",
        }
        assert prompt_digests({sample.prompt for sample in study.samples}) == held_out
        assert any("cast the votes" in caveat for caveat in study.info["caveats"])


def test_a_vote_counts_as_often_as_its_responses_were_drawn_together(small: Path) -> None:
    drawn = [json.loads(line) for line in (small / "round-1" / "samples.jsonl").read_text().splitlines()]
    counts = {row["prompt"]: Counter(row["responses"]) for row in drawn}
    weights = Counter[float]()
    for ballot in read_ballots(small / "round-1" / "ballots.jsonl"):
        for vote in ballot.votes:
            a, b = (counts[ballot.prompt][ballot.responses[k]] for k in (vote.a, vote.b))
            assert vote.weight == a * b
            weights[vote.weight] += 1
    assert len(weights) > 1 and all(len(row["responses"]) == 3 for row in drawn)


def test_what_was_drawn_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Also where a text has what other programs take for the end of a line."""
    chat = (Message("user", "Ask\u2028me"), Message("assistant", "What?"), Message("user", "This\x85"))
    drawn = [
        Ballot(chat, ("a\u2028b\r", "", "a\u2028b\r"), (), "1", "start", (True, False, True)),
        Ballot("x", ("", "c"), ()),
    ]
    write_ballots(drawn, tmp_path / "samples.jsonl")
    assert stages.read_drawn(tmp_path / "samples.jsonl") == drawn
    (tmp_path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"samples.jsonl, line 1: cannot be read; remove the file"):
        stages.read_drawn(tmp_path / "samples.jsonl")


def test_the_table_is_what_the_judgement_says(small: Path) -> None:
    record = json.loads((small / "rounds.json").read_text())
    for row in record["rounds"]:
        study = read_study(small / f"round-{row['round']}" / "judged")
        met = [one for one in study.judgements if one.against == row["against"] and not one.again]
        known = [one for one in met if one.preference is not None]
        assert row["missing"] == len(met) - len(known)
        by_prompt: dict[int, list[float]] = {}
        for one in known:
            by_prompt.setdefault(one.prompt_id, []).append(one.preference or 0.0)
        wanted = clustered_mean([sum(own) / len(own) for own in by_prompt.values()], list(by_prompt))
        assert row["wins"] == pytest.approx(wanted.value) and 0 <= row["low"] <= row["wins"] <= row["high"] <= 1
        (end,) = [one for one in study.results if one.run == f"round-{row['round']}"]
        assert row["kl"] == end.kl
    assert record["rounds"][0]["against"] == "start" and record["rounds"][1]["against"] == "round-1"
    assert any("no independent judge" in line for line in record["concluded"])


def test_pairs_without_a_verdict_train_nobody(small: Path) -> None:
    rows = [json.loads(line) for line in (small / "round-2" / "judgements.jsonl").read_text().splitlines()]
    silent = sum(row["first"] is None for row in rows)
    votes = sum(len(ballot.votes) for ballot in read_ballots(small / "round-2" / "ballots.jsonl"))
    assert silent and votes == len(rows) - silent


# --- killed anywhere --------------------------------------------------------------------------------------------------

ASKED = "judgements.jsonl"
TIMED = ("metrics.jsonl", "run.json", "report.html", ".lock")  # which say how long it took


def cuts(judge: Likes) -> Iterator[Callable[[pytest.MonkeyPatch], None]]:
    """What strikes a run down, one after the other, from the first stage to the last."""

    def falls(*_: Any, **__: Any) -> Any:
        raise PowerCut

    def at(module: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
        return lambda patch: patch.setattr(module, name, falls)

    def in_answers(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(judge, "falls_at", judge.asked + 7)

    def in_training(patch: pytest.MonkeyPatch) -> None:
        watch_steps(patch, after=lambda step: falls() if step == 2 else None)

    yield at(making, "write_prompts")
    yield at(stages, "write_ballots")  # of samples
    yield in_answers
    yield in_training
    yield lambda patch: patch.setattr("preftune.study.judged_folders.summarise", falls)
    yield at(making, "read_told")  # the second round comes
    yield at(stages, "weighted")
    yield lambda patch: patch.setattr("preftune.study.single.keep_digests", falls)
    yield in_answers
    yield lambda patch: patch.setattr("preftune.study.judged_folders.write_report", falls)
    yield at(stages, "tell")


def test_rounds_that_are_killed_at_every_stage_end_at_the_same_bits(
    model: str, prompts: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "AT_ONCE", 3)
    judge, out, killed = Likes(), tmp_path / "out", 0
    for cut in cuts(judge):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
            cut(patch)
            run_rounds(model=model, prompts=prompts, voter=judge, out=out, **SMALL)
        killed += 1
    run_rounds(model=model, prompts=prompts, voter=judge, out=out, **SMALL)
    found, wanted = contents(out), contents(small)
    assert killed == 11 and found.keys() == wanted.keys()
    assert {name for name in wanted if found[name] != wanted[name] and Path(name).name not in (*TIMED, ASKED)} == set()
    for name in (name for name in wanted if Path(name).name == ASKED):  # what had no verdict is asked once more
        assert read_judgements(out / name) == read_judgements(small / name)
    uninterrupted = Likes()
    before = contents(out)
    run_rounds(model=model, prompts=prompts, voter=uninterrupted, out=out, **SMALL)
    assert not uninterrupted.asked and contents(out) == before, "what is there is not made again"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rounds": 0}, "--rounds 0: must be at least 1"),
        ({"samples": 1}, "--samples 1: must be at least 2"),
        ({"eval_fraction": 0.0}, "--eval-fraction 0.0: must be above 0 and below 1"),
        ({"beta": None}, "--beta None: ipo needs a β"),
        ({"method": "reward"}, "reward: trains no policy"),
        ({"method": "best-of-n"}, "best-of-n: trains nothing"),
        ({"method": "ip"}, "unknown method 'ip'; did you mean 'ipo'"),
        ({"voter": "reward"}, "--voter reward: must be people, reward:DIR.* train a reward model first"),
        ({"voter": "nobody"}, "--voter nobody: must be people"),
        ({"voter": "http://localhost/v1"}, "--voter http://localhost/v1: say which model is asked there"),
        ({"voter": Judge("gold", "", lambda prompts, texts: [0.0] * len(texts))}, "voter: name one who compares two"),
        ({"judging": {"judge_model": "m"}}, "--judge-model m: no judge has use for it; .* name one with --voter"),
        ({"max_new_tokens": 24}, "--max-new-tokens 24: must leave room"),
        ({"rollouts": 3}, "rollouts"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    change: dict[str, Any], told: str, prompts: Path, out: Path
) -> None:
    given: dict[str, Any] = {"model": "none", "prompts": prompts, "voter": Likes(), "out": out}
    with pytest.raises(UserError, match=told):
        run_rounds(**given | SMALL | change)
    assert not out.exists()


def test_a_folder_of_other_rounds_or_of_something_else_is_left_alone(
    small: Path, model: str, prompts: Path, out: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": model, "prompts": prompts, "voter": Likes(), "out": small}
    before = contents(small)
    with pytest.raises(UserError, match=r"was begun with beta 0.1, now 0.2; use the same, or a new --out"):
        run_rounds(**given | SMALL | {"beta": 0.2})
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("x a\nx b\ny c")
    with pytest.raises(UserError, match="was begun with other prompts"):
        run_rounds(**given | SMALL | {"prompts": fewer})
    assert contents(small) == before
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty, and holds no rounds"):
        run_rounds(**given | SMALL | {"out": out})
    one = tmp_path / "one.txt"
    one.write_text("x a\nx  a\n")
    with pytest.raises(UserError, match=r"one.txt: holds 1 prompt; rounds need two or more"):
        run_rounds(**given | SMALL | {"prompts": one})


def test_held_out_prompts_that_the_start_learned_from_are_refused_at_once(
    small: Path, prompts: Path, out: Path
) -> None:
    given: dict[str, Any] = {"prompts": prompts, "voter": Likes(), "out": out, "seed": 5, **SMALL}
    with pytest.raises(UserError, match=r"--prompts, held out: .* are also in what .*round-1/policy learned"):
        run_rounds(model=str(small / "round-1" / "policy"), **given)
    assert not out.exists()
