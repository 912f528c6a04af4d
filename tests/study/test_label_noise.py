"""Label noise as a factor of a study: what is flipped, what is left alone, and who is compared with whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from synthetic_study import write_synthetic_study

from preftune.data.ballots import Ballot, Vote, binomial, counted_votes, flip_votes, limit_votes, pool
from preftune.errors import UserError
from preftune.evidence import run_names
from preftune.evidence.conclusion import verdict
from preftune.evidence.results import REFERENCE, read_results, read_study
from preftune.evidence.rows import write_json, write_records
from preftune.judges.judge import Judge
from preftune.study import asking, runs
from preftune.study.naming import run_name
from preftune.study.study import Study, compare
from preftune.training.arms import parse_arm

votes = st.builds(
    lambda a, b, p, w: Vote(a, a + b, p, w),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    st.sampled_from([0.5, 1.0, 2.0, 4.0, 5.0]),
)

# --- votes ------------------------------------------------------------------------------------------------------------


def single_votes(vote: Vote) -> tuple[Vote, ...]:
    return tuple(one for one, count in counted_votes(vote) for _ in range(count))


@given(votes)
def test_single_votes_are_what_a_counted_one_stands_for(vote: Vote) -> None:
    singles = single_votes(vote)
    (merged,) = pool(singles)
    wanted = vote if vote.a < vote.b else vote.swap()
    assert (merged.a, merged.b) == (wanted.a, wanted.b)
    assert merged.p == pytest.approx(wanted.p) and merged.weight == pytest.approx(wanted.weight)
    if vote.weight == round(vote.weight):
        assert len(singles) == vote.weight and sum(one.p == 0.5 for one in singles) <= max(
            1, vote.weight * (vote.p == 0.5)
        )


def test_counts_become_hard_votes_and_a_soft_label_stays_one() -> None:
    assert sorted(one.p for one in single_votes(Vote(0, 1, 0.75, 4.0))) == [0.0, 1.0, 1.0, 1.0]
    assert sorted(one.p for one in single_votes(Vote(0, 1, 0.5, 3.0))) == [0.0, 0.5, 1.0]
    assert single_votes(Vote(0, 1, 0.8)) == (Vote(0, 1, 0.8),)
    assert single_votes(Vote(0, 1, 0.8, 2.0)) == (Vote(0, 1, 0.8),) * 2
    assert single_votes(Vote(0, 1, 1.0, 2.5)) == (Vote(0, 1, 1.0, 2.5),)


@tried(50)
@given(st.lists(st.lists(votes, max_size=3), max_size=4), st.integers(0, 5))
def test_flips_keep_pairs_and_weights_and_depend_on_the_seed_alone(own: list[list[Vote]], seed: int) -> None:
    none, count = flip_votes(own, 0.0, seed=seed)
    assert none == tuple(map(tuple, own)) and count == 0
    flipped, count = flip_votes(own, 0.3, seed=seed)
    assert (flipped, count) == flip_votes(own, 0.3, seed=seed)
    for before, after in zip(own, flipped, strict=True):
        assert [(v.a, v.b, v.weight) for v in before] == [(v.a, v.b, v.weight) for v in after]
    assert flip_votes(own, 0.45, seed=seed)[1] >= count


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_each_single_vote_is_flipped_on_its_own_at_the_rate(rate: float) -> None:
    own = [[Vote(0, 1, 1.0), Vote(0, 1, 0.75, 4.0)] for _ in range(4000)]
    flipped, count = flip_votes(own, rate, seed=3)
    hard = np.array([first.p == 0 for first, _ in flipped], dtype=float)
    assert hard.mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 4000) ** 0.5)
    assert count == pytest.approx(5 * 4000 * rate, abs=4 * (20_000 * rate * (1 - rate)) ** 0.5)
    # of a counted vote the single ones flip apart: 4·p is 3 + Binomial(1, ε) − Binomial(3, ε)
    share = np.array([second.p for _, second in flipped]) * 4
    assert share.mean() == pytest.approx(3 - 2 * rate, abs=0.06)
    assert share.var() == pytest.approx(4 * rate * (1 - rate), rel=0.1)
    assert abs(np.corrcoef(hard, share)[0, 1]) < 0.07
    other = np.array([first.p == 0 for first, _ in flip_votes(own, rate, seed=4)[0]], dtype=float)
    assert abs(np.corrcoef(hard, other)[0, 1]) < 0.07
    more = np.array([first.p == 0 for first, _ in flip_votes(own, rate + 0.1, seed=3)[0]], dtype=float)
    assert (more >= hard).all()  # what is flipped at one rate is flipped at a higher one


def test_votes_of_a_prompt_are_limited_by_chance_and_the_responses_stay() -> None:
    many = tuple(Vote(a, b, 1.0, 3.0) for a in range(4) for b in range(a))
    ballots = [Ballot("x", ("a", "b", "c", "d"), many), Ballot("y", ("a", "b"), (Vote(0, 1, 1.0),))]
    left = limit_votes(ballots, 5, seed=0)
    assert sum(vote.weight for vote in left[0].votes) == 5 and left[0].responses == ballots[0].responses
    assert left[1] == ballots[1]
    assert {(v.a, v.b) for v in left[0].votes} <= {(min(v.a, v.b), max(v.a, v.b)) for v in many}
    assert left == limit_votes(ballots, 5, seed=0) and left[::-1] == limit_votes(ballots[::-1], 5, seed=0)
    assert len({limit_votes(ballots, 2, seed=seed)[0].votes for seed in range(20)}) > 5
    with pytest.raises(ValueError, match="positive"):
        limit_votes(ballots, 0, seed=0)


def test_the_limit_holds_over_all_ballots_of_a_prompt() -> None:
    ballots = [Ballot("x", ("a", "b"), (Vote(0, 1, 1.0),)) for _ in range(10)]
    assert sum(len(ballot.votes) for ballot in limit_votes(ballots, 3, seed=0)) == 3


MANY = (10**4 + 1, 10**7, 10**12, 10**15, 10**30)


@pytest.mark.parametrize("many", MANY)
def test_of_more_votes_than_are_drawn_one_by_one_their_number_is_drawn(many: int) -> None:
    """As many flips as in a binomial draw, none at a rate of 0, never fewer at a higher rate, the next vote alike."""
    rate, weight = 0.2, float(many)
    own = [(Vote(0, 1, 1.0, weight), Vote(0, 1, 0.75, weight)) for _ in range(200)]
    flipped, count = flip_votes(own, rate, seed=0)
    assert (flipped, count) == flip_votes(own, rate, seed=0) and flip_votes(own, 0.0, seed=0) == (tuple(own), 0)
    hard, soft = (np.array([both[place].p for both in flipped]) for place in (0, 1))
    sd = (rate * (1 - rate) / weight) ** 0.5
    rounding = 1e-15
    assert abs(hard.mean() - (1 - rate)) < 4 * sd / 200**0.5 + rounding
    assert hard.std() == pytest.approx(sd, rel=0.25, abs=rounding)
    assert abs(soft.mean() - (0.75 - rate / 2)) < 4 * sd / 200**0.5 + rounding
    more = np.array([first.p for first, _ in flip_votes(own, 0.3, seed=0)[0]])
    assert (more <= hard).all() and ((more >= 0) & (more <= 1)).all()
    assert all(v.weight == weight for both in flipped for v in both)


def test_a_binomial_quantile_is_that_of_its_distribution_on_both_sides_of_the_limit() -> None:
    for u in (1e-12, 0.01, 0.3, 0.5, 0.99):
        small, large = binomial(u, 10**12, 0.2), binomial(u, 10**12 + 1, 0.2)
        assert abs(small - large) <= 8 + 1e-9 * small  # the skew of the distribution
    assert [binomial(u, 10**13, rate) for u, rate in ((0.0, 0.2), (0.5, 0.0), (0.5, 1.0))] == [0, 0, 10**13]


@pytest.mark.parametrize("many", MANY)
def test_of_very_many_votes_as_many_are_kept_as_were_asked_for(many: int) -> None:
    """Each as likely as another: of votes three in four of which say a, about three in four that are kept do."""
    ballots = [Ballot(f"p{n}", ("a", "b"), (Vote(0, 1, 0.75, float(many)),)) for n in range(30)]
    left = limit_votes(ballots, 40, seed=0)
    assert left == limit_votes(ballots, 40, seed=0)
    assert all(sum(vote.weight for vote in ballot.votes) == 40 for ballot in left)
    share = np.mean([sum(v.p * v.weight for v in ballot.votes) / 40 for ballot in left])
    assert share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 1200) ** 0.5)
    (whole,) = limit_votes(ballots[:1], 2 * many, seed=0)[0].votes
    assert whole.p == pytest.approx(0.75) and whole.weight == pytest.approx(float(many))


def test_more_votes_than_can_be_chosen_are_the_users_error() -> None:
    many = [Ballot("p", ("a", "b"), (Vote(0, 1, 1.0, 1e9),))]
    with pytest.raises(UserError, match=r"--votes-per-prompt 2000000: a prompt has 1e\+09 votes; choose 1,000,000"):
        limit_votes(many, 2_000_000, seed=0)


# --- a study ----------------------------------------------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(12)]
ARMS = "ipo,amortized-ipo,amortized-ipo[flip_rate=0.2],amortized-ipo[head=general]"
SETTINGS: dict[str, Any] = {
    "betas": [0.5],
    "seeds": [0, 1],
    "eval_fraction": 0.25,
    "validation_fraction": 0.2,
    "max_new_tokens": 3,
    "checkpoints": 2,
    "lr": 3e-3,
    "batch_size": 6,
    "max_length": 32,
    "samples": 2,
    "device": "cpu",
}


def gold(response: str) -> float:
    return sum(int(word[1:]) % 4 for word in response.split()) / 3


JUDGE = Judge("gold", "a sum", lambda prompts, responses: [gold(response) for response in responses])


def some_ballots() -> list[Ballot]:
    rng = np.random.default_rng(0)
    found = []
    for i in range(40):
        responses = tuple(" ".join(f"w{j}" for j in rng.integers(0, 12, 3)) for _ in range(3))
        pairs = ((0, 1), (1, 2))
        own = tuple(Vote(a, b, float(gold(responses[a]) > gold(responses[b]))) for a, b in pairs)
        found.append(Ballot(f"w{i % 12} w{i // 12}", responses, own, str(i)))
    return found


def run_study(model: str, out: Path, arms: str = ARMS, **options: Any) -> Study:
    return compare(arms, some_ballots(), model=model, out=out, judge=JUDGE, **{**SETTINGS, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: str) -> Study:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return run_study(model, tmp_path_factory.mktemp("out") / "s", label_noise=[0.0, 0.3])


def test_every_arm_runs_once_at_every_beta_seed_and_noise(made: Study) -> None:
    rows = [row for row in made.results if row.run != REFERENCE]
    assert len({row.run for row in rows}) == 4 * 2 * 2 and len(rows) == 2 * 16
    assert {(row.arm, row.seed, row.noise) for row in rows} == {
        (arm, seed, noise) for arm in ARMS.split(",") for seed in (0, 1) for noise in (0.0, 0.3)
    }
    assert not made.study.unfinished() and len(made.study.expected()) == 16
    assert run_name(parse_arm("ipo"), 0.5, 1, 0.3) == "ipo-beta0.5-noise0.3-seed1"


def test_noise_is_in_the_training_and_validation_votes_and_nowhere_else(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[float, tuple[Any, Any, Any]] = {}

    class Enough(Exception):
        pass

    for noise in (0.0, 0.3):

        def stop(self: Any, noise: float = noise) -> None:
            seen[noise] = (self.data.votes[0, noise], self.questions, self.data.held_out)
            raise Enough

        monkeypatch.setattr(asking.Evaluator, "evaluate_reference", stop)
        with pytest.raises(Enough):
            run_study(model, tmp_path / f"s{noise}", "ipo", label_noise=[noise], seeds=[0])
    (clean, asked, held_out), (noisy, asked_too, held_out_too) = seen[0.0], seen[0.3]
    assert (asked.prompts, asked.ballots) == (asked_too.prompts, asked_too.ballots)
    assert held_out.ballots == held_out_too.ballots

    def turned(before: Any, after: Any) -> list[bool]:
        assert [replace(ballot, votes=()) for ballot in before] == [replace(ballot, votes=()) for ballot in after]
        pairs = [(v, w) for b, a in zip(before, after, strict=True) for v, w in zip(b.votes, a.votes, strict=True)]
        assert all(w in (v, replace(v, p=1 - v.p)) for v, w in pairs)
        return [v != w for v, w in pairs]

    training, validation = (
        turned(clean.tokens.ballots, noisy.tokens.ballots),
        turned(clean.validation, noisy.validation),
    )
    assert sum(training) + sum(validation) == noisy.flipped and any(training) and any(validation)
    assert clean.flipped == 0
    prompts = {ballot.prompt for ballot in clean.tokens.ballots}
    assert not prompts & {ballot.prompt for ballot in (*clean.validation, *held_out.ballots)}


def test_the_flips_are_counted_and_the_validation_loss_is_told(made: Study) -> None:
    data = made.study.info["data"]
    flipped = data["votes_flipped"]
    assert set(flipped) == {"0, noise 0.3", "1, noise 0.3"}
    assert all(0.1 < count / (data["votes_train"] + 2 * data["ballots_validation"]) < 0.5 for count in flipped.values())
    rows = [row for row in made.results if row.run != REFERENCE]
    losses = [row.validation for row in rows]  # on the votes of six prompts, so that a single one may be far off
    assert all(loss is not None and 0 < loss < 30 for loss in losses) and 0.5 < np.median(losses) < 1.2


def test_the_preference_is_fitted_once_per_seed_and_noise_and_told(made: Study) -> None:
    folders = {path.name for path in (made.folder / "rewards").iterdir()}
    arms = ("", "amortized-ipo-flip-rate-0.2-", "amortized-ipo-head-general-")
    assert folders == {f"{arm}{where}seed{seed}" for arm in arms for where in ("", "noise0.3-") for seed in (0, 1)}
    told = made.study.info["preferences"]
    assert len(told) == 12 and all(info["pairs"] > 0 for info in told.values())
    assert told["amortized-ipo-flip-rate-0.2-beta0.5-noise0.3-seed0"]["flip_rate"] == 0.2
    assert told["amortized-ipo-head-general-beta0.5-seed0"]["head"] == "general"
    assert all(0 <= info["held_out"]["accuracy"]["value"] <= 1 for info in told.values())


def test_amortized_ipo_sees_more_pairs_than_votes_in_as_many_steps(made: Study) -> None:
    budgets = made.study.info["budgets"]
    ipo, amortized = budgets["ipo-beta0.5-seed0"], budgets["amortized-ipo-beta0.5-seed0"]
    assert amortized["votes_seen"] == 1.5 * ipo["votes_seen"]  # three pairs of three responses, two of them voted on
    assert amortized["tokens_trained"] == ipo["tokens_trained"]
    metrics = made.study.metrics
    assert len(metrics["ipo-beta0.5-seed0"]) == len(metrics["amortized-ipo-beta0.5-noise0.3-seed0"])


def test_the_same_study_again_trains_nothing_and_more_noise_may_be_added(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"seeds": [0], "checkpoints": 1}
    first = run_study(model, tmp_path / "s", "ipo,amortized-ipo", **small)
    before = (first.folder / "results.jsonl").read_text()
    grown = run_study(model, tmp_path / "s", "ipo,amortized-ipo", label_noise=[0.1], **small)
    assert (grown.folder / "results.jsonl").read_text().startswith(before)
    assert grown.study.info["noises"] == [0.0, 0.1] and not grown.study.unfinished()
    monkeypatch.setattr(runs, "train_any", lambda *args, **kwargs: pytest.fail("trained again"))
    run_study(model, tmp_path / "s", "ipo,amortized-ipo", label_noise=[0.0, 0.1], **small)


def test_a_study_goes_on_with_the_kind_of_preference_that_it_has(model: str, tmp_path: Path) -> None:
    small = {"seeds": [0], "checkpoints": 1}
    run_study(model, tmp_path / "s", "amortized-ipo", **small)
    with pytest.raises(UserError, match="holds one of kind frozen; give --kind frozen"):
        run_study(model, tmp_path / "s", "amortized-ipo", betas=[0.1], kind="full", **small)


def test_a_study_with_few_votes_says_how_few(model: str, tmp_path: Path) -> None:
    twice, small = some_ballots() * 2, {**SETTINGS, "seeds": [0], "checkpoints": 1}
    study = compare("ipo", twice, model=model, out=tmp_path / "s", judge=JUDGE, votes_per_prompt=1, **small)
    data = study.study.info["data"]
    assert data["votes_per_prompt"] == 1 and data["votes_train"] == data["ballots_train"] == 24
    assert data["skipped"]["a ballot without a vote"] == 30  # the other ballot of each of 40 − 10 training prompts
    with pytest.raises(UserError, match="another data"):
        compare("ipo", twice, model=model, out=tmp_path / "s", judge=JUDGE, **small)


def test_the_page_has_a_frontier_for_every_noise(made: Study) -> None:
    page = made.report().read_text("utf-8")
    frontiers = page.split("<h3>With 30% of the training votes flipped</h3>")
    assert len(frontiers) == 2
    names = run_names(made.study)
    noisy = {names[row.run] for row in made.results if row.noise == 0.3}
    assert noisy == {
        names[run] for run in names if f'data-tip="{names[run]}, step' in frontiers[1].split("</section>")[0]
    }
    assert "The preferences that amortized-ipo was told by" in page
    assert "amortized-ipo[head=general] noise 0.3 seed 1" in page


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ("ipo", {"label_noise": [0.5]}, "--label-noise 0.5: must be at least 0 and below 0.5"),
        ("ipo", {"label_noise": [0.1, 0.1]}, "--label-noise: one of them is given twice"),
        ("ipo", {"label_noise": []}, "--label-noise: give at least one"),
        ("ipo", {"votes_per_prompt": 0}, "--votes-per-prompt 0: must be at least 1"),
        ("ipo", {"validation_fraction": 1.0}, "--validation-fraction 1.0"),
        ("ipo[head=general]", {}, "--head: is an option of amortized-ipo, not of ipo"),
        ("amortized-ipo[head=generl]", {}, "--head generl: must be one of score, general, unconstrained"),
        ("amortized-ipo[head=general]", {"kind": "full"}, "--head general: needs --kind frozen"),
        ("amortized-ipo[estimate_flips=yes]", {}, "estimate_flips must be true or false, got 'yes'"),
        ("amortized-ipo[estimate_flips=true]", {"kind": "full"}, "--estimate-flips: needs --kind frozen"),
        ("amortized-ipo[target=winner-loser]", {}, "--target winner-loser: add --pairs votes"),
    ],
)
def test_a_study_that_cannot_work_says_so(
    arms: str, options: dict[str, Any], message: str, model: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run_study(model, tmp_path / "s", arms, **options)
    assert "\n" not in str(caught.value) and not (tmp_path / "s").exists()


# --- the verdict ------------------------------------------------------------------------------------------------------


def two_noises(folder: Path, worse: float) -> Path:
    """A synthetic study at noise 0, and the same again at noise 0.2, where ipo gains that much less."""
    write_synthetic_study(folder, seeds=(0, 1))
    study = read_study(folder)
    rows, samples = list(study.results), list(study.samples)
    for row in study.trained():
        less = worse if row.arm == "ipo" else 0.0
        rows.append(replace(row, run=f"{row.run}-noisy", noise=0.2, gain=(row.gain or 0) - less))
    for sample in study.samples:
        if sample.run != REFERENCE:
            less = worse if sample.run.startswith("ipo") else 0.0
            samples.append(replace(sample, run=f"{sample.run}-noisy", reward=(sample.reward or 0) - less))
    write_records(folder / "results.jsonl", rows)
    write_records(folder / "samples.jsonl", samples)
    write_json(folder / "study.json", {**study.info, "noises": [0.0, 0.2]})
    return folder


def test_arms_are_compared_within_a_noise_and_corrected_over_all_of_them(tmp_path: Path) -> None:
    study = read_study(two_noises(tmp_path, worse=0.5))
    answer = verdict(study)
    assert [(pair.a, pair.b, pair.noise) for pair in answer.comparisons] == [("dpo", "ipo", 0.0), ("dpo", "ipo", 0.2)]
    alone = [verdict(study.at_noise(noise)) for noise in (0.0, 0.2)]
    for pair, other in zip(answer.comparisons, alone, strict=True):
        assert pair.difference == other.comparisons[0].difference
    raw = [pair.difference.p_value for pair in answer.comparisons if pair.difference]
    corrected = sorted(pair.p_value for pair in answer.comparisons)
    assert corrected == pytest.approx([min(1.0, 2 * min(raw)), min(1.0, max(2 * min(raw), max(raw)))])
    assert [p.shares for p in answer.points] == [bool(p.noise) for p in answer.points]  # flips are a seed's
    assert [pair.scope for pair in answer.comparisons] == ["over prompts and 8 runs", "over prompts and 2 seeds"]
    assert answer.comparisons[1].difference.value > answer.comparisons[0].difference.value + 0.3
    assert len(answer.frontiers) == 4 and {best.noise for best in answer.best} == {0.0, 0.2}
    assert "With 0% of the training votes flipped: " in answer.sentence
    assert "With 20% of the training votes flipped: dpo gains more reward than ipo" in answer.sentence


def test_a_study_without_noise_reads_as_ever(tmp_path: Path) -> None:
    study = read_study(write_synthetic_study(tmp_path))
    assert study.noises() == (0.0,) and "flipped" not in verdict(study).sentence
    assert read_results(tmp_path / "results.jsonl")[0].noise == 0.0
