"""The objectives against the mathematics: identities, values, slopes, and the formulas of the papers written out."""

import math
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from torch import Tensor

from preftune.data.ballots import Vote, pool
from preftune.objectives import (
    adapted_beta,
    amortized_ipo,
    bradley_terry,
    dpo,
    gae,
    gpo,
    ipo,
    ipo_target,
    leave_one_out,
    ppo_policy,
    ppo_value,
    rloo,
    sft,
    smooth,
    token_rewards,
    unbias,
    whiten,
)

B = 3  # votes in a batch
ratios = st.lists(st.floats(-8, 8), min_size=B, max_size=B)
preferences = st.lists(st.floats(0, 1), min_size=B, max_size=B)
betas = st.floats(0.05, 4)
rates = st.floats(0, 0.45)


def for_all(*strategies: st.SearchStrategy) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda test: tried(25)(given(*strategies)(test))


Loss = Callable[[Tensor, Tensor, float, Tensor], Tensor]


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, wanted: object, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=tolerance, atol=tolerance)


F: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of GPO, written out again
    "logistic": lambda h: np.log1p(np.exp(-h)),
    "squared": lambda h: (h - 1) ** 2,
    "hinge": lambda h: np.where(h < 1, 1 - h, 0.0),
    "exponential": lambda h: np.exp(-h),
}


def gpo_of(a: Tensor, b: Tensor, beta: float, p: Tensor, convex: str = "logistic") -> Tensor:
    return gpo(a, b, beta=beta, preference=p, convex=convex)


def pairwise() -> list[Loss]:
    """Every pairwise loss as a function of (log-ratio a, log-ratio b, β, p); looked up late, for the mutation run."""
    return [
        lambda a, b, beta, p: bradley_terry(a, b, preference=p),
        lambda a, b, beta, p: bradley_terry(a, b, preference=p, flip_rate=0.2),
        lambda a, b, beta, p: dpo(a, b, beta=beta, preference=p),
        lambda a, b, beta, p: ipo(a, b, beta=beta, preference=p),
        lambda a, b, beta, p: amortized_ipo(a, b, torch.logit(p), beta=beta),
        *(partial(gpo_of, convex=convex) for convex in F),
    ]


def slope(loss: Loss, h: Tensor, p: Tensor, beta: float = 1.0) -> Tensor:
    """d loss / dh, with h moved through the first log-ratio."""
    a = (h / beta).requires_grad_(True)
    return torch.autograd.grad(loss(a, torch.zeros_like(h), beta, p).sum(), a)[0] / beta


def dpo_of(a: Tensor, b: Tensor, beta: float, p: Tensor) -> Tensor:
    return dpo(a, b, beta=beta, preference=p)


def ipo_of(a: Tensor, b: Tensor, beta: float, p: Tensor) -> Tensor:
    return ipo(a, b, beta=beta, preference=p)


# --- what all pairwise losses share ----------------------------------------------------------------------------------


@for_all(ratios, ratios, betas, preferences)
def test_swapping_the_sides_changes_no_pairwise_loss(a: list, b: list, beta: float, p: list) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    for loss in pairwise():
        close(loss(b, a, beta, 1 - p), loss(a, b, beta, p))


@for_all(ratios, ratios, betas, preferences, st.floats(-8, 8))
def test_adding_a_constant_to_both_sides_changes_no_pairwise_loss(
    a: list, b: list, beta: float, p: list, constant: float
) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    for loss in pairwise():
        close(loss(a + constant, b + constant, beta, p), loss(a, b, beta, p))


@for_all(ratios, ratios, betas)
def test_a_preference_left_out_is_1_and_a_number_counts_for_every_vote(a: list, b: list, beta: float) -> None:
    a, b = tensor(a), tensor(b)
    for loss in (bradley_terry, partial(dpo, beta=beta), partial(ipo, beta=beta)):
        close(loss(a, b), loss(a, b, preference=torch.ones(B, dtype=torch.float64)))
        close(loss(a, b, preference=0.3), loss(a, b, preference=torch.full((B,), 0.3, dtype=torch.float64)))


def test_each_vote_gets_a_loss_of_its_own() -> None:
    a, b, p = tensor([0.1, 2.0, -1.0]), tensor([0.4, -0.5, 3.0]), tensor([1.0, 0.2, 0.5])
    for loss in pairwise():
        together = loss(a, b, 0.7, p)
        assert together.shape == (3,)
        close(together, [float(loss(a[i : i + 1], b[i : i + 1], 0.7, p[i : i + 1])) for i in range(3)])


# --- Bradley-Terry and DPO -------------------------------------------------------------------------------------------


@for_all(ratios, ratios, preferences)
def test_bradley_terry_is_the_negative_log_likelihood(a: list, b: list, p: list) -> None:
    difference = np.array(a) - np.array(b)
    likelihood = np.log(1 / (1 + np.exp(-difference))), np.log(1 / (1 + np.exp(difference)))
    wanted = -np.array(p) * likelihood[0] - (1 - np.array(p)) * likelihood[1]
    close(bradley_terry(tensor(a), tensor(b), preference=tensor(p)), wanted, 1e-8)


@for_all(ratios, ratios, preferences, rates)
def test_with_flips_bradley_terry_is_the_likelihood_of_the_flipped_vote(a: list, b: list, p: list, rate: float) -> None:
    won = 1 / (1 + np.exp(np.array(b) - np.array(a)))
    kept = rate + (1 - 2 * rate) * won
    wanted = -np.array(p) * np.log(kept) - (1 - np.array(p)) * np.log1p(-kept)
    close(bradley_terry(tensor(a), tensor(b), preference=tensor(p), flip_rate=rate), wanted, 1e-8)


def test_a_vote_against_a_clear_difference_costs_no_more_than_a_flip() -> None:
    difference = tensor([-1e4, 1e4]).requires_grad_(True)
    loss = bradley_terry(difference, torch.zeros_like(difference), flip_rate=0.1)
    close(loss, [-math.log(0.1), -math.log(0.9)])
    loss.sum().backward()
    close(difference.grad, [0.0, 0.0])


def test_bradley_terry_refuses_a_rate_that_is_none() -> None:
    for rate in (-0.01, 0.5, 1.0):
        with pytest.raises(ValueError, match="outside"):
            bradley_terry(tensor([0.0]), tensor([0.0]), flip_rate=rate)


def test_bradley_terry_stays_finite_far_out() -> None:
    close(bradley_terry(tensor([1e4, -1e4]), tensor([0.0, 0.0])), [0.0, 1e4])


@for_all(st.lists(st.floats(0.01, 0.99), min_size=B, max_size=B))
def test_bradley_terry_is_least_where_the_score_difference_is_the_logit_of_p(p: list) -> None:
    p = tensor(p)
    close(slope(pairwise()[0], torch.logit(p), p), np.zeros(B))
    assert (slope(pairwise()[0], torch.logit(p) + 0.1, p) > 0).all()


@for_all(ratios, ratios, betas, preferences)
def test_dpo_is_bradley_terry_on_beta_times_the_log_ratios(a: list, b: list, beta: float, p: list) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    close(dpo(a, b, beta=beta, preference=p), bradley_terry(beta * a, beta * b, preference=p))


@for_all(ratios, betas, preferences)
def test_at_the_reference_dpo_is_ln_2_and_its_slope_is_half_minus_p(ratio: list, beta: float, p: list) -> None:
    same, p = tensor(ratio), tensor(p)
    close(dpo(same, same, beta=beta, preference=p), np.full(B, math.log(2)))
    close(slope(dpo_of, torch.zeros(B, dtype=torch.float64), p, beta), 0.5 - p)


@for_all(ratios, betas, preferences)
def test_the_slope_of_dpo_is_sigma_of_the_margin_minus_p(h: list, beta: float, p: list) -> None:
    close(slope(dpo_of, tensor(h), tensor(p), beta), 1 / (1 + np.exp(-np.array(h))) - np.array(p))


def test_dpo_of_a_hard_label_falls_for_ever() -> None:
    losses = dpo(torch.arange(0.0, 40.0, dtype=torch.float64), torch.zeros(40, dtype=torch.float64), beta=0.5)
    assert (losses.diff() < 0).all()


@for_all(ratios, ratios, betas, preferences)
def test_dpo_of_a_soft_label_is_the_expectation_over_hard_ones(a: list, b: list, beta: float, p: list) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    hard = p * dpo(a, b, beta=beta) + (1 - p) * dpo(b, a, beta=beta)
    close(dpo(a, b, beta=beta, preference=p), hard)


# --- IPO -------------------------------------------------------------------------------------------------------------


@for_all(ratios, betas)
def test_at_the_reference_ipo_of_a_hard_label_is_a_quarter(ratio: list, beta: float) -> None:
    same = tensor(ratio)
    close(ipo(same, same, beta=beta), np.full(B, 0.25))
    close(ipo(same, same, beta=beta, preference=0.0), np.full(B, 0.25))
    close(ipo(same, same, beta=beta, preference=0.5), np.zeros(B))


@for_all(ratios, betas, preferences)
def test_the_slope_of_ipo_is_twice_the_margin_short_of_p_minus_half(h: list, beta: float, p: list) -> None:
    close(slope(ipo_of, tensor(h), tensor(p), beta), 2 * (np.array(h) - (np.array(p) - 0.5)))


@for_all(ratios, ratios, betas)
def test_ipo_is_beta_squared_times_the_form_of_its_paper(preferred: list, other: list, beta: float) -> None:
    paper = (np.array(preferred) - np.array(other) - 1 / (2 * beta)) ** 2  # Azar et al., eq. 17, τ = β
    close(ipo(tensor(preferred), tensor(other), beta=beta), beta**2 * paper)


@for_all(ratios, ratios, betas, preferences)
def test_ipo_of_a_soft_label_is_the_expectation_over_hard_ones_less_their_variance(
    a: list, b: list, beta: float, p: list
) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    hard = p * ipo(a, b, beta=beta, preference=1.0) + (1 - p) * ipo(a, b, beta=beta, preference=0.0)
    close(ipo(a, b, beta=beta, preference=p), hard - p * (1 - p))


@for_all(ratios, ratios, betas, preferences)
def test_ipo_is_half_of_both_samples_of_a_vote(a: list, b: list, beta: float, p: list) -> None:
    """(h − p)² + (−h − (1 − p))² = 2(h − (p − ½))² + ½ (THEORY section 3)."""
    h, q = beta * (np.array(a) - np.array(b)), np.array(p)
    close(ipo(tensor(a), tensor(b), beta=beta, preference=tensor(p)), ((h - q) ** 2 + (-h - (1 - q)) ** 2 - 0.5) / 2)


@for_all(st.floats(0, 1), betas)
def test_ipo_vanishes_at_its_target(p: float, beta: float) -> None:
    target = tensor([ipo_target(p, beta=beta)])
    close(ipo(target, torch.zeros_like(target), beta=beta, preference=p), [0.0])
    assert ipo_target(p, beta=beta) == pytest.approx((p - 1 / 2) / beta)


# --- GPO --------------------------------------------------------------------------------------------------------------


@for_all(ratios, ratios, betas, preferences)
def test_gpo_is_its_function_of_the_margin_from_either_side(a: list, b: list, beta: float, p: list) -> None:
    h, share = beta * (np.array(a) - np.array(b)), np.array(p)
    for convex, f in F.items():
        found = gpo(tensor(a), tensor(b), beta=beta, preference=tensor(p), convex=convex)
        close(found, share * f(h) + (1 - share) * f(-h), 1e-8)


@for_all(ratios, ratios, betas, preferences)
def test_gpo_has_dpo_in_it_and_ipo_at_half_its_beta(a: list, b: list, beta: float, p: list) -> None:
    left, right, share = tensor(a), tensor(b), tensor(p)
    close(gpo(left, right, beta=beta, preference=share), dpo(left, right, beta=beta, preference=share).numpy())
    half = ipo(left, right, beta=beta / 2, preference=share)
    close(gpo(left, right, beta=beta, preference=share, convex="squared"), 4 * half + 4 * share * (1 - share), 1e-8)


OPTIMA: dict[str, Callable[[float], float]] = {
    "logistic": lambda p: math.log(p / (1 - p)),
    "squared": lambda p: 2 * p - 1,
    "hinge": lambda p: 1.0 if p > 0.5 else -1.0,
    "exponential": lambda p: math.log(p / (1 - p)) / 2,
}


@for_all(st.one_of(st.floats(0.05, 0.45), st.floats(0.55, 0.95)), betas)
def test_gpo_is_least_at_the_margin_that_its_function_asks_for(p: float, beta: float) -> None:
    for convex, optimum in OPTIMA.items():
        near = tensor([optimum(p) + step for step in (-1e-3, 0, 1e-3)]) / beta
        low, least, high = gpo(near, torch.zeros(3).double(), beta=beta, preference=p, convex=convex).tolist()
        assert least < low and least < high


def test_gpo_of_a_hard_label_falls_for_ever_unless_it_is_squared_or_a_hinge() -> None:
    margins = tensor([0.0, 0.5, 2.0, 4.0])
    for convex in F:
        falls = (gpo(margins, torch.zeros(4).double(), beta=1.0, convex=convex).diff() < 0).tolist()
        assert falls == {"squared": [True, False, False], "hinge": [True, True, False]}.get(convex, [True] * 3)


def test_gpo_knows_its_functions_by_name() -> None:
    with pytest.raises(KeyError, match="cubic"):
        gpo(tensor([1.0]), tensor([0.0]), beta=1.0, convex="cubic")


# --- amortized IPO ---------------------------------------------------------------------------------------------------


@for_all(ratios, ratios, betas, st.lists(st.floats(-6, 6), min_size=B, max_size=B))
def test_amortized_ipo_with_exact_logits_is_ipo_with_the_soft_preference(
    a: list, b: list, beta: float, logit: list
) -> None:
    p = tensor(1 / (1 + np.exp(-np.array(logit))))
    close(
        amortized_ipo(tensor(a), tensor(b), tensor(logit), beta=beta),
        ipo(tensor(a), tensor(b), beta=beta, preference=p),
    )


@for_all(ratios, ratios, betas, st.lists(st.floats(-6, 6), min_size=B, max_size=B))
def test_without_its_half_the_target_of_amortized_ipo_is_the_preference_itself(
    a: list, b: list, beta: float, logit: list
) -> None:
    target = 1 / (1 + np.exp(-np.array(logit)))
    wanted = (beta * (np.array(a) - np.array(b)) - target) ** 2
    close(amortized_ipo(tensor(a), tensor(b), tensor(logit), beta=beta, centre=0.0), wanted)


def test_amortized_ipo_moves_the_policy_and_not_the_preference() -> None:
    a, b, logit = (tensor(values).requires_grad_(True) for values in ([0.3, -1.0], [0.0, 0.5], [2.0, -0.1]))
    amortized_ipo(a, b, logit, beta=0.5).sum().backward()
    assert logit.grad is None
    assert (a.grad != 0).all()
    close(a.grad, -b.grad)


@for_all(ratios, ratios, betas, st.lists(st.floats(-6, 6), min_size=B, max_size=B))
def test_without_stop_gradient_the_preference_is_pulled_towards_the_margin(
    a: list, b: list, beta: float, logit: list
) -> None:
    z = tensor(logit).requires_grad_(True)
    amortized_ipo(tensor(a), tensor(b), z, beta=beta, stop_gradient=False).sum().backward()
    t = 1 / (1 + np.exp(-np.array(logit)))
    gap = beta * (np.array(a) - np.array(b)) - (t - 1 / 2)
    close(z.grad, -2 * gap * t * (1 - t), 1e-8)


# --- label noise -----------------------------------------------------------------------------------------------------


@for_all(ratios, ratios, betas, rates)
def test_smoothed_dpo_is_the_conservative_loss(w: list, l: list, beta: float, rate: float) -> None:  # noqa: E741
    w, l = tensor(w), tensor(l)  # noqa: E741
    wanted = (1 - rate) * dpo(w, l, beta=beta) + rate * dpo(l, w, beta=beta)
    close(dpo(w, l, beta=beta, preference=smooth(1.0, rate)), wanted)


@for_all(st.floats(0.01, 0.45), betas)
def test_smoothed_dpo_rests_where_sigma_of_the_margin_is_one_minus_the_rate(rate: float, beta: float) -> None:
    h = tensor([math.log((1 - rate) / rate)])
    close(slope(dpo_of, h, tensor([smooth(1.0, rate)]), beta), [0.0])


@for_all(ratios, ratios, betas, st.floats(0, 0.4))
def test_unbiased_dpo_is_the_robust_loss(w: list, l: list, beta: float, rate: float) -> None:  # noqa: E741
    w, l = tensor(w), tensor(l)  # noqa: E741
    wanted = ((1 - rate) * dpo(w, l, beta=beta) - rate * dpo(l, w, beta=beta)) / (1 - 2 * rate)
    close(dpo(w, l, beta=beta, preference=unbias(1.0, rate)), wanted)


@for_all(ratios, ratios, betas, st.floats(0, 0.4), preferences)
def test_unbiased_dpo_on_flipped_labels_is_in_expectation_dpo_on_the_true_ones(
    a: list, b: list, beta: float, rate: float, p: list
) -> None:
    a, b, p = tensor(a), tensor(b), tensor(p)
    kept = dpo(a, b, beta=beta, preference=unbias(p, rate))
    flipped = dpo(a, b, beta=beta, preference=unbias(1 - p, rate))
    close((1 - rate) * kept + rate * flipped, dpo(a, b, beta=beta, preference=p), 1e-8)


@for_all(st.floats(0, 1), rates)
def test_smoothing_is_what_flips_do_to_a_preference_and_unbiasing_undoes_it(p: float, rate: float) -> None:
    assert smooth(p, rate) == pytest.approx((1 - rate) * p + rate * (1 - p))
    assert unbias(smooth(p, rate), rate) == pytest.approx(p)
    close(unbias(smooth(tensor([p]), rate), rate), [p])
    assert smooth(p, 0.0) == unbias(p, 0.0) == p


@for_all(betas, rates)
def test_flips_rescale_the_beta_of_ipo(beta: float, rate: float) -> None:
    assert ipo_target(smooth(1.0, rate), beta=beta) == pytest.approx(ipo_target(1.0, beta=beta / (1 - 2 * rate)))


def test_a_flip_rate_outside_0_to_half_is_refused() -> None:
    for rate in (0.5, 0.7, -0.01, math.nan):
        for change in (smooth, unbias):
            with pytest.raises(ValueError, match=f"{rate} is outside"):
                change(0.8, rate)


# --- SFT -------------------------------------------------------------------------------------------------------------


def test_sft_is_the_weighted_negative_log_likelihood() -> None:
    log_prob = tensor([-3.0, -0.5])
    close(sft(log_prob), [3.0, 0.5])
    close(sft(log_prob, weight=0.4), [1.2, 0.2])
    close(sft(log_prob, weight=tensor([2.0, 3.0])), [6.0, 1.5])


# --- pooling votes on one pair ---------------------------------------------------------------------------------------

votes = st.lists(
    st.builds(
        lambda turned, p, weight: Vote(1, 0, p, weight) if turned else Vote(0, 1, p, weight),
        st.booleans(),
        st.floats(0, 1),
        st.floats(0.01, 9),
    ),
    min_size=1,
    max_size=6,
)


def _total(objective: Callable[..., Tensor], ballot: list[Vote], ratio: Tensor, beta: float) -> Tensor:
    a, b = [vote.a for vote in ballot], [vote.b for vote in ballot]
    p, weight = tensor([vote.p for vote in ballot]), tensor([vote.weight for vote in ballot])
    return (weight * objective(ratio[a], ratio[b], beta=beta, preference=p)).sum()


@for_all(votes, st.floats(-4, 4), betas)
def test_pooled_votes_have_the_same_dpo_loss(ballot: list[Vote], gap: float, beta: float) -> None:
    ratio = tensor([gap, 0.0])
    close(_total(dpo, list(pool(ballot)), ratio, beta), _total(dpo, ballot, ratio, beta))


@for_all(votes, st.floats(-4, 4), betas)
def test_pooled_votes_have_the_same_ipo_gradient(ballot: list[Vote], gap: float, beta: float) -> None:
    ratio = tensor([gap, 0.0]).requires_grad_(True)
    pooled, single = (
        torch.autograd.grad(_total(ipo, kind, ratio, beta), ratio)[0] for kind in (list(pool(ballot)), ballot)
    )
    close(pooled, single)


# --- sampled responses: PPO and RLOO ---------------------------------------------------------------------------------

LENGTHS = (3, 1, 4)
MASK = tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def sampled(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Three arrays `[B, T]` with garbage behind the responses, which must not matter."""
    rng = np.random.default_rng(seed)
    first, second, third = (tensor(rng.normal(size=(3, 4))) for _ in range(3))
    return first, second, third


def test_token_rewards_are_a_kl_penalty_at_each_token_and_the_score_at_the_last() -> None:
    logprob, reference, _ = sampled(0)
    score = tensor([1.0, -2.0, 0.5])
    found = token_rewards(logprob, reference, score.float(), MASK, beta=0.3)
    assert found.dtype == logprob.dtype
    for b, length in enumerate(LENGTHS):
        for t in range(4):
            penalty = -0.3 * float(logprob[b, t] - reference[b, t]) if t < length else 0.0
            assert float(found[b, t]) == pytest.approx(penalty + (float(score[b]) if t == length - 1 else 0))


@for_all(st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_discounted_sums_of_errors(seed: int, gamma: float, lam: float) -> None:
    reward, value, _ = sampled(seed)
    found = gae(reward, value, MASK, gamma=gamma, lam=lam)
    for b, length in enumerate(LENGTHS):
        r, v = reward[b, :length].numpy(), [*value[b, :length].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        wanted = [sum((gamma * lam) ** (u - t) * errors[u] for u in range(t, length)) for t in range(length)]
        close(found[b], wanted + [0.0] * (4 - length))


def test_advantages_at_lambda_1_are_returns_less_values_and_at_0_one_step_errors() -> None:
    reward, value, _ = sampled(1)
    returns, following = reward.clone(), torch.zeros_like(value)
    for b, length in enumerate(LENGTHS):
        returns[b, :length] = reward[b, :length].flip(0).cumsum(0).flip(0)
        following[b, : length - 1] = value[b, 1:length]
    close(gae(reward, value, MASK, lam=1.0), ((returns - value) * MASK).numpy())
    close(gae(reward, value, MASK, lam=0.0), ((reward + following - value) * MASK).numpy())


def test_advantages_take_the_published_gamma_and_lambda_unless_told_otherwise() -> None:
    reward, value, _ = sampled(2)
    close(gae(reward, value, MASK), gae(reward, value, MASK, gamma=1.0, lam=0.95).numpy())


@for_all(st.integers(0, 1000))
def test_whitened_values_have_deviation_1_and_mean_0_or_only_another_scale(seed: int) -> None:
    values = tensor(np.random.default_rng(seed).normal(3, 2, size=20))
    whitened, scaled = whiten(values), whiten(values, shift=False)
    assert float(whitened.mean()) == pytest.approx(0, abs=1e-7)
    assert float(whitened.std()) == pytest.approx(1, abs=1e-6)
    close(scaled, (values / values.std()).numpy(), 1e-6)
    close(whiten(values, shift=True), whitened.numpy())


def test_whitening_leaves_a_single_value_alone_and_survives_equal_ones() -> None:
    close(whiten(tensor([3.0])), [3.0])
    close(whiten(tensor([2.0, 2.0])), [0.0, 0.0])
    close(whiten(tensor([0.0, 2.0])), [-(0.5**0.5), 0.5**0.5], 1e-6)


def test_a_hairs_breadth_of_deviation_is_not_blown_up() -> None:
    """1e-8 keeps rounding from being whitened into signal."""
    lower, upper = whiten(tensor([1.0, 1.0 + 1e-9])).tolist()
    assert -0.1 < lower < 0 < upper < 0.1


@for_all(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(0.05, 0.5))
def test_the_ppo_loss_is_the_worse_of_the_plain_and_the_clipped_one(gaps: list[float], clip: float) -> None:
    old, advantage = tensor([-1.0, -2.0, -0.5, -3.0]), tensor([1.0, -1.0, 2.0, -0.5])
    found = ppo_policy(old + tensor(gaps), old, advantage, clip=clip)
    ratios = [math.exp(gap) for gap in gaps]
    wanted = [
        -min(float(a) * r, float(a) * min(max(r, 1 - clip), 1 + clip)) for a, r in zip(advantage, ratios, strict=True)
    ]
    close(found, wanted)
    close(ppo_policy(old + tensor(gaps), old, advantage), ppo_policy(old + tensor(gaps), old, advantage, clip=0.2))


def test_at_ratio_1_ppo_has_the_policy_gradient_and_beyond_the_clip_none() -> None:
    advantage = tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    old = tensor([-1.0, -1.0, -1.0, -1.0, -1.0])
    new = (old + tensor([0.0, 0.0, 0.5, -0.5, -0.5])).requires_grad_(True)
    slope_of = torch.autograd.grad(ppo_policy(new, old, advantage).sum(), new)[0]
    close(slope_of, [-1.0, 1.0, 0.0, 0.0, -math.exp(-0.5)])


@for_all(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(0.05, 0.5))
def test_the_critics_loss_is_the_worse_of_the_plain_and_the_clipped_one(moves: list[float], clip: float) -> None:
    old, target = tensor([0.3, -0.4, 1.0]), tensor([0.35, -1.0, 0.0])
    found = ppo_value(old + tensor(moves), old, target, clip=clip)
    for value, o, move, r in zip(found, old, moves, target, strict=True):
        near = float(o) + min(max(move, -clip), clip)
        wanted = max((float(o) + move - float(r)) ** 2, (near - float(r)) ** 2) / 2
        assert float(value) == pytest.approx(wanted)
    close(ppo_value(old + tensor(moves), old, target), ppo_value(old + tensor(moves), old, target, clip=0.2).numpy())


def test_beta_follows_a_target_kl_by_at_most_a_fifth_of_the_samples_over_the_horizon() -> None:
    assert adapted_beta(0.1, 6.0, target=6.0, samples=100) == pytest.approx(0.1)
    assert adapted_beta(0.1, 6.6, target=6.0, samples=100) == pytest.approx(0.1 * (1 + 0.1 * 100 / 10_000))
    assert adapted_beta(0.1, 60.0, target=6.0, samples=100) == pytest.approx(0.1 * (1 + 0.2 * 100 / 10_000), rel=1e-9)
    assert adapted_beta(0.2, 0.0, target=6.0, samples=50, horizon=500.0) == pytest.approx(0.2 * (1 - 0.2 * 50 / 500))


@for_all(st.integers(0, 1000), st.integers(2, 5))
def test_leave_one_out_compares_each_response_with_the_mean_of_the_others(seed: int, responses: int) -> None:
    rewards = np.random.default_rng(seed).normal(size=(3, responses))
    wanted = [[row[i] - np.delete(row, i).mean() for i in range(responses)] for row in rewards]
    found = leave_one_out(tensor(rewards))
    close(found, wanted)
    close(found.sum(1), [0.0, 0.0, 0.0])


def test_leave_one_out_needs_two_responses() -> None:
    with pytest.raises(ValueError, match="at least two"):
        leave_one_out(tensor([[1.0], [2.0]]))
    leave_one_out(tensor([[1.0, 2.0]]))


def test_the_rloo_loss_is_the_policy_gradient_of_a_constant_advantage() -> None:
    logprob, advantage = tensor([-1.0, -2.0]).requires_grad_(True), tensor([0.5, -3.0]).requires_grad_(True)
    loss = rloo(logprob, advantage)
    close(loss, [0.5, -6.0])
    loss.sum().backward()
    close(logprob.grad, [-0.5, 3.0])  # type: ignore[arg-type]
    assert advantage.grad is None


# --- the tests themselves --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_any_wrong_sign_factor_or_constant_in_the_objectives_fails_a_test_above() -> None:
    from objectives.mutate_objectives import survivors

    this: ModuleType = sys.modules[__name__]
    assert survivors(this) == []
