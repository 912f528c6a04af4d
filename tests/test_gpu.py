"""What holds on a GPU and nowhere else: where weights wait, and what nobody waits for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import tiny_llama

from preftune.data.ballots import Vote
from preftune.data.branches import sent
from preftune.data.tokens import TokenBallot, TokenSet
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import start_policy
from preftune.model.workbench import Workbench, open_workbench
from preftune.training.arms import make_recipe
from preftune.training.preparing import prepare_training
from preftune.training.run import loss_of_votes, reference_values

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")

BALLOTS = (
    TokenBallot((3, 4, 5, 6), ((6, 7), (8, 9, 10)), (Vote(0, 1, 1.0, 1.0),)),
    TokenBallot(
        tuple(range(3, 13)) * 4, ((6, 7, 3, 4, 5), (8, 9, 10), (4,)), (Vote(0, 1, 1.0, 1.0), Vote(2, 1, 0.3, 2.0))
    ),
)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    model = tiny_llama(tmp_path / "model", [f"w{i}" for i in range(12)])
    return open_workbench(model, precision="bf16", device="cuda")


def places(bench: Workbench) -> set[str]:
    return {parameter.device.type for parameter in bench.base.model.parameters()}


def test_the_base_waits_in_main_memory_beside_a_policy_of_all_weights(bench: Workbench) -> None:
    assert bench.base.device == torch.device("cuda:0")
    batch = bench.layout.lay_out(BALLOTS).to(bench.base.device)

    def logprobs() -> torch.Tensor:
        with bench.reference.alone() as model:
            assert places(bench) == {"cuda"}
            return response_logprobs(model, batch, precision="bf16")

    before = logprobs()
    policy = start_policy(bench.base, lora=0, seed=0)
    assert places(bench) == {"cpu"}
    assert {parameter.device.type for parameter in policy.model.parameters()} == {"cuda"}
    assert torch.equal(logprobs(), before)
    assert places(bench) == {"cpu"}
    with bench.reference.at_hand():
        assert torch.equal(logprobs(), before)
        assert places(bench) == {"cuda"}
    assert places(bench) == {"cpu"}
    policy.close()
    adapted = start_policy(bench.base, lora=2, seed=0)
    assert places(bench) == {"cuda"}
    assert torch.equal(logprobs(), before)
    adapted.close()
    again = start_policy(bench.base, lora=0, seed=0)
    assert torch.equal(response_logprobs(again.model, batch, precision="bf16"), before)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("lora", [0, 2])
def test_a_micro_batch_waits_for_nothing(bench: Workbench, lora: int) -> None:
    recipe = make_recipe("dpo", {"batch_size": 2, "steps": 1, "precision": "bf16", "device": "cuda"})
    training = prepare_training(recipe, TokenSet(BALLOTS, {}, {}), bench.layout, 0)
    reference = reference_values(bench, training).logprobs
    policy = start_policy(bench.base, lora=lora, seed=0)
    loss = partial(loss_of_votes, policy, bench, training, reference, 0.1)
    loss((0, 1)).loss.backward()  # what is made once is made
    try:
        torch.cuda.set_sync_debug_mode("error")
        terms = loss((0, 1))
        terms.loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert float(terms.loss.detach()) > 0
    assert all(torch.is_tensor(value) and value.is_cuda for value in terms.sums.values())


def test_what_is_sent_is_what_was_there() -> None:
    for number in range(20):  # the memory that it is sent from is used again
        there = torch.arange(number, number + 1000)
        assert torch.equal(sent(there, torch.device("cuda:0")).cpu(), there)
