"""Our LoRA layer is peft's, computed from fewer products."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor, nn

from preftune.data.tokens import text_format
from preftune.model.adapters import AdaptedLinear
from preftune.model.loading import Base
from preftune.model.policy import active_adapter, start_policy


def tiny_base() -> Base:
    words = [f"w{i}" for i in range(12)]
    return Base(tiny_model("llama", 16), text_format(tiny_tokenizer(words)), "llama", "")


def both_layers(inputs: int, outputs: int, *, bias: bool, rank: int, seed: int) -> tuple[Any, Any]:
    """Our layer and peft's on the same random weights, in float64."""
    layers = []
    for kind in (AdaptedLinear, Linear):
        torch.manual_seed(seed)
        base = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
        layer = kind(base, "default", config=LoraConfig(r=rank, lora_alpha=3), r=rank, lora_alpha=3)
        nn.init.normal_(layer.lora_B["default"].weight)
        layers.append(layer.double())
    return layers[0], layers[1]


def value_and_gradients(layer: Any, x: Tensor) -> list[Tensor]:
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    factors = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    wanted = factors + ([x] if x.requires_grad else [])
    return [y.detach(), *torch.autograd.grad((weights * y).sum(), wanted)]


@given(
    shape=st.sampled_from([(5,), (1, 1), (1, 7), (2, 3)]),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)),
    bias=st.booleans(),
    needs_input=st.booleans(),
    seed=st.integers(0, 99),
)
def test_value_and_gradients_are_those_of_peft(
    shape: tuple[int, ...], sizes: tuple[int, int, int], bias: bool, needs_input: bool, seed: int
) -> None:
    inputs, outputs, rank = sizes
    ours, theirs = both_layers(inputs, outputs, bias=bias, rank=rank, seed=seed)
    x = torch.randn(*shape, inputs, dtype=torch.float64, requires_grad=needs_input)
    found, wanted = value_and_gradients(ours, x), value_and_gradients(theirs, x)
    assert len(found) == 3 + needs_input
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-12)


def test_under_bf16_the_product_is_bf16_and_the_factors_keep_fp32_gradients() -> None:
    ours, theirs = (layer.float() for layer in both_layers(16, 12, bias=True, rank=2, seed=0))
    x = torch.randn(3, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, wanted = value_and_gradients(ours, x), value_and_gradients(theirs, x)
    assert [value.dtype for value in found] == [torch.bfloat16, *3 * [torch.float32]]
    for a, b in zip(found, wanted, strict=True):
        assert float((a.float() - b.float()).norm()) < 0.02 * float(b.float().norm())


def test_a_new_adapter_changes_nothing_bit_for_bit() -> None:
    base = tiny_base()
    ids = torch.arange(8)[None] + 3
    before = base.model(ids).logits
    policy = start_policy(base, lora=4, seed=0)
    assert any(isinstance(module, AdaptedLinear) for module in policy.model.modules())
    assert torch.equal(policy.model(ids).logits, before)


def test_only_the_active_adapter_acts_and_none_when_switched_off() -> None:
    ours, theirs = both_layers(5, 4, bias=False, rank=2, seed=0)
    x = torch.randn(3, 5, dtype=torch.float64)
    for layer in (ours, theirs):
        torch.manual_seed(1)
        layer.update_layer("other", 2, lora_alpha=2, config=LoraConfig(r=2))
        nn.init.normal_(layer.lora_B["other"].weight)
        layer.double()
    for name in ("default", "other", None, "absent"):
        with active_adapter(ours, name), active_adapter(theirs, name):
            assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    ours._active_adapter = theirs._active_adapter = ["default", "other"]
    assert torch.allclose(ours(x), theirs(x), atol=1e-12), "both at once: peft's own way"


def test_a_weight_that_learns_too_gets_its_gradient() -> None:
    ours, _ = both_layers(5, 4, bias=False, rank=2, seed=0)
    ours.get_base_layer().weight.requires_grad_(True)
    ours(torch.randn(3, 5, dtype=torch.float64)).sum().backward()
    assert float(ours.get_base_layer().weight.grad.abs().max()) > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks by an old name
def test_peft_loads_the_saved_adapter_as_its_own(tmp_path: Path) -> None:
    policy = start_policy(tiny_base(), lora=4, seed=0)
    assert policy.adapter is not None
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    ids = torch.arange(8)[None] + 3
    policy.adapter.save_pretrained(str(tmp_path))
    plain = PeftModel.from_pretrained(tiny_base().model, str(tmp_path))
    assert not any(isinstance(module, AdaptedLinear) for module in plain.modules())
    assert torch.allclose(plain(ids).logits, policy.model(ids).logits, atol=1e-5)
