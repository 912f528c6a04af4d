"""Compiled blocks give the plain ones' gradients, and change nothing where nothing is differentiated."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import PowerCut, assert_equal_runs, run, watch_steps
from tiny import WORDS, tiny_llama, tiny_model, tiny_tokenizer
from torch import Tensor

from preftune.data.branches import branch_layout
from preftune.data.tokens import TokenBallot, text_format
from preftune.errors import UserError
from preftune.model.attention import use_branch_attention
from preftune.model.blocks import compile_blocks, plain_blocks
from preftune.model.loading import Base
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import start_policy
from preftune.training.settings import make_settings

# the compiler's own modules use what Python and PyTorch have deprecated
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")

SHORT = [TokenBallot((3, 4, 5), ((6, 7), (8, 9, 10)), ())]
LONG = [TokenBallot(tuple(range(3, 13)) * 4, ((6, 7, 3, 4, 5), (8, 9, 10)), ()), *SHORT, *SHORT]


def base_of(architecture: str) -> Base:
    words = [f"w{i}" for i in range(12)]
    model = tiny_model(architecture, 15)
    assert use_branch_attention(model)
    return Base(model, text_format(tiny_tokenizer(words)), architecture, "")


def gradients(policy: Any, ballots: list[TokenBallot]) -> dict[str, Tensor]:
    response_logprobs(policy.model, branch_layout(ballots)).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in policy.trainable().items()}
    policy.model.zero_grad(set_to_none=True)
    return found


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "lora"), [("llama", 0), ("llama", 4), ("gemma3", 0)])
def test_compiled_gradients_are_the_plain_ones(architecture: str, lora: int) -> None:
    torch._dynamo.reset()
    policy = start_policy(base_of(architecture), lora=lora, seed=0)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    for ballots in (SHORT, LONG):
        plain = gradients(policy, ballots)
        compile_blocks(policy.model)
        compiled = gradients(policy, ballots)
        plain_blocks(policy.model)
        scale = max(float(value.abs().max()) for value in plain.values())
        for name, value in plain.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5 * scale)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs + 3  # or nothing was compared


@needs_compiler
@pytest.mark.slow
def test_other_lengths_and_other_blocks_share_the_compiled_code() -> None:
    """Compiled at every new length, a run would never be over its first steps."""
    torch._dynamo.reset()
    policy = start_policy(base_of("llama"), lora=0, seed=0, compiled=True)
    gradients(policy, LONG)
    counted = torch._dynamo.utils.counters["stats"]
    graphs = counted["unique_graphs"]
    assert graphs > 0
    gradients(policy, LONG * 2)
    gradients(policy, SHORT)
    gradients(start_policy(base_of("llama"), lora=0, seed=1, compiled=True), LONG)
    assert counted["unique_graphs"] == graphs


@needs_compiler
def test_scores_are_bitwise_the_plain_ones_and_a_copy_has_its_own_weights() -> None:
    base = base_of("llama")
    with torch.no_grad():
        plain = response_logprobs(base.model, branch_layout(LONG))
        compile_blocks(base.model)
        assert torch.equal(response_logprobs(base.model, branch_layout(LONG)), plain)
        other = copy.deepcopy(base.model)
        for parameter in other.get_decoder().layers.parameters():
            parameter.zero_()
        assert torch.equal(response_logprobs(base.model, branch_layout(LONG)), plain)
        plain_blocks(other)
        zeroed = response_logprobs(other, branch_layout(LONG))
        compile_blocks(other)
        assert torch.equal(response_logprobs(other, branch_layout(LONG)), zeroed)


@needs_compiler
def test_a_closed_adapter_leaves_plain_blocks_behind() -> None:
    base = base_of("llama")
    start_policy(base, lora=2, seed=0, compiled=True).close()
    assert not any("forward" in vars(module) for module in base.model.modules())


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_that_was_cut_short_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(tmp_path / "model", WORDS)
    run(model, tmp_path / "whole", compile=True, save_every=0)

    def cut(step: int) -> None:
        if step == 5:
            raise PowerCut

    with monkeypatch.context() as patch:
        watch_steps(patch, after=cut)
        with pytest.raises(PowerCut):
            run(model, tmp_path / "cut", compile=True, save_every=0)
    run(model, tmp_path / "cut", compile=True, save_every=0, resume=True)
    assert_equal_runs(tmp_path / "cut", tmp_path / "whole")


def test_blocks_that_are_computed_again_would_not_be_compiled() -> None:
    with pytest.raises(UserError, match="--compile: has no effect with --grad-checkpointing; leave one of them out"):
        make_settings({"compile": True, "grad_checkpointing": True})


def test_without_a_compiler_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(tmp_path / "model", WORDS)

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand a page of advice")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(UserError, match=r"--compile: .*no working C\+\+ compiler found\); install g\+\+, or leave it"):
        run(model, tmp_path / "out", compile=True, save_every=0)
    assert not (tmp_path / "out").exists()
