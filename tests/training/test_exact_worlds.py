"""Worlds so small that the optimum is known: what `train` leaves in a folder must be that optimum.

The whole path is the real one (ballots, tokens, layout, reference store, loss, loop, saved policy); the judge is not:
it loads the saved folder with transformers, runs plain forward passes one sequence at a time, and compares with the
lab's optimum for this model's own π_ref, in probabilities renormalised over the responses that occur.
"""

from pathlib import Path

import numpy as np
import pytest
from exact_worlds import FAST, TOLERANCE, World, check, normalised, wins
from tiny import tiny_llama

from preftune.data.ballots import Vote
from preftune.lab import optima
from preftune.lab.worlds import arbitrary, expected_wins
from preftune.study.single import train

WORDS = ["x", "y", "a", "b", "c", "d", "e", "f"]

D1 = (Vote(0, 1, 1), Vote(1, 2, 1), Vote(0, 2, 1))
D2 = (Vote(0, 1, 1), Vote(1, 2, 1), Vote(2, 0, 1))
D3 = (Vote(0, 1, 1), Vote(1, 0, 1), Vote(0, 2, 1))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("other"), WORDS, seed=3)


# --- the judge -------------------------------------------------------------------------------------------------------


# --- the IPO paper's bandits (arXiv 2310.12036, section 5) -----------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("votes", "scores"), [(D1, (1 / 3, 0, -1 / 3)), (D3, (1 / 6, 1 / 6, -1 / 3))])
def test_ipo_reaches_the_closed_form_of_its_papers_bandits(
    votes: tuple[Vote, ...], scores: tuple[float, ...], beta: float, model: str, out: Path
) -> None:
    world = World()
    train("ipo", [world.ballot(*votes)], model=model, beta=beta, out=out, **FAST)
    np.testing.assert_allclose(optima.ipo_scores(wins(votes)), scores, atol=1e-12)
    check(out, model, world, scores, beta)


@pytest.mark.parametrize("method", ["ipo", "dpo"])
def test_votes_in_a_circle_lead_to_the_reference_wherever_the_policy_starts(
    method: str, model: str, other_model: str, out: Path
) -> None:
    world = World()
    assert abs(normalised(world.logprobs(model)) - normalised(world.logprobs(other_model))).max() > 0.1
    train(method, [world.ballot(*D2)], model=model, reference=other_model, beta=0.5, out=out, **FAST)
    check(out, other_model, world, (0, 0, 0))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_gives_everything_to_a_response_that_always_wins_whatever_beta(beta: float, model: str, out: Path) -> None:
    world = World()
    train("dpo", [world.ballot(*D1)], model=model, beta=beta, out=out, **FAST | {"lr": 3e-2})
    check(out, model, world, optima.most_likely(wins(D1)).score, beta)


def test_dpo_gives_nothing_to_a_response_that_always_loses_and_the_others_share_like_the_reference(
    model: str, out: Path
) -> None:
    world = World()
    train("dpo", [world.ballot(*D3)], model=model, beta=0.5, out=out, **FAST | {"lr": 3e-2})
    check(out, model, world, optima.most_likely(wins(D3)).score, 0.5)


# --- soft votes and weights ------------------------------------------------------------------------------------------

SOFT = (Vote(0, 1, 0.9, 3.0), Vote(1, 2, 0.4), Vote(2, 0, 0.7, 0.5), Vote(0, 1, 0.2), Vote(3, 2, 0.5, 2.0))


@pytest.mark.parametrize("method", ["ipo", "dpo"])
def test_votes_in_the_shares_of_a_world_lead_to_its_optimum(method: str, model: str, out: Path) -> None:
    """Every pair weighted as μ × μ draws it, preferences that no score explains: IPO reaches π_ref·exp(Borda/β), DPO
    the scores whose Bradley-Terry preferences have the same Borda scores."""
    truth, world, beta = arbitrary(np.random.default_rng(0)), World(responses=("a", "b", "c", "d")), 0.3
    p, mu = truth.preference[0], truth.sampler[0]
    votes = [Vote(a, b, p[a, b], 10 * mu[a] * mu[b]) for a in range(4) for b in range(a)]
    train(method, [world.ballot(*votes)], model=model, beta=beta, out=out, **FAST)
    borda, likeliest = optima.borda(p, mu), optima.most_likely(expected_wins(truth)[0]).score
    check(out, model, world, borda if method == "ipo" else likeliest, beta)


@pytest.mark.parametrize("lora", [0, 8])
def test_ipo_on_unequal_weights_reaches_least_squares_on_the_vote_graph(lora: int, model: str, out: Path) -> None:
    world = World(responses=("a", "b", "c", "d"))
    train("ipo", [world.ballot(*SOFT)], model=model, beta=0.2, out=out, lora=lora, **FAST)
    check(out, model, world, optima.ipo_scores(wins(SOFT, 4)), 0.2)


@pytest.mark.parametrize("lora", [0, 8])
def test_dpo_on_soft_votes_reaches_the_bradley_terry_fit(lora: int, model: str, out: Path) -> None:
    world = World(responses=("a", "b", "c", "d"))
    train("dpo", [world.ballot(*SOFT)], model=model, beta=0.5, out=out, lora=lora, **FAST)
    check(out, model, world, optima.most_likely(wins(SOFT, 4)).score, 0.5)


def test_dpo_on_a_soft_vote_rests_where_the_margin_is_the_logit_of_p(model: str, out: Path) -> None:
    world = World(responses=("a", "b"))
    train("dpo", [world.ballot(Vote(0, 1, 0.8))], model=model, beta=0.5, out=out, **FAST)
    check(out, model, world, (np.log(0.8 / 0.2), 0), 0.5)


@pytest.mark.parametrize(
    ("convex", "margin"),
    [("logistic", np.log(0.8 / 0.2)), ("squared", 0.6), ("hinge", 1.0), ("exponential", np.log(0.8 / 0.2) / 2)],
)
@pytest.mark.parametrize("lora", [0, 8])
def test_gpo_rests_at_the_margin_of_its_function(convex: str, margin: float, lora: int, model: str, out: Path) -> None:
    world = World(responses=("a", "b"))
    slow = {"lr": 3e-3, "steps": 250} if convex == "hinge" else {}  # its slope does not fall towards the optimum
    train(
        "gpo", [world.ballot(Vote(0, 1, 0.8))], model=model, beta=0.5, out=out, convex=convex, lora=lora, **FAST | slow
    )
    check(out, model, world, (margin, 0), 0.5)


def test_gpo_trains_as_dpo_and_ipo_do(model: str, tmp_path: Path) -> None:
    """The logistic function is DPO's loss; the squared one is IPO's at half its β, four times as large."""
    world, left, right = World(responses=("a", "b", "c", "d")), tmp_path / "left", tmp_path / "right"
    for method, beta, options in (("gpo", 0.5, {}), ("dpo", 0.5, {})):
        train(method, [world.ballot(*SOFT)], model=model, beta=beta, out=tmp_path / method, **FAST, **options)
    own, dpos = (normalised(world.logprobs(tmp_path / name / "policy")) for name in ("gpo", "dpo"))
    np.testing.assert_allclose(own, dpos, atol=1e-3)
    train("gpo", [world.ballot(*SOFT)], model=model, beta=0.5, out=left, convex="squared", **FAST)
    train("ipo", [world.ballot(*SOFT)], model=model, beta=0.25, out=right, **FAST)
    np.testing.assert_allclose(
        normalised(world.logprobs(left / "policy")), normalised(world.logprobs(right / "policy")), atol=TOLERANCE
    )


@pytest.mark.parametrize("setting", ["label_smoothing", "flip_rate"])
def test_label_noise_settings_move_the_target_of_ipo(setting: str, model: str, out: Path) -> None:
    world = World(responses=("a", "b"))
    train("ipo", [world.ballot(Vote(0, 1, 1))], model=model, beta=0.3, out=out, **{setting: 0.2}, **FAST)
    target = 0.3 if setting == "label_smoothing" else 0.5 / 0.6  # ½ − ε, and ½/(1 − 2ε)
    check(out, model, world, (target, 0), 0.3)


# --- several tokens, several prompts ---------------------------------------------------------------------------------

SENTENCES = World(prompt="x y x", responses=("a", "a b", "c b a d", "d d"), ended=True)


@pytest.mark.parametrize("lora", [0, 8])
def test_responses_of_unequal_length_reach_the_optimum_as_whole_sequences(lora: int, model: str, out: Path) -> None:
    train("ipo", [SENTENCES.ballot(*SOFT)], model=model, beta=0.2, out=out, lora=lora, **FAST)
    check(out, model, SENTENCES, optima.ipo_scores(wins(SOFT, 4)), 0.2)


def test_with_the_mean_over_tokens_the_optimum_is_in_nats_per_token(model: str, out: Path) -> None:
    """End-of-text is one of the tokens; mean log-ratios, so the optimum is not that of the objective (THEORY 3)."""
    train("ipo", [SENTENCES.ballot(*SOFT)], model=model, beta=0.2, out=out, reduction="mean", **FAST)
    per_token = (SENTENCES.logprobs(out / "policy") - SENTENCES.logprobs(model)) / np.array([2, 3, 5, 3])
    wanted = optima.ipo_scores(wins(SOFT, 4)) / 0.2
    np.testing.assert_allclose(per_token - per_token.mean(), wanted - wanted.mean(), rtol=0, atol=0.02)


def test_prompts_with_different_votes_each_reach_their_own_optimum(model: str, out: Path) -> None:
    worlds = World("x"), World("y x", responses=("c", "b", "e f"))
    ballots = [worlds[0].ballot(*D1), worlds[1].ballot(*D3)]
    train("ipo", ballots, model=model, beta=0.5, out=out, **FAST | {"steps": 150})
    check(out, model, worlds[0], optima.ipo_scores(wins(D1)), 0.5)
    check(out, model, worlds[1], optima.ipo_scores(wins(D3)), 0.5)


# --- SFT -------------------------------------------------------------------------------------------------------------


def test_sft_reaches_the_weighted_share_of_each_preferred_response(model: str, out: Path) -> None:
    world = World()
    votes = Vote(0, 1, 0.9, 2.0), Vote(2, 1, 0.4), Vote(0, 2, 0.5, 7.0)  # 1.8 for a, 0.6 for b, the tie for nobody
    train("sft", [world.ballot(*votes)], model=model, out=out, **FAST | {"steps": 120})
    np.testing.assert_allclose(np.exp(world.logprobs(out / "policy")), (0.75, 0.25, 0), atol=TOLERANCE)
