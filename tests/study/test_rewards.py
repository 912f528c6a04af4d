"""Studies with a reward model: shared by the arms of a seed, recorded beside gold, and never trained twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from preftune.data.ballots import Ballot, Vote
from preftune.errors import UserError
from preftune.evidence.results import REFERENCE, Result
from preftune.evidence.study_alarms import alarms
from preftune.judges.judge import Judge
from preftune.methods import best_of_n_kl
from preftune.model.sampling import Rollout
from preftune.study import runs
from preftune.study.evaluate import best_of
from preftune.study.study import Study, compare

WORDS = [f"w{i}" for i in range(12)]
ARMS = "dpo,ppo,rloo,best-of-n"
TWICE = {"inner_epochs": 2}  # of ppo


def gold(response: str) -> float:
    return sum(int(word[1:]) % 4 for word in response.split()) / 3


def some_ballots() -> list[Ballot]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(24):
        a, b = (" ".join(f"w{j}" for j in rng.integers(0, 12, 3)) for _ in range(2))
        found.append(Ballot(f"w{i % 12} w{i // 12}", (a, b), (Vote(0, 1, float(gold(a) > gold(b))),), str(i)))
    return found


SETTINGS = {
    "betas": [0.5],
    "seeds": [0, 1],
    "eval_fraction": 0.25,
    "max_new_tokens": 3,
    "checkpoints": 2,
    "kind": "frozen",
    "lr": 3e-3,
    "batch_size": 6,
    "max_length": 32,
    "samples": 2,
    "device": "cpu",
}
JUDGE = Judge("gold", "a sum", lambda prompts, responses: [gold(response) for response in responses])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: str) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return compare(
            ARMS,
            some_ballots(),
            model=model,
            out=tmp_path_factory.mktemp("out") / "s",
            judge=JUDGE,
            **SETTINGS,
            **TWICE,
        )


def test_every_arm_is_recorded_by_gold_and_by_the_learned_reward(made: Study) -> None:
    rows = [row for row in made.results if row.run != REFERENCE]
    assert {row.arm for row in rows} == {"dpo", "ppo", "rloo", "best-of-n"}
    assert {row.seed for row in rows} == {0, 1}
    for row in rows:
        assert row.gain is not None
        assert np.isfinite(row.extra["proxy"])
        samples = [s for s in made.study.samples if (s.run, s.step) == (row.run, row.step)]
        assert row.extra["proxy"] == pytest.approx(np.mean([s.extra["proxy"] for s in samples]))


def test_every_seed_has_a_reward_model_of_its_own_with_its_quality(made: Study) -> None:
    info = made.study.info
    assert {"0", "1", "kind"} == set(info["reward"])
    assert 0 <= info["reward"]["0"]["held_out"]["accuracy"]["value"] <= 1
    assert all((made.folder / "rewards" / f"seed{seed}" / "reward" / "reward.json").exists() for seed in (0, 1))


def test_best_of_n_climbs_the_learned_reward_at_its_known_kl(made: Study) -> None:
    for seed in (0, 1):
        rows = sorted((r for r in made.results if r.run == f"best-of-n-seed{seed}"), key=lambda row: row.step)
        assert [row.step for row in rows] == [2, 4, 8, 16]
        proxies = [row.extra["proxy"] for row in rows]
        assert all(later >= earlier for earlier, later in pairwise(proxies))
        assert [row.kl for row in rows] == pytest.approx([np.log(n) - (n - 1) / n for n in (2, 4, 8, 16)])


def test_costs_are_told_in_three_currencies(made: Study) -> None:
    budgets = made.study.info["budgets"]
    assert set(budgets) == {f"{arm}-beta0.5-seed{seed}" for arm in ("dpo", "ppo", "rloo") for seed in (0, 1)}
    dpo, ppo, rloo = (budgets[f"{arm}-beta0.5-seed0"] for arm in ("dpo", "ppo", "rloo"))
    assert dpo["votes_seen"] == made.study.info["data"]["votes_train"]
    assert dpo["tokens_sampled"] == 0
    assert ppo["votes_seen"] == rloo["votes_seen"] == 0
    assert ppo["tokens_sampled"] > 0
    assert ppo["tokens_trained"] > 1.5 * rloo["tokens_trained"]  # two steps on each batch of samples


def test_the_same_study_again_trains_nothing(made: Study, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "train_any", lambda *args, **kwargs: pytest.fail("trained again"))
    before = (made.folder / "results.jsonl").read_text()
    compare(ARMS, some_ballots(), model=model, out=made.folder, judge=JUDGE, **SETTINGS, **TWICE)
    assert (made.folder / "results.jsonl").read_text() == before


def test_the_report_has_the_reward_model_and_the_costs(made: Study) -> None:
    page = made.report().read_text("utf-8")
    assert "Over-optimisation" in page and "By the learned reward" in page and "reward model, seed 1" in page
    assert "TF-IDF" in page and "Calibration of the learned reward" in page
    assert "What each run cost" in page
    for chart in ("Learned reward of the policy&#39;s own samples", "Entropy", "Clip fraction"):
        assert f'aria-label="{chart} against optimiser step"' in page


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ("ppo", {"kl_target": 3.0}, "--kl-target"),
        ("best-of-n", {}, "name a method beside it"),
        ("rloo", {"kind": "frozn"}, "kind"),
        ("rloo", {"rollouts": 1}, "at least 2"),
    ],
)
def test_a_study_that_cannot_work_says_so(
    arms: str, options: dict[str, object], message: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        compare(arms, some_ballots(), model=model, out=tmp_path / "s", judge=JUDGE, **{**SETTINGS, **options})


# --- parts ------------------------------------------------------------------------------------------------------------


def test_the_best_of_n_is_the_best_of_the_first_n_and_of_equals_the_first() -> None:
    drawn = [Rollout((1,), ((2,), (3,), (4,), (5,)), (True, False, True, False))]
    for n, wanted in ((1, 2), (2, 3), (3, 3), (4, 5)):
        assert best_of(drawn, [[0.0, 1.0, 1.0, 2.0]], n)[0].responses == ((wanted,),)
    assert best_of(drawn, [[0.0, 1.0, 1.0, 2.0]], 2)[0].ended == (False,)


def test_the_kl_of_best_of_n_is_that_of_the_best_of_n_distinct_scores() -> None:
    """Enumerated: the largest of n draws from M equally likely, ordered responses has P(k) = (k/M)ⁿ − ((k−1)/M)ⁿ."""
    size = 20_000
    for n in (1, 2, 8, 16):
        edges = (np.arange(size + 1) / size) ** n
        chances = np.diff(edges)
        inside = chances > 0
        exact = float((chances[inside] * np.log(chances[inside] * size)).sum())
        assert best_of_n_kl(n) == pytest.approx(exact, abs=2e-3)
        assert best_of_n_kl(n) >= exact - 1e-9


def rows(golds: Sequence[float], proxies: Sequence[float]) -> list[Result]:
    return [
        Result("r", "ppo", "ppo", 0.1, 0, step=i + 1, gain=g, gain_se=0.05, kl=float(i + 1), extra={"proxy": p})
        for i, (g, p) in enumerate(zip(golds, proxies, strict=True))
    ]


@pytest.mark.parametrize(
    ("golds", "proxies", "alarmed"),
    [
        ([0.2, 0.8, 0.3], [0.5, 1.0, 2.0], True),
        ([0.2, 0.5, 0.8], [0.5, 1.0, 2.0], False),
        ([0.2, 0.8, 0.75], [0.5, 1.0, 2.0], False),
        ([0.2, 0.8, 0.3], [0.5, 2.0, 1.0], False),
    ],
)
def test_over_optimisation_raises_an_alarm(
    golds: Sequence[float], proxies: Sequence[float], alarmed: bool, made: Study
) -> None:
    study = replace(made.study, results=tuple(rows(golds, proxies)), metrics={}, samples=())
    assert any("over-optimisation" in line for line in alarms(study)) is alarmed
