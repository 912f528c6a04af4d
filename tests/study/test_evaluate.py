"""Held-out votes and samples to numbers with standard errors, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import tried
from tiny import tiny_model, tiny_tokenizer

from preftune.data.ballots import Vote
from preftune.data.tokens import TokenBallot, text_format
from preftune.evidence.agreement import VoteTable, accuracy, log_loss
from preftune.evidence.results import Sample
from preftune.evidence.stats import Estimate
from preftune.judges.judge import Judge
from preftune.model.attention import use_branch_attention
from preftune.model.layout import Layout
from preftune.model.stores import response_keys
from preftune.study.evaluate import answer, calibration, summarise
from preftune.study.questions import Questions
from preftune.training.votes import vote_table

BRANCH = Layout("branch", "")
IDENTITY = {"run": "r", "arm": "dpo", "method": "dpo", "beta": 0.1, "seed": 0, "step": 3}


def table(rows: Sequence[tuple[float, float, float, int]]) -> VoteTable:
    """Rows of (difference, p, weight, number of the prompt)."""
    difference, p, weight, prompt = zip(*rows, strict=True)
    return VoteTable(
        np.array(difference, float), np.array(p, float), np.array(weight, float), tuple((i,) for i in prompt)
    )


differences = st.floats(-5, 5).map(lambda x: round(x, 2))
vote_rows = st.lists(
    st.tuples(differences, st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([1.0, 2.0, 3.0]), st.integers(0, 5)),
    min_size=1,
    max_size=20,
)


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


# --- calibration -----------------------------------------------------------------------------------------------------


@given(rows=vote_rows, beta=st.sampled_from([0.02, 0.1, 0.5, 2.0]), method=st.sampled_from(["dpo", "ppo", "ipo"]))
def test_votes_that_are_as_the_margins_predict_are_calibrated(
    rows: list[tuple[float, float, float, int]], beta: float, method: str
) -> None:
    def says(difference: float) -> float:
        if method == "ipo":
            return min(max(0.5 + beta * difference, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-beta * difference))

    bins = calibration(table([(d, says(d), weight, prompt) for d, _, weight, prompt in rows]), method, beta)
    assert sum(row["votes"] for row in bins) == pytest.approx(sum(weight for *_, weight, _ in rows))
    for row in bins:
        assert row["observed"] == pytest.approx(row["predicted"]) and row["predicted"] >= 0.5


def test_a_method_whose_margins_predict_no_probability_has_no_calibration() -> None:
    votes = table([(1.0, 1.0, 1.0, 0)])
    assert calibration(votes, "sft", None) == calibration(votes, "gpo", 0.1) == []


# --- accuracy --------------------------------------------------------------------------------------------------------


@given(vote_rows)
def test_accuracy_is_the_share_of_vote_weight_that_agrees(rows: list[tuple[float, float, float, int]]) -> None:
    agreeing = 0.0
    for difference, p, weight, _ in rows:
        agreeing += weight * (p if difference > 0 else 1 - p if difference < 0 else 0.5)
    assert value(accuracy(table(rows))) == pytest.approx(agreeing / sum(row[2] for row in rows))


@given(vote_rows)
def test_accuracy_counts_ties_on_either_side_half_and_knows_no_first_response(
    rows: list[tuple[float, float, float, int]],
) -> None:
    swapped = [(-difference, 1 - p, weight, prompt) for difference, p, weight, prompt in rows]
    assert value(accuracy(table(swapped))) == pytest.approx(value(accuracy(table(rows))))
    assert value(accuracy(table([(0.0, p, w, i) for _, p, w, i in rows]))) == pytest.approx(0.5)
    assert value(accuracy(table([(d, 0.5, w, i) for d, _, w, i in rows]))) == pytest.approx(0.5)


def test_the_standard_error_of_accuracy_takes_prompts_as_clusters() -> None:
    agree, disagree = (1.0, 1.0, 1.0), (1.0, 0.0, 1.0)
    rows = [(*agree, 0)] * 10 + [(*disagree, 1)] * 10 + [(*agree, 2)] * 10 + [(*disagree, 3)] * 10
    found = accuracy(table(rows))
    assert found.se == pytest.approx(np.std([1, 0, 1, 0], ddof=1) / 2), "four prompts, not forty votes"


# --- log-loss --------------------------------------------------------------------------------------------------------


def best_scale(rows: Sequence[tuple[float, float, float, int]]) -> float:
    """The c >= 0 at which the slope of the loss is 0, by bisection; at most 100 over the spread of the differences."""
    spread = math.sqrt(sum(d * d for d, *_ in rows) / len(rows))
    if spread == 0:
        return 0.0

    def slope(c: float) -> float:
        return sum(w * d * (1 / (1 + math.exp(-max(min(c * d, 700), -700))) - p) for d, p, w, _ in rows)

    low, high = 0.0, 100 / spread
    if slope(low) >= 0:
        return 0.0
    if slope(high) <= 0:
        return high
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


def loss_at(rows: Sequence[tuple[float, float, float, int]], c: float) -> float:
    return sum(w * (p * np.logaddexp(0, -c * d) + (1 - p) * np.logaddexp(0, c * d)) for d, p, w, _ in rows)


@tried(150)
@given(vote_rows)
def test_log_loss_is_cross_fitted_over_halves_of_the_prompts(rows: list[tuple[float, float, float, int]]) -> None:
    prompts = sorted({row[3] for row in rows})
    found = log_loss(table(rows))
    if len(prompts) < 2:
        assert found is None
        return
    halves = [[row for row in rows if prompts.index(row[3]) % 2 == side] for side in (0, 1)]
    scales = [best_scale(halves[1]), best_scale(halves[0])]
    # a scale at its bound makes huge losses of tiny differences in the scale
    assume(all(c * max(abs(d) for d, *_ in half) < 50 for c, half in zip(scales, halves, strict=True)))
    total = sum(loss_at(half, c) for half, c in zip(halves, scales, strict=True))
    assert value(found) == pytest.approx(total / sum(row[2] for row in rows), abs=2e-3)


def test_the_scale_of_a_half_comes_from_the_other_half() -> None:
    """Half 0 agrees with its votes and half 1 contradicts them: each is scored with what the other one learnt."""
    rows = [(1.0, 1.0, 1.0, 0), (1.0, 0.8, 1.0, 0), (1.0, 0.0, 1.0, 1)]
    c = math.log(0.9 / 0.1)  # the scale that fits votes of .9 on average
    wanted = (math.log(2) + math.log(2) + math.log(1 + math.exp(c))) / 3
    assert value(log_loss(table(rows))) == pytest.approx(wanted, abs=1e-3)


@tried(50)
@given(vote_rows, st.sampled_from([0.1, 10.0, 1000.0]))
def test_log_loss_does_not_depend_on_the_scale_of_an_arm_nor_on_the_order_of_a_and_b(
    rows: list[tuple[float, float, float, int]], factor: float
) -> None:
    assume(len({row[3] for row in rows}) > 1)
    wanted = value(log_loss(table(rows)))
    scaled = [(factor * d, p, w, i) for d, p, w, i in rows]
    swapped = [(-d, 1 - p, w, i) for d, p, w, i in rows]
    assert value(log_loss(table(scaled))) == pytest.approx(wanted, rel=1e-4)
    assert value(log_loss(table(swapped))) == pytest.approx(wanted, rel=1e-4)


def test_a_difference_that_is_the_true_logit_reaches_the_entropy_of_the_votes() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 400)
    p = 1 / (1 + np.exp(-logits))
    rows = [(0.01 * logit, q, 1.0, i) for i, (logit, q) in enumerate(zip(logits, p, strict=True))]
    entropy = float(np.mean(-p * np.log(p) - (1 - p) * np.log(1 - p)))
    assert value(log_loss(table(rows))) == pytest.approx(entropy, abs=1e-4)


def test_before_training_accuracy_is_one_half_and_log_loss_ln_2_exactly() -> None:
    rows = table([(0.0, 1.0, 2.0, 0), (0.0, 0.3, 1.0, 1), (0.0, 0.0, 1.0, 2)])
    assert accuracy(rows) == Estimate(0.5, 0.0, 2)
    found = log_loss(rows)
    assert found is not None and (found.value, found.se) == (
        pytest.approx(math.log(2), abs=1e-15),
        pytest.approx(0, abs=1e-15),
    )


# --- votes through a model -------------------------------------------------------------------------------------------

BALLOTS = (
    TokenBallot((3, 4, 5), ((6, 7), (8,), (9, 3, 4)), (Vote(0, 1, 1.0), Vote(2, 0, 0.3, 2.0))),
    TokenBallot((5,), ((6, 6, 6), (7,)), (Vote(1, 0, 0.0, 3.0),)),
    TokenBallot((3, 4, 5), ((9,), (5, 0)), (Vote(0, 1, 0.5),)),
)


def model_of(seed: int) -> Any:
    model = tiny_model("llama", 10, seed=seed)
    use_branch_attention(model)
    return model


@torch.no_grad()
def logprob(model: Any, prompt: Sequence[int], response: Sequence[int]) -> float:
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].double()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum())


def references(model: Any) -> dict[bytes, float]:
    return {
        key: logprob(model, ballot.prompt, response)
        for ballot in BALLOTS
        for key, response in zip(response_keys(ballot), ballot.responses, strict=True)
    }


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("micro_tokens", [8, 1000])
def test_the_vote_table_holds_log_ratio_differences_of_every_vote_in_order(reduction: str, micro_tokens: int) -> None:
    policy, reference = model_of(0), model_of(1)
    options = {"layout": BRANCH, "precision": "fp32", "micro_tokens": micro_tokens, "reduction": reduction}
    found = vote_table(policy, BALLOTS, references(reference), **options)

    def ratio(ballot: TokenBallot, index: int) -> float:
        ids = ballot.responses[index]
        difference = logprob(policy, ballot.prompt, ids) - logprob(reference, ballot.prompt, ids)
        return difference / (len(ids) if reduction == "mean" else 1)

    wanted = [(b, vote) for b in BALLOTS for vote in b.votes]
    assert found.difference == pytest.approx([ratio(b, v.a) - ratio(b, v.b) for b, v in wanted], abs=1e-4)
    assert found.p.tolist() == [v.p for _, v in wanted] and found.weight.tolist() == [v.weight for _, v in wanted]
    assert found.prompt == tuple(b.prompt for b, _ in wanted)


def test_the_groups_of_an_evaluation_do_not_depend_on_the_policy_and_take_every_ballot() -> None:
    for micro_tokens in (1, 8, 100):
        groups = BRANCH.groups(BALLOTS, micro_tokens)
        assert sorted(i for group in groups for i in group) == [0, 1, 2]


# --- samples ---------------------------------------------------------------------------------------------------------


def samples(rewards: Sequence[Sequence[float]], kls: Sequence[Sequence[float]] | None = None) -> list[Sample]:
    """One row of rewards per prompt; the lengths are 1, 2, … in each."""
    return [
        Sample("r", 3, i, "p", k, "text", k + 1, k % 2 == 0, kls[i][k] if kls else 0.0, reward, {"second": -reward})
        for i, row in enumerate(rewards)
        for k, reward in enumerate(row)
    ]


reward_tables = st.integers(1, 3).flatmap(
    lambda k: st.lists(
        st.tuples(*[st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=k, max_size=k)] * 2),
        min_size=2,
        max_size=5,
    )
)


@given(reward_tables)
def test_gain_and_win_rate_are_paired_by_prompt_with_ties_half(rows: list[tuple[list[float], list[float]]]) -> None:
    own, other = [row[0] for row in rows], [row[1] for row in rows]
    found = summarise(samples(own), samples(other), None, **IDENTITY)
    gains, wins = [], []
    for mine, theirs in rows:
        gains.append(sum(mine) / len(mine) - sum(theirs) / len(theirs))
        pairs = [(a, b) for (i, a), (j, b) in product(enumerate(mine), enumerate(theirs)) if i != j or len(mine) == 1]
        wins.append(sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs))
    prompts = len(rows)
    assert found.reward == pytest.approx(np.mean([np.mean(row) for row in own]))
    assert (found.gain, found.gain_se) == (
        pytest.approx(np.mean(gains)),
        pytest.approx(np.std(gains, ddof=1) / np.sqrt(prompts)),
    )
    assert (found.win_rate, found.win_rate_se) == (
        pytest.approx(np.mean(wins)),
        pytest.approx(np.std(wins, ddof=1) / np.sqrt(prompts)),
    )
    mirrored = summarise(samples(other), samples(own), None, **IDENTITY)
    assert mirrored.win_rate == pytest.approx(1 - np.mean(wins)) and mirrored.gain == pytest.approx(-np.mean(gains))


@given(reward_tables)
def test_a_policy_that_is_its_reference_gains_nothing_and_wins_half(
    rows: list[tuple[list[float], list[float]]],
) -> None:
    own = samples([row[0] for row in rows])
    found = summarise(own, own, None, **IDENTITY)
    assert (found.gain, found.gain_se) == (0, 0)
    assert found.win_rate == pytest.approx(0.5)


def test_kl_length_ends_and_second_opinions_are_means_over_prompts() -> None:
    drawn = samples([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]], [[0.1, 0.3], [1.0, 2.0], [0.0, 0.2]])
    found = summarise(drawn, drawn, None, **IDENTITY)
    means = [0.2, 1.5, 0.1]
    assert (found.kl, found.kl_se) == (pytest.approx(0.6), pytest.approx(np.std(means, ddof=1) / np.sqrt(3)))
    assert (found.length, found.ended) == (1.5, 0.5)
    assert found.extra["second"] == pytest.approx(-11 / 6)
    assert found.extra["second_se"] == pytest.approx(np.std([1.5, 4, 0], ddof=1) / np.sqrt(3))
    assert {name: getattr(found, name) for name in IDENTITY} == IDENTITY
    assert (found.accuracy, found.log_loss) == (None, None)


def test_without_a_judge_there_is_no_reward_and_without_samples_there_are_votes_only() -> None:
    bare = [Sample("r", 3, i, "p", 0, "text", 2, True, 0.5) for i in range(3)]
    found = summarise(bare, bare, None, **IDENTITY)
    assert (found.reward, found.gain, found.win_rate, found.kl) == (None, None, None, 0.5)
    votes = summarise([], [], table([(1.0, 1.0, 1.0, 0), (1.0, 0.5, 1.0, 1)]), **IDENTITY)
    assert (votes.accuracy, votes.kl, votes.length, votes.ended) == (0.75, None, None, None)


def test_the_reference_answers_as_itself_with_no_kl_and_what_judges_see_is_what_is_kept() -> None:
    """Step 0, end to end: the policy is the reference and draws from the same noise."""
    seen: list[tuple[Sequence[str], Sequence[str]]] = []

    def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        seen.append((list(prompts), list(responses)))
        return [float(len(response)) for response in responses]

    questions = Questions(
        prompts=((3, 4), (5,)),
        texts=("a b", "c"),
        ballots=BALLOTS,
        samples=3,
        max_new_tokens=6,
        judge=Judge("length", "characters", score),
        others={"none": Judge("none", "always 1", lambda prompts, responses: [1.0] * len(prompts))},
    )
    form = text_format(tiny_tokenizer(list("abcdefg")))
    policy, reference = model_of(0), model_of(0)

    @contextmanager
    def yields() -> Iterator[Any]:
        yield reference

    options = {"layout": BRANCH, "precision": "fp32", "micro_tokens": 1000, "merged": nullcontext}
    drawn, again = (answer(model, yields, questions, form, run="r", step=0, **options) for model in (policy, reference))
    assert drawn == again
    assert [(s.prompt_id, s.prompt, s.sample) for s in drawn] == [
        (i, text, k) for i, text in enumerate(questions.texts) for k in range(3)
    ]
    assert all(s.kl == 0 and s.reward == len(s.response) and s.extra == {"none": 1.0} for s in drawn)
    assert all(1 <= s.tokens <= 6 and (s.ended or s.tokens == 6) for s in drawn)
    assert seen[0] == ([s.prompt for s in drawn], [s.response for s in drawn])
    found = summarise(drawn, again, None, **IDENTITY)
    assert (found.gain, found.kl, found.win_rate) == (0, 0, 0.5)


def test_evaluation_leaves_no_gradient_and_no_other_mode() -> None:
    policy = model_of(0).train()
    vote_table(policy, BALLOTS, references(policy), layout=BRANCH, precision="fp32", micro_tokens=100)
    assert policy.training and all(parameter.grad is None for parameter in policy.parameters())
