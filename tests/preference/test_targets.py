"""Amortized IPO: a fitted preference in the place of votes.

The judge of what training reaches is the lab's exact solution for the same model's own π_ref, as in
`test_exact_worlds`; the judge of a fit is the lab's `fit_preference`, or the world that the votes were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_worlds import FAST, World, check, normalised, wins
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from scipy.special import expit, logit
from torch import Tensor

import preftune
from preftune.data.ballots import Ballot, Vote
from preftune.data.branches import BranchBatch
from preftune.data.logistic import fit_linear, noisy_loss
from preftune.data.tokens import TokenBallot
from preftune.errors import UserError
from preftune.lab import optima
from preftune.lab.preference import fit_preference, pair_features, score_features
from preftune.lab.worlds import Floats
from preftune.methods import AMORTIZED_IPO, IPO, AmortizedOptions, Scored
from preftune.model import stored
from preftune.model.workbench import open_workbench
from preftune.preference.linear import find_head, fit_frozen, winner_first
from preftune.preference.preferences import load_linear, of_reward
from preftune.preference.targets import add_responses, all_pairs, voted_pairs, winners

WORDS = ["x", "y", "a", "b", "c", "d", "e", "f"]
FOUR = World(responses=("a", "b", "c", "d"))
# a circle a ≻ b ≻ c ≻ a that no score explains, and d, which nobody compared with b
VOTES = (Vote(0, 1, 0.9, 3.0), Vote(1, 2, 0.8), Vote(2, 0, 0.7, 2.0), Vote(3, 0, 0.3), Vote(2, 3, 0.6, 2.0))


def counts(votes: Sequence[Vote], responses: int) -> tuple[Floats, Floats]:
    """How often a won and lost against b, for all pairs a < b."""
    won = np.zeros((responses, responses))
    for vote in votes:
        won[vote.a, vote.b] += vote.weight * vote.p
        won[vote.b, vote.a] += vote.weight * (1 - vote.p)
    a, b = np.triu_indices(responses, 1)
    return won[a, b], won[b, a]


def skew_matrix(values: Floats, responses: int) -> Floats:
    matrix = np.zeros((responses, responses))
    matrix[np.triu_indices(responses, 1)] = values
    return matrix - matrix.T


# --- what training reaches -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """A reward model that is a table: the score of a response by its first token, in the order of first appearance."""

    by_token: dict[int, float]
    sha256: str = "a table"

    def scores(self, batch: BranchBatch) -> Tensor:
        first = [int(batch.target_N[batch.branch_N == i][0]) for i in range(batch.branches)]
        return torch.tensor([self.by_token[token] for token in first])


def table(scores: Sequence[float], responses: Sequence[str]) -> Scores:
    return Scores({3 + WORDS.index(word): float(s) for word, s in zip(responses, scores, strict=True)})


def lab_scores(pairs: str, votes: Sequence[Vote], head: str = "score") -> tuple[Floats, Floats]:
    """(scores of the amortized optimum, the fitted logits [K, K]), by the lab alone."""
    rows = score_features(4) if head == "score" else pair_features(4)
    won, lost = counts(votes, 4)
    fitted = skew_matrix(rows @ fit_preference(rows, won, lost, penalty=0.0 if head == "score" else 1e-9), 4)
    everywhere = np.ones((4, 4)) - np.eye(4)
    shown = skew_matrix(won + lost, 4)
    weight = everywhere if pairs == "all" else np.abs(shown)
    return optima.amortized_ipo_scores(fitted, weight), fitted


@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("pairs", ["all", "votes"])
def test_with_a_score_training_reaches_the_exact_solution_on_labelled_and_unlabelled_pairs(
    pairs: str, lora: int, model: str, out: Path
) -> None:
    wanted, fitted = lab_scores(pairs, VOTES)
    reward = table(fitted.mean(1), FOUR.responses)  # the lab's own fit: logit = r_a − r_b
    options = {**FAST, "pairs": pairs, "lora": lora}
    preftune.train("amortized-ipo", [FOUR.ballot(*VOTES)], model=model, beta=0.3, out=out, reward=reward, **options)
    check(out, model, FOUR, wanted, 0.3)


def test_with_a_fit_of_frozen_features_it_reaches_the_exact_solution_too(model: str, out: Path) -> None:
    preftune.train("amortized-ipo", [FOUR.ballot(*VOTES)], model=model, beta=0.3, out=out, **FAST)
    check(out, model, FOUR, lab_scores("all", VOTES)[0], 0.3)


def test_a_reward_model_that_was_trained_before_is_its_preference(model: str, out: Path, tmp_path: Path) -> None:
    ballots = [FOUR.ballot(*VOTES)]
    reward = preftune.train("reward", ballots, model=model, out=tmp_path / "reward", eval_fraction=0.0, **FAST)
    run = preftune.train("amortized-ipo", ballots, model=model, beta=0.3, out=out, reward=tmp_path / "reward", **FAST)
    assert run.record["preference"]["reward"] == reward.policy.sha256
    assert not (out / "preference-model").exists()
    check(out, model, FOUR, lab_scores("all", VOTES)[0], 0.3)


@pytest.mark.parametrize("pairs", ["all", "votes"])
def test_with_a_general_head_training_keeps_the_circle_in_its_targets(pairs: str, model: str, out: Path) -> None:
    """All six pairs are voted on, so that the likelihood has one maximiser, which is the votes themselves."""
    votes = (*VOTES, Vote(1, 3, 0.45, 2.0))
    preftune.train(
        "amortized-ipo", [FOUR.ballot(*votes)], model=model, beta=0.3, out=out, head="general", pairs=pairs, **FAST
    )
    wanted, fitted = lab_scores(pairs, votes, "general")
    assert np.abs(expit(fitted[0, 1]) - 0.9) < 1e-3  # the lab's fit is saturated
    check(out, model, FOUR, wanted, 0.3)
    if pairs == "all":
        assert np.abs(wanted - lab_scores(pairs, votes)[0]).max() > 0.005  # a score would have led elsewhere


@pytest.mark.parametrize("votes", [VOTES, (Vote(0, 1, 1.0, 2.0), Vote(1, 2, 0.6), Vote(2, 0, 0.6), Vote(3, 2, 0.5))])
def test_a_target_fitted_without_penalty_on_the_same_pairs_is_plain_ipo(
    votes: tuple[Vote, ...], model: str, out: Path, tmp_path: Path
) -> None:
    """The no-op identity (score equation Σ(1 − t_k)·x_k = 0): same features, same pairs, within 1e-3 in probability."""
    rows = score_features(4)
    won, lost = counts(votes, 4)
    hard = np.concatenate([np.ones(len(rows)), np.zeros(len(rows))])
    weight = np.concatenate([won, lost])
    scores, _ = fit_linear(np.vstack([rows, rows]), hard, weight, penalty=1e-9)  # our own fit, as good as unregularised
    reward = table(scores, FOUR.responses)
    how: dict[str, Any] = {"model": model, "beta": 0.3, **FAST, "steps": 300}
    preftune.train("amortized-ipo", [FOUR.ballot(*votes)], out=out, reward=reward, pairs="votes", **how)
    preftune.train("ipo", [FOUR.ballot(*votes)], out=tmp_path / "ipo", **how)
    found, wanted = (normalised(FOUR.logprobs(folder / "policy")) for folder in (out, tmp_path / "ipo"))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    start = normalised(FOUR.logprobs(model))
    assert np.abs(wanted - start).max() > 0.02


def test_the_target_without_its_half_doubles_the_scores(model: str, out: Path) -> None:
    """h = 2p − 1: the direction of IPO, at β/2."""
    world, p = World(responses=("a", "b")), 0.8
    votes = [Vote(0, 1, p)]
    options = {"pairs": "votes", "target": "winner-loser", **FAST}
    reward = table([logit(p), 0.0], world.responses)
    preftune.train("amortized-ipo", [world.ballot(*votes)], model=model, beta=0.5, out=out, reward=reward, **options)
    check(out, model, world, (2 * p - 1, 0), 0.5)


class ByPlace:
    """A reward whose scores depend on what else is in the pass, as the last bits of any model's do."""

    sha256 = "by place"

    def scores(self, batch: BranchBatch) -> Tensor:
        return torch.arange(batch.branches) * float(batch.branches)


def test_targets_stay_as_they_are_when_a_run_goes_on_with_other_passes(model: str) -> None:
    bench = open_workbench(model, device="cpu")
    ballots = [TokenBallot((3, 4), ((5,), (6,), (7, 8)), ()) for _ in range(5)]
    few, many = (of_reward(ByPlace(), bench, micro_tokens).logits(ballots) for micro_tokens in (1, 4096))
    assert np.array_equal(few, many)


def test_an_unconstrained_preference_learns_that_the_first_one_wins(model: str, out: Path) -> None:
    """Its target goes to 1 whatever the votes, so what is left is IPO on hard labels."""
    ballots = [Ballot(x, ("a", "b"), (Vote(0, 1, 0.6, 5.0),), ended=(False, False)) for x in ("x", "y")]
    options = {"head": "unconstrained", "pairs": "votes", **FAST}
    run = preftune.train("amortized-ipo", ballots, model=model, beta=0.5, out=out, **options)
    assert run.record["preference"]["head"] == "unconstrained"
    v = load_linear(out / "preference-model", open_workbench(model, device="cpu"), 4096)
    logits = v.logits([TokenBallot((3,), ((5,), (6,)), ())])[0]  # x, a, b
    assert expit(logits[0, 1]) > 0.98 and expit(logits[1, 0]) > 0.98
    check(out, model, World("x", ("a", "b")), optima.ipo_scores(wins(ballots[0].votes, 2)), 0.5)


def test_responses_sampled_from_the_reference_get_targets_too(model: str, out: Path) -> None:
    """Two responses and two samples are six pairs, whose exact solution is the scores of all of them."""
    beta, ballot = 0.5, World(responses=("a", "b")).ballot(Vote(0, 1, 0.9))
    scores = {3 + i: 0.3 * i - 1 for i in range(len(WORDS))} | dict.fromkeys((0, 1, 2), 0.0)
    options = {"extra_responses": 2, "max_new_tokens": 1, **FAST}
    run = preftune.train("amortized-ipo", [ballot], model=model, beta=beta, out=out, reward=Scores(scores), **options)
    told = run.record["preference"]
    assert run.record["budget"]["tokens_sampled"] == told["sampled_tokens"] == 2
    bench = open_workbench(model, device="cpu")
    (wide,) = add_responses(
        bench, [TokenBallot((3,), ((5,), (6,)), ())], AmortizedOptions(extra_responses=2, max_new_tokens=1), 0
    )
    tokens = [ids[0] for ids in wide.responses]
    distinct = sorted(set(tokens))
    weight = np.array([[tokens.count(a) * tokens.count(b) * (a != b) for b in distinct] for a in distinct], float)
    assert told["pairs"] == weight.sum() / 2
    own = np.array([scores[token] for token in distinct])
    wanted = optima.amortized_ipo_scores(own[:, None] - own[None, :], weight)
    words = tuple({3 + i: word for i, word in enumerate(WORDS)}.get(token, "") for token in distinct)
    assert all(words), "the reference sampled a special token: choose another seed"
    check(out, model, World("x", words), wanted, beta)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"pairs": "votes"}, {"head": "general"}, {"kind": "full"}),
        *({"extra_responses": 1, "max_new_tokens": 3}, {"gamma": 1.0, "pairs": "votes"}),
    ],
)
def test_before_the_first_step_every_log_ratio_is_exactly_0(
    options: dict[str, Any], model: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference log-probs are computed in the very micro-batches of training, also where they come with features."""
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    ballots = [Ballot(f"x {w}", ("a b", "c", "d d e"), (Vote(0, 1, 0.9), Vote(1, 0, 0.4, 2.0))) for w in WORDS]
    run = preftune.train("amortized-ipo", ballots, model=model, beta=0.3, out=out, **FAST, micro_tokens=20, **options)
    first = run.metrics[0]
    assert (first["margin"], first["log_ratio_preferred"], first["log_ratio_other"]) == (0, 0, 0)


def test_frozen_features_cost_no_pass_of_their_own(
    model: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come with the reference log-probs. The store is a new one, so that neither is there before."""
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "pooled_layers", lambda *args: pytest.fail("a pass for features alone"))
    ballots = [Ballot(f"x {w}", ("a b", "c", "d d e"), (Vote(0, 1, 0.9), Vote(1, 2, 0.4))) for w in WORDS]
    run = preftune.train("amortized-ipo", ballots, model=model, beta=0.3, out=out, **FAST, micro_tokens=20)
    assert run.record["preference"]["pairs"] == 3 * len(ballots)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"head": "generl"}, "--head generl: must be one of score, general, unconstrained"),
        ({"pairs": "some"}, "--pairs some: must be one of all, votes"),
        ({"target": "centered"}, "--target centered: must be one of centred, winner-loser"),
        ({"target": "winner-loser"}, "--target winner-loser: add --pairs votes"),
        ({"head": "unconstrained"}, "--head unconstrained: add --pairs votes"),
        ({"head": "general", "kind": "full"}, "--head general: needs --kind frozen"),
        (
            {"head": "general", "reward": "somewhere"},
            "--reward: is a score that is there already, which --head general",
        ),
        ({"kind": "frozn"}, "did you mean 'frozen'"),
        ({"kind": "lora"}, "--lora R"),
        ({"estimate_flips": True, "kind": "full"}, "--estimate-flips: needs --kind frozen"),
        ({"estimate_flips": True, "flip_rate": 0.1}, "--estimate-flips: --flip-rate 0.1 is known already"),
        ({"gamma": 1.0}, "--gamma 1.0: joint training has a score on the voted pairs"),
        ({"gamma": 1.0, "pairs": "votes", "kind": "full"}, "--gamma 1.0: joint training reads --kind frozen"),
        ({"gamma": 1.0, "pairs": "votes", "reward": "r"}, "--reward: is a score that is there already, which --gamma"),
        ({"gamma": 0.0, "pairs": "votes"}, "--gamma 0.0: must be greater than 0"),
        ({"stop_gradient": False}, "--stop-gradient false: only joint training"),
        ({"extra_responses": 2, "pairs": "votes"}, "--extra-responses 2: nobody voted on them"),
        ({"extra_responses": -1}, "--extra-responses -1: must be at least 0"),
        ({"extra_responses": 1, "max_new_tokens": 500}, "--max-new-tokens 500: the longest prompt has 1 tokens"),
        ({"beta": None}, "--beta None: amortized-ipo needs"),
        ({"method": "ipo", "pairs": "votes"}, "--pairs: is an option of amortized-ipo, not of ipo"),
        ({"method": "ipo", "kind": "frozen"}, "--kind: ipo learns from votes"),
        ({"method": "reward", "head": "general", "beta": None}, "--head: is an option of amortized-ipo, not of reward"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_and_nothing_is_written(
    options: dict[str, Any], reason: str, model: str, out: Path
) -> None:
    given = {"method": "amortized-ipo", "beta": 0.1, "steps": 1, "device": "cpu", **options}
    with pytest.raises(UserError, match=reason) as caught:
        preftune.train(given.pop("method"), [FOUR.ballot(*VOTES)], model=model, out=out, **given)
    assert "\n" not in str(caught.value) and not out.exists()


# --- joint training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [True, False])
def test_trained_together_for_long_enough_both_arrive_where_the_two_steps_do(stop: bool, model: str, out: Path) -> None:
    """Two responses: the policy can follow any target, so in the end nothing pulls v but its likelihood."""
    world = World(responses=("a", "b"))
    options = {**FAST, "steps": 400, "pairs": "votes", "gamma": 1.0, "stop_gradient": stop}
    preftune.train("amortized-ipo", [world.ballot(Vote(0, 1, 0.8, 2.0))], model=model, beta=0.5, out=out, **options)
    check(out, model, world, (0.3, 0), 0.5)


@pytest.mark.parametrize("gamma", [1.0, 0.1, 0.01])
def test_without_stop_gradient_a_policy_that_has_not_moved_drags_its_target_to_one_half(gamma: float) -> None:
    """The real loss, at the preference that the lab says is dragged: nothing pulls it any further."""
    votes = (Vote(0, 1, 0.8, 3.0),)
    dragged = optima.dragged_target(0.8, gamma)
    assert abs(dragged - 0.5) < abs(0.8 - 0.5) - 0.05
    for target, stop, rests in ((dragged, False, True), (0.8, False, False), (0.8, True, True), (dragged, True, False)):
        score = torch.tensor([float(logit(target)), 0.0], dtype=torch.float64, requires_grad=True)
        still = torch.zeros(2, dtype=torch.float64)
        scored = Scored([ballot_of(2, votes)], still, still, torch.full((2,), 2.0), score)
        options = AmortizedOptions(pairs="votes", gamma=gamma, stop_gradient=stop)
        AMORTIZED_IPO.loss(scored, 0.5, options).loss.backward()
        assert bool(score.grad.abs().max() < 1e-6) is rests


# --- what it is told by ----------------------------------------------------------------------------------------------


def ballot_of(responses: int, votes: Sequence[Vote]) -> TokenBallot:
    return TokenBallot((9, 9), tuple((k + 3, 0) for k in range(responses)), tuple(votes))


@tried(30)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_every_pair_gets_one_target_and_together_they_weigh_what_the_votes_did(responses: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    votes = [Vote(0, k, float(rng.uniform()), float(rng.uniform(0.1, 3))) for k in range(1, responses)]
    matrix = rng.normal(size=(responses, responses))
    told = all_pairs(ballot_of(responses, votes), matrix - matrix.T)
    assert len(told.votes) == responses * (responses - 1) // 2 == len({(v.a, v.b) for v in told.votes})
    assert sum(v.weight for v in told.votes) == pytest.approx(sum(v.weight for v in votes))
    assert len({v.weight for v in told.votes}) == 1
    for vote, z in zip(told.votes, told.logits, strict=True):
        assert z == (matrix - matrix.T)[vote.a, vote.b] and vote.p == pytest.approx(expit(z))


def test_a_pair_of_the_same_tokens_has_no_target() -> None:
    ballot = TokenBallot((9,), ((3, 0), (4, 0), (3, 0)), (Vote(0, 1, 1.0, 4.0),))
    told = all_pairs(ballot, np.zeros((3, 3)))
    assert [(v.a, v.b, v.weight) for v in told.votes] == [(0, 1, 2.0), (1, 2, 2.0)]


def test_a_soft_vote_told_from_the_winners_side_is_two_hard_ones() -> None:
    ballot = ballot_of(3, [Vote(0, 1, 0.75, 4.0), Vote(2, 1, 0.0, 3.0)])
    assert winner_first(ballot).votes == (Vote(0, 1, 1.0, 3.0), Vote(1, 0, 1.0, 1.0), Vote(1, 2, 1.0, 3.0))
    matrix = np.arange(9.0).reshape(3, 3)
    assert winners(ballot, matrix).logits == (1.0, 3.0, 5.0)
    assert voted_pairs(ballot, matrix).logits == (1.0, 7.0)


@tried(25)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_a_ballot_that_is_told_what_its_votes_say_has_the_loss_and_gradient_of_ipo(
    ratios: list[float], logits: list[float]
) -> None:
    pairs = [(0, 1), (1, 2), (2, 0)]
    soft = [Vote(a, b, float(expit(z)), 0.5 + a) for (a, b), z in zip(pairs, logits, strict=True)]
    ballot = ballot_of(3, soft)
    told = TokenBallot(ballot.prompt, ballot.responses, ballot.votes, logits=tuple(logits))
    found = []
    for method, one in ((AMORTIZED_IPO, told), (IPO, ballot)):
        policy = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
        scored = Scored([one], policy, torch.zeros(3, dtype=torch.float64), torch.full((3,), 2.0))
        terms = method.loss(scored, 0.4, method.options())
        (slope,) = torch.autograd.grad(terms.loss, policy)
        found.append((float(terms.loss.detach()), slope.numpy(), terms.sums))
        assert method.mass(one) == pytest.approx(4.5)
    (loss, slope, sums), (ipo_loss, ipo_slope, ipo_sums) = found
    assert loss == pytest.approx(ipo_loss) and sums == pytest.approx(ipo_sums)
    np.testing.assert_allclose(slope, ipo_slope, rtol=1e-9, atol=1e-12)


# --- the heads -------------------------------------------------------------------------------------------------------


@tried(25)
@given(st.sampled_from(["score", "general"]), st.integers(0, 2**32 - 1))
def test_both_heads_are_antisymmetric_whatever_their_parameters(head: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(7, 5)).astype(np.float32)
    a, b = np.triu_indices(7, 1)
    found = find_head(head, features, a, b)
    weight = rng.normal(size=found.rows(features[a], features[b]).shape[1])
    there, back = found.rows(features[a], features[b]) @ weight, found.rows(features[b], features[a]) @ weight
    np.testing.assert_allclose(there, -back, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.rows(features[:1], features[:1]), 0, rtol=0, atol=1e-12)


def test_the_general_head_can_hold_any_preference_and_the_score_head_only_what_adds_up() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 12)).astype(np.float32)
    a, b = np.triu_indices(5, 1)
    wanted = rng.normal(size=len(a))
    for head, held in (("score", False), ("general", True)):
        rows = find_head(head, features, a, b).rows(features[a], features[b])
        left = wanted - rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0]
        assert bool(np.abs(left).max() < 1e-5) is held
        assert np.linalg.matrix_rank(rows, tol=1e-4) == (10 if held else 4)


def test_a_fit_of_either_head_finds_the_preference_of_new_responses() -> None:
    """Cyclic preferences that are bilinear in features, learned from prompts and found on others; a score cannot."""
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 3, 6)).astype(np.float32) for n in (300, 100))
    w, matrix = rng.normal(size=6) / 2, rng.normal(size=(6, 6)) / 2
    a, b = np.triu_indices(3, 1)

    def truth(f: Any) -> Floats:
        return np.asarray((f[:, a] - f[:, b]) @ w + np.einsum("npi,ij,npj->np", f[:, a], matrix - matrix.T, f[:, b]))

    ballots = [
        TokenBallot((i,), ((3,), (4,), (5,)), tuple(Vote(j, k, float(rng.random() < expit(z))) for j, k, z in row))
        for i, row in enumerate(zip(a, b, zs, strict=True) for zs in truth(train))
    ]
    target = np.array([vote.p for ballot in ballots for vote in ballot.votes])
    error = {}
    for head in ("score", "general"):
        fit = fit_frozen(train.reshape(1, -1, 6), ballots, target, seed=0, head=head)
        found = fit.head.rows(test[:, a].reshape(-1, 6), test[:, b].reshape(-1, 6)) @ fit.weight
        error[head] = np.abs(expit(found) - expit(truth(test).ravel())).mean()
    assert error["general"] < 0.07 and error["score"] > 0.15


# --- label noise in the likelihood -----------------------------------------------------------------------------------


@tried(25)
@given(st.floats(0, 0.45), st.integers(0, 2**32 - 1))
def test_the_likelihood_knows_that_a_vote_may_be_flipped(rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, target = rng.normal(scale=3, size=20), rng.uniform(size=20)
    kept = rate + (1 - 2 * rate) * expit(z)
    np.testing.assert_allclose(
        noisy_loss(z, target, rate), -target * np.log(kept) - (1 - target) * np.log(1 - kept), rtol=1e-7
    )
    assert np.isfinite(noisy_loss(np.array([800.0, -800.0]), np.array([0.0, 1.0]), rate)).all()


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_fit_is_the_labs(rate: float) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 4))
    won, lost = rng.poisson(3, 60).astype(float), rng.poisson(2, 60).astype(float)
    total = float((won + lost).sum())
    wanted = fit_preference(rows, won, lost, penalty=0.05 * total, flip_rate=rate)
    seen = won + lost > 0
    share = won[seen] / (won + lost)[seen]
    found, _ = fit_linear(rows[seen], share, (won + lost)[seen], penalty=0.05, flip_rate=rate)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.35])
def test_from_enough_votes_the_rate_of_flips_and_the_true_preference_are_recovered(rate: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 4))
    w = np.array([3.0, -2.0, 1.0, 0.5])
    preferred = rng.random(20_000) < expit(rows @ w)
    votes = np.where(rng.random(20_000) < rate, ~preferred, preferred).astype(float)
    ones = np.ones(20_000)
    found, estimate = fit_linear(rows, votes, ones, penalty=1e-6, flip_rate=None)
    assert estimate == pytest.approx(rate, abs=0.02)
    known, _ = fit_linear(rows, votes, ones, penalty=1e-6, flip_rate=rate)
    plain, _ = fit_linear(rows, votes, ones, penalty=1e-6)
    error = [np.abs(expit(rows @ x) - expit(rows @ w)).mean() for x in (found, known, plain)]
    assert max(error[:2]) < 0.03 and error[2] > 2 * error[0]


def test_votes_without_flips_are_estimated_to_have_none() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(20_000, 3))
    votes = (rng.random(20_000) < expit(rows @ np.array([2.0, -1.0, 1.0]))).astype(float)
    _, estimate = fit_linear(rows, votes, np.ones(20_000), penalty=1e-6, flip_rate=None)
    assert 0 <= estimate < 0.02


def test_a_known_rate_of_flips_is_taken_out_of_the_target(model: str, out: Path) -> None:
    """Votes say .74, which is .9 after flips at rate .2: the target is that of .9."""
    world = World(responses=("a", "b"))
    ballots = [world.ballot(Vote(0, 1, 0.74))]
    preftune.train("amortized-ipo", ballots, model=model, beta=0.5, out=out, flip_rate=0.2, **FAST)
    check(out, model, world, (0.4, 0), 0.5)
