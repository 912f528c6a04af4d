"""β of each arm by KL alone: the search on laws of its own, and in the studies of a tiny model."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import LIKES_A, QUICK, make_ballots
from studies import WORDS as WORDS

from preftune.errors import Interrupted, UserError
from preftune.evidence.comparisons import place
from preftune.evidence.frontiers import Point
from preftune.study import runs
from preftune.study.beta_search import ALONE, AROUND, MOST, START, STEP, Search, next_beta, search_betas
from preftune.study.plan import settle_study
from preftune.study.study import Study, compare

AUTO: dict[str, Any] = {name: value for name, value in QUICK.items() if name != "betas"} | {"checkpoints": 1}

Law = tuple[float, float]  # KL in nats at the start's β, and the slope of log KL in log β
any_law = st.tuples(st.floats(0.05, 20), st.floats(-2.0, -0.4))
laws = st.dictionaries(st.sampled_from(["dpo", "ipo", "ppo"]), any_law, min_size=1, max_size=3)


def following(law: dict[str, Law], luck: float = 0.0, seed: int = 0) -> Callable[[str, float], float]:
    """Runs that end where the laws say, moved by luck that a run has each time alike."""

    def run(arm: str, beta: float) -> float:
        kl, slope = law[arm]
        return kl * (beta / START) ** slope * math.exp(random.Random(f"{seed} {arm} {beta}").gauss(0, luck))

    return run


def search(arms: Sequence[str], run: Callable[[str, float], float | None], **named: Any) -> Search:
    """The search, of runs that are told one by one."""
    return search_betas(arms, lambda some: [run(*one) for one in some], **named)


@given(law=laws, alone=st.booleans())
def test_arms_of_any_strength_end_at_the_same_distances(law: dict[str, Law], alone: bool) -> None:
    found = search(list(law), following(law), alone=alone)
    assert len(found.targets) == len(ALONE if alone else AROUND) and all(not found.missed(arm) for arm in law)
    for arm, betas in found.chosen.items():
        assert len(betas) == len(found.targets) and list(betas) == sorted(betas)
        ends = sorted(math.sqrt(following(law)(arm, beta) or 0) for beta in betas)
        assert ends == pytest.approx(sorted(found.targets), rel=0.225)


@given(law=laws, luck=st.floats(0, 0.3), seed=st.integers(0, 99))
def test_a_search_ends_keeps_its_steps_and_tries_nothing_twice(law: dict[str, Law], luck: float, seed: int) -> None:
    found = search(list(law), following(law, luck, seed))
    for arm in law:
        betas = [one.beta for one in found.tried if one.arm == arm]
        assert betas[0] == START and len(betas) == len(set(betas)) <= MOST
        for i, beta in enumerate(betas[1:], 1):
            assert min(max(beta / other, other / beta) for other in betas[:i]) <= STEP * 1.05  # rounded to two digits
        assert set(found.chosen[arm]) <= set(betas)


@given(law=laws, luck=st.floats(0, 0.3))
def test_a_search_that_is_done_again_comes_to_the_same_end(law: dict[str, Law], luck: float) -> None:
    run = following(law, luck)
    assert search(list(law), run) == search(list(law), run)


@pytest.mark.parametrize("seeds", [1, 2])
def test_arms_that_were_found_can_be_compared(seeds: int) -> None:
    """With luck in each run, the verdict finds a place between the ends of both arms."""
    places = 0
    for seed in range(100):
        rng = random.Random(seed)
        law = {arm: (math.exp(rng.uniform(-2, 2)), rng.uniform(-1.5, -0.5)) for arm in ("dpo", "ipo")}
        runs_of = [following(law, 0.2, 2 * seed + i) for i in range(seeds)]
        found = search(list(law), runs_of[0], alone=seeds == 1)
        ends = {
            arm: [
                Point(f"{arm}{beta}{i}", arm, beta, i, 1, run(arm, beta) or 0.0, None, 0.0, None)
                for i, run in enumerate(runs_of)
                for beta in betas
            ]
            for arm, betas in found.chosen.items()
        }
        places += place(ends["dpo"], ends["ipo"]) is not None
    assert places >= 98


def test_an_arm_that_does_not_move_with_beta_stops_and_says_what_it_missed() -> None:
    found = search(["dpo", "ppo"], lambda arm, beta: 1.0 if arm == "ppo" else 1.0 * (beta / START) ** -0.8)
    assert not found.missed("dpo") and len(found.missed("ppo")) == 2
    assert 1 < len([one for one in found.tried if one.arm == "ppo"]) <= MOST


def test_an_arm_whose_run_fails_is_left_alone_and_the_others_are_found() -> None:
    found = search(["dpo", "ipo"], lambda arm, beta: None if arm == "ipo" else 1.0 * (beta / START) ** -0.8)
    assert [one.beta for one in found.tried if one.arm == "ipo"] == [START] == list(found.chosen["ipo"])
    assert len(found.chosen["dpo"]) == 3 and not found.missed("dpo")
    assert next_beta("ipo", found.tried, found.targets) is None


def test_where_nothing_leaves_the_reference_there_is_nothing_to_aim_at() -> None:
    found = search(["dpo"], lambda arm, beta: 0.0)
    assert (found.targets, found.chosen) == ((), {"dpo": (START,)})
    assert json.loads(json.dumps(found.record()))["tried"][0]["kl"] == 0.0


def test_targets_lie_around_the_middle_of_the_arms() -> None:
    found = search(["a", "b"], following({"a": (1.0, -1.0), "b": (16.0, -1.0)}))
    assert found.targets == pytest.approx([2.0 * times for times in AROUND])  # √(1 · 4)


# --- in a study -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(model: str, tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("found") / "s"
    return compare("dpo,ipo,sft", make_ballots(), model=model, out=out, seeds=[0, 1], **AUTO)


def test_a_study_finds_its_betas_writes_down_why_and_runs_them_at_every_seed(found: Study) -> None:
    info = found.study.info
    search = info["search"]
    assert search["ended"] and search["seed"] == 0 and set(search["chosen"]) == {"dpo", "ipo"}
    assert info["arm_betas"] == search["chosen"] and all(len(betas) >= 2 for betas in info["arm_betas"].values())
    done = {(row.arm, row.beta, row.seed) for row in found.study.finals()}
    assert {(arm, beta, seed) for arm, own in info["arm_betas"].items() for beta in own for seed in (0, 1)} <= done
    assert {(one["arm"], one["beta"], 0) for one in search["tried"]} <= done
    assert found.study.unfinished() == ()
    ends = {(row.arm, row.beta): row.kl for row in found.study.finals() if row.seed == 0}
    assert all(one["kl"] == ends[one["arm"], one["beta"]] and one["why"] for one in search["tried"])
    assert any(target.startswith("ipo @ beta=") for target in info["targets"])


def test_going_on_finds_the_same_and_trains_nothing(found: Study, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in found.folder.rglob("*.jsonl")}
    search = found.study.info["search"]
    monkeypatch.setattr(runs, "train_any", lambda *args, **kwargs: pytest.fail("trained again"))
    again = compare("dpo,ipo,sft", make_ballots(), model=model, out=found.folder, seeds=[0, 1], **AUTO)
    assert again.study.info["search"] == search
    assert {path: path.read_bytes() for path in found.folder.rglob("*.jsonl")} == before


def test_a_search_that_is_killed_twice_comes_to_the_same_end(
    found: Study, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, budget = runs.Runner.run, [2]

    def run(self: runs.Runner, *identity: Any) -> None:
        if not budget[0]:
            raise Interrupted("stopped")
        budget[0] -= 1
        original(self, *identity)

    monkeypatch.setattr(runs.Runner, "run", run)
    for runs_before in (2, 4):
        budget[0] = runs_before
        with pytest.raises(Interrupted):
            compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", seeds=[0, 1], **AUTO)
        partial = Study(tmp_path / "s")
        assert any("has not ended" in caveat for caveat in partial.verdict.caveats)
    budget[0] = 99
    whole = compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", seeds=[0, 1], **AUTO)
    assert whole.study.info["search"] == found.study.info["search"]
    assert whole.verdict.record() == found.verdict.record()
    assert not any("has not ended" in caveat for caveat in whole.verdict.caveats)


def test_the_search_never_looks_at_a_gain(found: Study, model: str, tmp_path: Path) -> None:
    """Another judge, and other gains: the same β."""
    hates = LIKES_A.__class__("hates a", "the opposite", lambda _, texts: [t.count("b") - t.count("a") for t in texts])
    options = AUTO | {"judge": hates}
    other = compare("dpo,ipo,sft", make_ballots(), model=model, out=tmp_path / "s", seeds=[0, 1], **options)
    assert other.study.info["search"] == found.study.info["search"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"betas": "automatic"}, "--betas automatic: give numbers, or auto"),
        ({"methods": "sft", "betas": "auto"}, "--betas auto: no arm has a β; leave it out"),
        ({"label_noise": [0.2]}, "--betas auto: β is found without label noise; add 0 to --label-noise"),
        ({"samples": 0}, "--betas auto: β is found by KL, which needs samples"),
    ],
)
def test_what_cannot_be_searched_is_said_before_anything_is_loaded(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        settle_study(**({"methods": "dpo,ipo"} | options))


def test_arms_without_a_beta_need_no_search() -> None:
    assert settle_study("sft").searching == () and settle_study("dpo,sft").searching == ("dpo",)
    assert settle_study("dpo", betas=[0.1]).searching == ()
    assert Search().record()["chosen"] == {}
