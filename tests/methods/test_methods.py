"""What a method trains on and how log-probs become its loss: against the formulas written out with numpy."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import tried

from preftune.data.ballots import Vote
from preftune.data.tokens import TokenBallot
from preftune.methods import AMORTIZED_IPO, DPO, GPO, IPO, SFT, Method, Scored, Terms

BETA = 0.3


def ballot(lengths: Sequence[int], votes: Sequence[Vote]) -> TokenBallot:
    """A ballot whose k-th response is `length` times the token k."""
    return TokenBallot((9, 9), tuple((k,) * length for k, length in enumerate(lengths)), tuple(votes))


def terms(
    method: Method,
    ballots: Sequence[TokenBallot],
    policy: Sequence[float],
    reference: Sequence[float],
    **options: object,
) -> Terms:
    lengths = [len(response) for one in ballots for response in one.responses]
    scored = Scored(ballots, *(torch.tensor(values, dtype=torch.float64) for values in (policy, reference, lengths)))
    return method.loss(scored, BETA, method.options(**options))


@st.composite
def token_logprobs(draw: st.DrawFn) -> tuple[list[float], list[float]]:
    """Log-probs of the tokens of one response, under the policy and under the reference."""
    values = st.floats(-6, 0)
    length = draw(st.integers(1, 5))
    return draw(st.lists(values, min_size=length, max_size=length)), draw(
        st.lists(values, min_size=length, max_size=length)
    )


@tried(30)
@given(token_logprobs(), token_logprobs())
def test_ipo_is_beta_squared_times_the_papers_form_with_sum_and_trls_with_mean(
    chosen: tuple[list[float], list[float]], rejected: tuple[list[float], list[float]]
) -> None:
    one = ballot([len(chosen[0]), len(rejected[0])], [Vote(0, 1, 1)])
    policy, reference = ([sum(chosen[i]), sum(rejected[i])] for i in (0, 1))
    paper = ((policy[0] - policy[1]) - (reference[0] - reference[1]) - 1 / (2 * BETA)) ** 2
    means = [[np.mean(side[i]) for side in (chosen, rejected)] for i in (0, 1)]
    trl = ((means[0][0] - means[0][1]) - (means[1][0] - means[1][1]) - 1 / (2 * BETA)) ** 2
    assert float(terms(IPO, [one], policy, reference).loss) == pytest.approx(BETA**2 * paper)
    assert float(terms(IPO, [one], policy, reference, reduction="mean").loss) == pytest.approx(BETA**2 * trl)


TWO = (
    ballot([2, 3, 1], [Vote(0, 1, 0.8, 2.0), Vote(2, 1, 0.0, 0.5)]),
    ballot([4, 1], [Vote(0, 1, 0.5, 3.0)]),
)
POLICY, REFERENCE = [-5.0, -4.0, -3.0, -2.0, -1.5], [-4.0, -5.5, -3.5, -4.0, -1.0]
RATIOS = np.array([-1.0, 1.5, 0.5, 2.0, -0.5])


@pytest.mark.parametrize(("smoothing", "flips"), [(0, 0), (0.1, 0), (0, 0.2)])
def test_dpo_is_the_weighted_sum_over_votes_of_the_likelihood_under_label_noise(smoothing: float, flips: float) -> None:
    wanted = 0.0
    for h, p, weight in ((-2.5 * BETA, 0.8, 2.0), (-1.0 * BETA, 0.0, 0.5), (2.5 * BETA, 0.5, 3.0)):
        p = (1 - smoothing) * p + smoothing * (1 - p)
        p = (p - flips) / (1 - 2 * flips)
        wanted += weight * (p * math.log1p(math.exp(-h)) + (1 - p) * math.log1p(math.exp(h)))
    found = terms(DPO, TWO, POLICY, REFERENCE, label_smoothing=smoothing, flip_rate=flips)
    assert float(found.loss) == pytest.approx(wanted)
    assert DPO.mass(TWO[0]) + DPO.mass(TWO[1]) == found.sums["weight"] == 5.5


@pytest.mark.parametrize("method", [DPO, IPO])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_telling_every_vote_from_the_other_side_changes_nothing(method: Method, reduction: str) -> None:
    turned = [replace(one, votes=tuple(vote.swap() for vote in one.votes)) for one in TWO]
    plain, swapped = (terms(method, ballots, POLICY, REFERENCE, reduction=reduction) for ballots in (TWO, turned))
    assert float(swapped.loss) == pytest.approx(float(plain.loss))
    assert swapped.sums == pytest.approx(plain.sums)


def test_the_report_is_seen_from_the_preferred_side_weighted_by_votes_with_ties_counted_half() -> None:
    sums = terms(IPO, TWO, POLICY, REFERENCE).sums
    # votes: 0 ≻ 1 at .8, weighing 2; 1 ≻ 2 at 1, weighing ½; a tie, weighing 3
    assert sums["margin"] == pytest.approx(BETA * (2 * (-1.0 - 1.5) + 0.5 * (1.5 - 0.5) + 3 * 0))
    assert sums["log_ratio_preferred"] == pytest.approx(2 * -1.0 + 0.5 * 1.5 + 3 * 0.75)
    assert sums["log_ratio_other"] == pytest.approx(2 * 1.5 + 0.5 * 0.5 + 3 * 0.75)
    assert sums["accuracy"] == pytest.approx(2 * 0.2 + 0.5 * 1 + 3 * 0.5)
    assert sums["length_preferred"] == pytest.approx(2 * 2 + 0.5 * 3 + 3 * 2.5)
    assert sums["length_other"] == pytest.approx(2 * 3 + 0.5 * 1 + 3 * 2.5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_references_own_loss_is_that_of_log_ratios_of_zero(reduction: str) -> None:
    for method in (DPO, GPO, IPO, AMORTIZED_IPO):
        told = [replace(one, logits=tuple(0.3 * i for i, _ in enumerate(one.votes))) for one in TWO]
        options = {"reduction": reduction, "label_smoothing": 0.1}
        own = terms(method, told, REFERENCE, REFERENCE, **options)
        moved = terms(method, told, POLICY, REFERENCE, **options).sums["reference_loss"]
        assert moved == pytest.approx(float(own.loss)) and moved == own.sums["reference_loss"]
    targets = [0.9 * 0.8 + 0.1 * 0.2, 0.1, 0.5]
    owed = sum(weight * (p - 0.5) ** 2 for p, weight in zip(targets, (2.0, 0.5, 3.0), strict=True))
    assert terms(IPO, TWO, POLICY, REFERENCE, label_smoothing=0.1).sums["reference_loss"] == pytest.approx(owed)
    assert terms(DPO, TWO, POLICY, REFERENCE).sums["reference_loss"] == pytest.approx(5.5 * math.log(2))


def test_a_policy_that_cannot_tell_the_sides_apart_is_half_right() -> None:
    assert terms(DPO, [TWO[0]], [0.0] * 3, [0.0] * 3).sums["accuracy"] == pytest.approx(2.5 / 2)


@pytest.mark.parametrize("method", [DPO, GPO, IPO])
def test_responses_in_no_vote_are_not_computed_and_counted(method: Method) -> None:
    left_out: Counter[str] = Counter()
    prepared = method.prepare(ballot([1, 2, 3, 4], [Vote(3, 1, 0.7, 2.0)]), left_out)
    assert prepared is not None
    assert prepared.responses == ((1,) * 2, (3,) * 4)
    assert prepared.votes == (Vote(1, 0, 0.7, 2.0),)
    assert sum(left_out.values()) == 2
    assert method.prepare(prepared, left_out) == prepared
    assert sum(left_out.values()) == 2


def test_sft_weighs_a_response_by_what_the_votes_that_prefer_it_give_it() -> None:
    left_out: Counter[str] = Counter()
    votes = [Vote(0, 1, 0.9, 2.0), Vote(2, 0, 0.25), Vote(1, 2, 0.5, 5.0), Vote(3, 1, 1.0, 0.5)]
    prepared = SFT.prepare(ballot([1, 2, 3, 4], votes), left_out)
    assert prepared is not None
    assert prepared.responses == ((0,), (3,) * 4)
    assert prepared.weights == pytest.approx((2 * 0.9 + 0.75, 0.5))
    assert list(left_out.values()) == [1]
    assert SFT.mass(prepared) == pytest.approx(2.55 * 1 + 0.5 * 4)
    assert float(terms(SFT, [prepared], [-3.0, -7.0], [0.0, 0.0]).loss) == pytest.approx(2.55 * 3 + 0.5 * 7)


def test_sft_finds_nothing_in_a_ballot_of_ties() -> None:
    left_out: Counter[str] = Counter()
    assert SFT.prepare(ballot([1, 2], [Vote(0, 1, 0.5), Vote(1, 0, 0.5)]), left_out) is None
    assert sum(left_out.values()) == 2
