"""The training loop: the order of the data, and that no way of cutting a step into pieces changes it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from tiny import tiny_llama, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from preftune.data.ballots import Ballot, Vote
from preftune.data.tokens import TokenBallot
from preftune.errors import NotFinite, UserError
from preftune.methods import AMORTIZED_IPO, DPO, IPO, SFT, Method, Scored, Terms
from preftune.model.attention import use_branch_attention
from preftune.model.layout import Layout
from preftune.model.logprobs import response_logprobs
from preftune.study.single import train
from preftune.training.loop import Step, linear_schedule, plan_steps, run_loop

# --- the plan --------------------------------------------------------------------------------------------------------

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def indices(step: Step) -> list[int]:
    return list(chain(*step.micro_batches))


@tried(50)
@given(sizes, st.integers(1, 40), st.integers(1, 60), st.integers(0, 3), st.integers(1, 3))
def test_every_epoch_sees_every_ballot_once_in_full_batches_and_a_smaller_last_one(
    sizes: list[int], batch_size: int, micro_tokens: int, seed: int, epochs: int
) -> None:
    masses = [1 / (1 + i + size) for i, size in enumerate(sizes)]
    plan = plan_steps(sizes, masses, batch_size=batch_size, micro_tokens=micro_tokens, seed=seed, epochs=epochs)
    per_epoch = math.ceil(len(sizes) / batch_size)
    assert [step.number for step in plan] == list(range(1, epochs * per_epoch + 1))
    for epoch in range(epochs):
        steps = plan[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(chain(*map(indices, steps))) == list(range(len(sizes)))
        assert all(len(indices(step)) == min(batch_size, len(sizes)) for step in steps[:-1])
    for step in plan:
        assert step.mass == pytest.approx(sum(masses[i] for i in indices(step)))
        assert all(len(micro) == 1 or sum(sizes[i] for i in micro) <= micro_tokens for micro in step.micro_batches)


def order(seed: int, **options: object) -> list[list[int]]:
    plan = plan_steps([5] * 20, [1.0] * 20, **{"batch_size": 6, "micro_tokens": 12, "seed": seed, **options})
    return [sorted(indices(step)) for step in plan]


def test_the_plan_depends_on_the_seed_and_every_epoch_is_a_new_shuffle() -> None:
    assert order(0, epochs=2) == order(0, epochs=2)
    assert order(0) != order(1)
    first, second = order(0, epochs=2)[:4], order(0, epochs=2)[4:]
    assert first != second


def test_steps_go_over_epochs_and_a_longer_plan_starts_like_a_shorter_one() -> None:
    assert len(order(0, epochs=1, steps=11)) == 11
    assert order(0, steps=11)[:3] == order(0, epochs=9, steps=3)
    assert len(order(0, epochs=1.5)) == 6


def test_a_step_takes_no_more_passes_than_its_memory_asks_for() -> None:
    passes = {tokens: passes_of(tokens) for tokens in (1, 5, 10, 15, 30, 999)}
    assert passes == {1: [6, 6, 6, 2], 5: [6, 6, 6, 2], 10: [3, 3, 3, 1], 15: [2, 2, 2, 1], 30: [1] * 4, 999: [1] * 4}


def passes_of(micro_tokens: int) -> list[int]:
    plan = plan_steps([5] * 20, [1.0] * 20, batch_size=6, micro_tokens=micro_tokens, seed=0)
    return [len(step.micro_batches) for step in plan]


def test_a_batch_larger_than_the_data_is_all_of_the_data() -> None:
    assert order(0, batch_size=999) == [list(range(20))]


# --- the learning rate -----------------------------------------------------------------------------------------------


def rates(warmup: float, steps: int, done: int = 0) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = linear_schedule(optimizer, warmup=warmup, steps=steps, done=done)
    found = []
    for _ in range(steps - done):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_to_its_peak_and_falls_in_a_straight_line_towards_0() -> None:
    assert rates(0.4, 10) == pytest.approx(
        [2 * f for f in (1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)]
    )
    assert rates(0.0, 4) == pytest.approx([2, 2, 4 / 3, 2 / 3])
    assert rates(1.0, 4) == pytest.approx([0.5, 1, 1.5, 2])


@given(st.floats(0, 1), st.integers(1, 40))
def test_no_step_is_wasted_on_a_rate_of_0_and_the_peak_is_reached(warmup: float, steps: int) -> None:
    found = rates(warmup, steps)
    assert min(found) > 0
    assert max(found) == 2.0
    turns = [later < earlier for earlier, later in pairwise(found)]
    assert turns == sorted(turns)


@given(st.integers(0, 12))
def test_a_schedule_that_goes_on_after_done_steps_is_the_rest_of_the_whole_one(done: int) -> None:
    assert rates(0.3, 12, done) == rates(0.3, 12)[done:]


# --- one gradient, however the step is cut ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = tiny_model("llama", 40)
    use_branch_attention(model)
    return model


def random_ids(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 40, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def random_ballot(seed: int, responses: int = 2) -> TokenBallot:
    """A ballot with lengths, preferences and weights that differ from one seed to the next, votes on every pair."""
    ids = tuple(random_ids(1 + (3 * seed + 5 * k) % 7, 100 * seed + k) for k in range(responses))
    pairs = [(a, b) for a in range(responses) for b in range(a)]
    votes = tuple(Vote(a, b, (seed + 3 * a + b) % 10 / 9, 0.5 + (seed + a * b) % 3) for a, b in pairs)
    return TokenBallot(random_ids(3 + seed % 4, 100 * seed + 99), ids, votes)


EIGHT = [random_ballot(seed) for seed in range(8)]


def gradient(
    model: PreTrainedModel,
    method: Method,
    ballots: Sequence[TokenBallot],
    *,
    pieces: int = 1,
    layout: str = "branch",
    reduction: str = "sum",
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """The gradient of one optimiser step of the real loop, read off plain gradient descent, and the step's metrics."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    if method is AMORTIZED_IPO:  # what a preference would say of each vote: anything that belongs to it
        ballots = [replace(ballot, logits=tuple(3 * vote.p - 1 for vote in ballot.votes)) for ballot in ballots]
    prepared = [method.prepare(ballot, Counter()) for ballot in ballots]
    shape = Layout(layout, "test")
    each = len(prepared) // pieces
    cut = tuple(tuple(range(start, start + each)) for start in range(0, len(prepared), each))
    step = Step(1, cut, sum(map(method.mass, prepared)))

    def loss_of(indices: Sequence[int]) -> Terms:
        batch = shape.lay_out([prepared[i] for i in indices])
        logprob = response_logprobs(model, batch)
        reference = -batch.lengths_B().sqrt()  # anything that belongs to the response alone
        scored = Scored([prepared[i] for i in indices], logprob, reference, batch.lengths_B())
        return method.loss(scored, 0.2, method.options(**({} if method is SFT else {"reduction": reduction})))

    metrics = descend(model, [step], loss_of)
    moved = {name: start[name] - value for name, value in model.state_dict().items()}
    model.load_state_dict(start)
    return moved, metrics[0]


def descend(
    model: nn.Module,
    plan: Sequence[Step],
    loss_of: Callable[[Sequence[int]], Terms],
    *,
    clip_norm: float = math.inf,
    decay: float = 1.0,
) -> list[Mapping[str, float]]:
    """Run the loop with plain gradient descent at rate 1, times `decay` each step; returns the metrics of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    log: list[Mapping[str, float]] = []
    run_loop(
        plan,
        loss_of,
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: decay**number),
        parameters=list(model.parameters()),
        clip_norm=clip_norm,
        tokens_of=len,
        after_step=lambda step, metrics: log.append(metrics),
    )
    return log


def assert_same(
    found: tuple[dict[str, Tensor], Mapping[str, float]], wanted: tuple[dict[str, Tensor], Mapping[str, float]]
) -> None:
    """Gradients and what is reported agree up to rounding; lengths may be averaged in another order."""
    scale = max(float(value.abs().max()) for value in wanted[0].values())
    assert scale > 1e-3
    for name, value in wanted[0].items():
        assert float((found[0][name] - value).abs().max()) <= 2e-5 * scale, name
    reported = set(wanted[1]) - {"tokens", "tokens_per_second"}
    assert {k: found[1][k] for k in reported} == pytest.approx({k: wanted[1][k] for k in reported}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("layout", ["branch", "padded"])
@pytest.mark.parametrize("method", [DPO, IPO, AMORTIZED_IPO, SFT], ids=lambda method: method.name)
def test_a_step_in_four_micro_batches_of_two_or_in_eight_of_one_is_the_step_in_one(
    method: Method, layout: str, model: PreTrainedModel
) -> None:
    whole = gradient(model, method, EIGHT, layout=layout)
    assert_same(gradient(model, method, EIGHT, pieces=4, layout=layout), whole)
    assert_same(gradient(model, method, EIGHT, pieces=8, layout=layout), whole)


@pytest.mark.parametrize("method", [DPO, IPO, AMORTIZED_IPO], ids=lambda method: method.name)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_ballot_of_four_responses_is_its_six_votes_as_pairs(
    method: Method, reduction: str, model: PreTrainedModel
) -> None:
    ballot = random_ballot(3, responses=4)
    pairs = [
        replace(ballot, responses=(ballot.responses[v.a], ballot.responses[v.b]), votes=(Vote(0, 1, v.p, v.weight),))
        for v in ballot.votes
    ]
    assert len(pairs) == 6
    assert_same(
        gradient(model, method, [ballot], reduction=reduction), gradient(model, method, pairs, reduction=reduction)
    )


@pytest.mark.parametrize("method", [DPO, IPO, AMORTIZED_IPO, SFT], ids=lambda method: method.name)
def test_a_vote_of_weight_three_is_that_vote_three_times(method: Method, model: PreTrainedModel) -> None:
    single = replace(EIGHT[3], votes=(Vote(0, 1, 0.7),))
    heavy = replace(single, votes=(Vote(0, 1, 0.7, 3.0),))
    in_one_ballot = replace(single, votes=single.votes * 3)
    wanted = gradient(model, method, [heavy, EIGHT[4]])
    assert_same(gradient(model, method, [single, single, EIGHT[4], single]), wanted)
    assert_same(gradient(model, method, [EIGHT[4], in_one_ballot]), wanted)


WORDS = [f"w{i}" for i in range(20)]


def test_memory_per_pass_changes_nothing_that_training_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTUNE_CACHE", str(tmp_path / "cache"))
    folder = tiny_llama(tmp_path / "model", WORDS)
    ballots = [
        Ballot(f"w{n} w1", (f"w{n + 3} w2 w4", f"w{n + 5}", "w6 w6"), (Vote(0, 1, n / 8, 1 + n % 3), Vote(2, 0, 1)))
        for n in range(8)
    ]
    shared = {"model": folder, "beta": 0.2, "batch_size": 8, "steps": 4, "lr": 1e-3, "device": "cpu"}

    def steps(micro_tokens: int) -> list[dict[str, float]]:
        run = train("ipo", ballots, out=tmp_path / str(micro_tokens), micro_tokens=micro_tokens, **shared)
        return [{name: value for name, value in step.items() if name != "tokens_per_second"} for step in run.metrics]

    whole = steps(9999)
    for micro_tokens in (24, 1):
        for found, wanted in zip(steps(micro_tokens), whole, strict=True):
            assert found == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert whole[-1]["loss"] < whole[0]["loss"]


# --- one step --------------------------------------------------------------------------------------------------------


def pull(parameter: nn.Parameter, force: Sequence[float]) -> Callable[[Sequence[int]], Terms]:
    return lambda indices: Terms((parameter * torch.tensor(force)).sum() * len(indices), {"weight": len(indices)})


STEP = Step(1, ((0,), (1, 2)), 3.0)


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2))


def test_a_long_gradient_is_clipped_to_the_norm_and_reported_as_it_was() -> None:
    point = Point()
    (metrics,) = descend(point, [STEP], pull(point.at, (3.0, -4.0)), clip_norm=0.5)
    assert metrics["grad_norm"] == pytest.approx(5.0)
    assert point.at.tolist() == pytest.approx([-0.3, 0.4], rel=1e-4)


def test_a_short_gradient_is_left_alone_and_none_is_carried_to_the_next_step() -> None:
    point = Point()
    twice = [STEP, replace(STEP, number=2)]
    metrics = descend(point, twice, pull(point.at, (3.0, -4.0)), clip_norm=6.0, decay=0.5)
    assert [m["grad_norm"] for m in metrics] == pytest.approx([5.0, 5.0])
    assert [m["lr"] for m in metrics] == [1.0, 0.5]
    assert point.at.tolist() == pytest.approx([-4.5, 6.0])


@pytest.mark.parametrize("force", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_before_it_touches_the_weights(force: float) -> None:
    point = Point()
    with pytest.raises(UserError, match=r"step 1 \(ballots 0, 1, 2 .*is not finite"):
        descend(point, [STEP], pull(point.at, (force, 1.0)))
    assert point.at.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_though_its_gradient_is(bad: float) -> None:
    point = Point()
    with pytest.raises(NotFinite, match=r"step 1 \(ballots 0, 1, 2 .*the loss is not finite"):
        descend(point, [STEP], lambda indices: Terms(point.at.sum() + bad, {"weight": 1.0}))
    assert point.at.tolist() == [0.0, 0.0]


def test_the_metrics_of_a_step_are_its_means() -> None:
    point = Point()
    (metrics,) = descend(
        point, [STEP], lambda indices: Terms(point.at.sum() + len(indices), {"weight": 2.0, "margin": len(indices)})
    )
    assert metrics["loss"] == pytest.approx(3 / 3)
    assert metrics["margin"] == pytest.approx(3 / 4)
    assert metrics["lr"] == 1.0
    assert metrics["tokens"] == 3
    assert metrics["tokens_per_second"] > 0
