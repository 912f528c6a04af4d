"""Ballots and votes: what swapping, pooling and splitting must keep."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.data.ballots import Ballot, BallotSet, Message, Vote, pool, split_by_prompt

probabilities = st.floats(0, 1)
weights = st.floats(1e-3, 1e3)


@st.composite
def votes(draw: st.DrawFn, responses: int = 4) -> Vote:
    a = draw(st.integers(0, responses - 1))
    b = draw(st.integers(0, responses - 2))
    return Vote(a, b + (b >= a), draw(probabilities), draw(weights))


vote_lists = st.lists(votes(), max_size=12)
margins = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


def cross_entropy(votes: list[Vote], score: list[float]) -> float:
    """Bradley-Terry's loss of the votes (THEORY section 2), written out for single votes."""
    total = 0.0
    for vote in votes:
        gap = score[vote.a] - score[vote.b]
        total += vote.weight * (vote.p * math.log1p(math.exp(-gap)) + (1 - vote.p) * math.log1p(math.exp(gap)))
    return total


def ipo_slope(votes: list[Vote], score: list[float]) -> list[float]:
    """Gradient of the sum of weight (h - (p - 1/2))^2 in the four scores."""
    slope = [0.0] * len(score)
    for vote in votes:
        residual = 2 * vote.weight * (score[vote.a] - score[vote.b] - (vote.p - 0.5))
        slope[vote.a] += residual
        slope[vote.b] -= residual
    return slope


@given(vote_lists, margins)
def test_pooling_keeps_the_bradley_terry_loss(votes: list[Vote], score: list[float]) -> None:
    assert cross_entropy(list(pool(votes)), score) == pytest.approx(cross_entropy(votes, score), rel=1e-9, abs=1e-9)


@given(vote_lists, margins)
def test_pooling_keeps_the_gradient_of_ipo(votes: list[Vote], score: list[float]) -> None:
    assert ipo_slope(list(pool(votes)), score) == pytest.approx(ipo_slope(votes, score), rel=1e-9, abs=1e-8)


@given(vote_lists)
def test_pooling_leaves_one_vote_per_pair_in_ascending_order_and_all_of_the_weight(votes: list[Vote]) -> None:
    pooled = pool(votes)
    assert all(vote.a < vote.b for vote in pooled)
    assert sorted((vote.a, vote.b) for vote in pooled) == sorted({tuple(sorted((v.a, v.b))) for v in votes})
    assert sum(vote.weight for vote in pooled) == pytest.approx(sum(vote.weight for vote in votes))
    assert pool(pooled) == pooled


def test_opposite_hard_votes_pool_into_a_tie_of_weight_two() -> None:
    assert pool([Vote(0, 1, 1.0), Vote(1, 0, 1.0)]) == (Vote(0, 1, 0.5, 2.0),)


@given(vote_lists, margins)
def test_swapping_changes_no_loss_and_swapping_twice_changes_nothing(votes: list[Vote], score: list[float]) -> None:
    swapped = [vote.swap() for vote in votes]
    assert cross_entropy(swapped, score) == pytest.approx(cross_entropy(votes, score), rel=1e-9, abs=1e-9)
    assert [(v.b, v.a, v.weight) for v in swapped] == [(v.a, v.b, v.weight) for v in votes]
    assert [vote.swap().p for vote in swapped] == pytest.approx([vote.p for vote in votes], abs=1e-15)


def test_a_ballot_swaps_and_pools_its_votes_and_nothing_else() -> None:
    ballot = Ballot("q", ("x", "y"), (Vote(0, 1, 0.75), Vote(1, 0, 0.75)), "id", "source", (True, False))
    assert ballot.swap() == replace(ballot, votes=(Vote(1, 0, 0.25), Vote(0, 1, 0.25)))
    assert ballot.pooled() == replace(ballot, votes=(Vote(0, 1, 0.5, 2.0),))


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf])
def test_a_vote_with_p_outside_0_and_1_cannot_exist(p: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Vote(0, 1, p)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_vote_without_a_positive_finite_weight_cannot_exist(weight: float) -> None:
    with pytest.raises(ValueError, match="is outside"):
        Vote(0, 1, 0.5, weight)


def test_a_response_cannot_be_compared_with_itself() -> None:
    with pytest.raises(ValueError, match="with itself"):
        Vote(1, 1, 0.5)


@pytest.mark.parametrize(("a", "b", "named"), [(0, 2, 2), (-1, 0, -1), (5, -3, 5)])
def test_a_vote_on_a_response_that_is_not_there_is_named(a: int, b: int, named: int) -> None:
    with pytest.raises(ValueError, match=f"names response {named}, counted from 0; there are 2"):
        Ballot("q", ("x", "y"), (Vote(a, b, 1.0),))


def test_a_ballot_needs_two_responses_and_one_ended_for_each() -> None:
    with pytest.raises(ValueError, match="two responses or more"):
        Ballot("q", ("x",), ())
    with pytest.raises(ValueError, match="1 entries for 2 responses"):
        Ballot("q", ("x", "y"), (), ended=(True,))
    assert Ballot("q", ("x", "y"), ()).ended == (True, True)


prompts = st.sampled_from(["a", "b", "c", "d", "", "(Message(role='user', content='a'),)"]) | st.sampled_from(
    [(Message("user", "a"),), (Message("user", "b"),)]
)
ballots = st.lists(prompts.map(lambda prompt: Ballot(prompt, ("x", "y"), (Vote(0, 1, 1.0),))), max_size=20)
fractions = st.floats(0, 1)


@given(ballots, fractions, st.integers(0, 9))
def test_a_split_keeps_every_ballot_once_and_no_prompt_on_both_sides(
    ballots: list[Ballot], fraction: float, seed: int
) -> None:
    ballots = [replace(ballot, id=str(n)) for n, ballot in enumerate(ballots)]
    train, held_out = split_by_prompt(ballots, fraction, seed=seed)
    assert not {ballot.prompt for ballot in train} & {ballot.prompt for ballot in held_out}
    for side in (train, held_out):
        assert all(int(x.id) < int(y.id) for x, y in pairwise(side)), "the order of the file is kept"
    assert sorted(int(ballot.id) for ballot in train + held_out) == list(range(len(ballots)))


@given(ballots, fractions, st.integers(0, 9))
def test_a_split_holds_out_the_asked_fraction_of_prompts_and_never_leaves_training_empty(
    ballots: list[Ballot], fraction: float, seed: int
) -> None:
    train, held_out = split_by_prompt(ballots, fraction, seed=seed)
    total, held = len({b.prompt for b in ballots}), len({b.prompt for b in held_out})
    assert train or not ballots
    if fraction == 0:
        assert not held_out
    elif total > 1:
        assert 1 <= held <= total - 1
        assert abs(held - fraction * total) <= 1


@given(ballots, fractions, st.randoms(use_true_random=False))
def test_which_prompts_are_held_out_does_not_depend_on_the_order_of_the_file(ballots, fraction, random) -> None:
    _, held_out = split_by_prompt(ballots, fraction, seed=1)
    shuffled = random.sample(ballots, len(ballots))
    assert {b.prompt for b in split_by_prompt(shuffled, fraction, seed=1)[1]} == {b.prompt for b in held_out}


def test_another_seed_holds_out_other_prompts() -> None:
    ballots = [Ballot(str(n), ("x", "y"), ()) for n in range(50)]
    chosen = {tuple(b.prompt for b in split_by_prompt(ballots, 0.5, seed=seed)[1]) for seed in range(5)}
    assert len(chosen) == 5


@pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
def test_a_fraction_outside_0_and_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        split_by_prompt([Ballot("q", ("x", "y"), ())], fraction, seed=0)


def test_a_ballot_set_is_a_sequence_of_its_ballots() -> None:
    ballots = tuple(Ballot(str(n), ("x", "y"), ()) for n in range(3))
    assert tuple(BallotSet(ballots, rows=3)) == ballots
    assert BallotSet(ballots, rows=3)[1:] == ballots[1:]
    assert BallotSet(ballots, rows=3)[-1] == ballots[2]
    assert len(BallotSet(ballots, rows=5)) == 3
