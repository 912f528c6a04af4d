"""Log-probs of responses: the shared prompt, the chunked head and the choice of a layout.

The oracle is the bare model under the attention that transformers gives it, one unpadded sequence at a time, its whole
logits in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from tiny import ARCHITECTURES, WINDOW, tiny_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GptOssConfig,
    GraniteConfig,
    Llama4TextConfig,
    MambaConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
)

from preftune.data.branches import branch_layout, padded_layout
from preftune.data.tokens import TokenBallot
from preftune.errors import UserError
from preftune.model import logprobs
from preftune.model.attention import BRANCH_ATTENTION, SHORT_PROMPT, use_branch_attention, use_stock_attention
from preftune.model.layout import Layout, probe_layout
from preftune.model.loading import no_dropout
from preftune.model.logprobs import Head, chunked_comparison, chunked_logprobs, predicting_states, response_logprobs
from preftune.model.policy import checkpoint_activations

VOCAB = 61
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
FEW = {"vocab_size": VOCAB, "hidden_size": 32, "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 0}
OTHERS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma2": lambda: Gemma2Config(**COMMON, head_dim=8, sliding_window=WINDOW, attn_logit_softcapping=3.0),
    "gpt-oss": lambda: GptOssConfig(
        **COMMON, head_dim=8, sliding_window=WINDOW, num_local_experts=4, rope_parameters={"rope_type": "default"}
    ),
    "phi": lambda: PhiConfig(**COMMON),
    "cohere": lambda: CohereConfig(**COMMON),
    "granite": lambda: GraniteConfig(**COMMON, logits_scaling=3.0),
    "bloom": lambda: BloomConfig(**FEW, n_layer=2, n_head=4),
    "falcon": lambda: FalconConfig(**FEW, num_hidden_layers=2, alibi=True),
    "mamba": lambda: MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2),
    "window only in the mask": lambda: Qwen2MoeConfig(
        **COMMON,
        num_experts=4,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        use_sliding_window=True,
        sliding_window=64,
        max_window_layers=2,
    ),
    "llama4": lambda: Llama4TextConfig(**COMMON, head_dim=8, intermediate_size_mlp=64, num_local_experts=2),
}


def make(architecture: str, std: float = 0.15, seed: int = 0) -> Any:
    """A random model without dropout; biases and attention sinks are random too."""
    config = tiny_config(architecture, VOCAB) if architecture in ARCHITECTURES else OTHERS[architecture]()
    no_dropout(config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or "bias" in name or "sinks" in name:
                parameter.normal_(0, std)
    return model.eval()


def ballots(seed: int = 0) -> list[TokenBallot]:
    """Prompts longer and shorter than the window and than the short-prompt path, responses longer than the window."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCAB, (length,), generator=generator).tolist())

    lengths = [(SHORT_PROMPT + 8, (3, 9, 1)), (WINDOW - 2, (8, 5)), (1, (1, 2)), (SHORT_PROMPT, (4, 4))]
    return [TokenBallot(ids(p), tuple(map(ids, r)), ()) for p, r in lengths]


def one_by_one(model: Any, batch: Sequence[TokenBallot]) -> Tensor:
    """The oracle: every response in a sequence of its own, without padding, whole logits, float64 sums."""
    values = []
    for ballot in batch:
        for response in ballot.responses:
            logits = model(input_ids=torch.tensor([[*ballot.prompt, *response]]), use_cache=False).logits[0]
            start = len(ballot.prompt) - 1
            tokens = logits[start : start + len(response)].double().log_softmax(-1)
            values.append(tokens.gather(1, torch.tensor(response)[:, None]).sum())
    return torch.stack(values)


def gradients(model: Any, values_B: Tensor) -> dict[str, Tensor]:
    """Gradients of all parameters of a sum with a different weight for each response."""
    weights = torch.linspace(-1, 1.5, len(values_B), dtype=values_B.dtype)
    grads = torch.autograd.grad((weights * values_B).sum(), list(model.parameters()), allow_unused=True)
    names = [name for name, _ in model.named_parameters()]
    return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}


def far_apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Parameters whose gradients differ by more than 1e-4 of their size."""
    assert found.keys() == wanted.keys()
    scale = max(float(grad.norm()) for grad in wanted.values())
    errors = {
        name: float((found[name] - grad).norm() / max(float(grad.norm()), 1e-4 * scale))
        for name, grad in wanted.items()
    }
    return {name: error for name, error in errors.items() if error > 1e-4}


# --- shared prompt = separate sequences ------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gpt-oss", "phi", "cohere", "granite"])
def test_a_shared_prompt_gives_the_log_probs_and_gradients_of_separate_sequences(architecture: str) -> None:
    model, batch = make(architecture), ballots()
    use_stock_attention(model)
    wanted = one_by_one(model, batch)
    wanted_grads = gradients(model, wanted)
    assert use_branch_attention(model)
    for layout in (branch_layout, padded_layout):
        found = response_logprobs(model, layout(batch))
        assert found.dtype == torch.float32
        assert float((found - wanted).abs().max().detach()) < 1e-5
        assert far_apart(gradients(model, found), wanted_grads) == {}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt-neox"])
def test_a_4d_mask_gives_the_same_where_attention_is_not_ours(architecture: str, implementation: str) -> None:
    model, batch = make(architecture), ballots()
    use_stock_attention(model)
    wanted = one_by_one(model, batch)
    wanted_grads = gradients(model, wanted)
    model.set_attn_implementation(implementation)
    found = response_logprobs(model, branch_layout(batch))
    assert float((found - wanted).abs().max().detach()) < 1e-5
    assert far_apart(gradients(model, found), wanted_grads) == {}


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt-oss"])
def test_ballots_and_branches_in_a_row_do_not_see_each_other(architecture: str) -> None:
    model, batch = make(architecture), ballots()
    use_branch_attention(model)
    before = response_logprobs(model, branch_layout(batch))
    first = batch[0]
    changed = [TokenBallot(first.prompt, (first.responses[0], first.responses[1][::-1], (7,)), ()), *ballots(1)[1:]]
    after = response_logprobs(model, branch_layout(changed))
    assert float(abs(after[0] - before[0]).detach()) < 1e-5
    assert float(abs(after[1:] - before[1:]).min().detach()) > 1e-3
    reordered = response_logprobs(model, branch_layout(batch[::-1]))
    sizes = [len(ballot.responses) for ballot in batch]
    assert torch.allclose(torch.cat(reordered.split(sizes[::-1])[::-1]), before, atol=1e-5)


@tried(15)
@given(
    st.lists(st.tuples(st.integers(1, 45), st.lists(st.integers(1, 9), min_size=1, max_size=4)), min_size=1, max_size=3)
)
def test_any_lengths_give_the_log_probs_of_separate_sequences(lengths: list[tuple[int, list[int]]]) -> None:
    batch = [
        TokenBallot(
            tuple(range(5, 5 + p)), tuple(tuple((7 * k + t) % VOCAB for t in range(n)) for k, n in enumerate(r)), ()
        )
        for p, r in lengths
    ]
    for model in (branching("llama"), branching("mistral")):
        with torch.no_grad():
            found, wanted = response_logprobs(model, branch_layout(batch)), one_by_one(model, batch)
        assert float((found - wanted).abs().max()) < 1e-5


def branching(architecture: str) -> Any:
    if architecture not in BRANCHING:
        BRANCHING[architecture] = make(architecture)
        use_branch_attention(BRANCHING[architecture])
    return BRANCHING[architecture]


BRANCHING: dict[str, Any] = {}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gpt-oss"])
def test_left_padded_generation_under_our_attention_is_unpadded_generation(architecture: str) -> None:
    model = make(architecture, std=0.5)
    prompts = [ballot.prompt for ballot in ballots()]
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    use_stock_attention(model)
    wanted = [model.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p)), **options) for p in prompts]
    use_branch_attention(model)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    found = model.generate(ids, attention_mask=mask, **options)
    assert [row[width:].tolist() for row in found] == [
        row[0, len(p) :].tolist() for row, p in zip(wanted, prompts, strict=True)
    ]


# --- which layout ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2", "gpt-oss", "phi", "cohere", "granite"])
def test_attention_that_goes_through_a_function_gets_the_shared_prompt(architecture: str) -> None:
    layout = probe_layout(make(architecture))
    assert layout.name == "branch"
    assert "prompt computed once" in layout.reason


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("bloom", "cannot be replaced"),
        ("falcon", "cannot be replaced"),
        ("mamba", "linear_attention"),
        ("window only in the mask", "sliding window does not reach"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_architecture_that_cannot_share_a_prompt_gets_separate_sequences_and_says_why(
    architecture: str, reason: str
) -> None:
    model, batch = make(architecture), ballots()
    layout = probe_layout(model)
    assert layout.name == "padded"
    assert reason in layout.reason
    with torch.no_grad():
        found, wanted = response_logprobs(model, layout.lay_out(batch)), one_by_one(model, batch)
    assert float((found - wanted).abs().max()) < 1e-4


def test_an_argument_that_our_attention_does_not_know_turns_it_off() -> None:
    """An architecture that hands its attention something new must not be scored as if it had not."""
    model, batch = make("llama"), ballots()
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(lambda _, args, kw: (args, {**kw, "surprise": 1.0}), with_kwargs=True)
    layout = probe_layout(model)
    assert layout.name == "mask"
    assert "surprise" in layout.reason
    assert model.config._attn_implementation != BRANCH_ATTENTION
    with torch.no_grad():
        found, wanted = response_logprobs(model, layout.lay_out(batch)), one_by_one(model, batch)
    assert float((found - wanted).abs().max()) < 1e-5


def test_dropout_is_never_scored_silently() -> None:
    model = make("llama").train()
    use_branch_attention(model)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(NotImplementedError, match="dropout"):
        response_logprobs(model, branch_layout(ballots()))


def test_a_model_whose_gradients_would_be_wrong_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe compares gradients too: log-probs alone would let this one through."""
    model = make("llama")
    own = logprobs.predicting_states

    def halved(model: Any, batch: Any, precision: str) -> Tensor:
        states = own(model, batch, precision)
        return states.detach() + 0.5 * (states - states.detach()) if batch.plan is not None else states

    monkeypatch.setattr(logprobs, "predicting_states", halved)
    layout = probe_layout(model)
    assert layout.name == "padded"
    assert layout.reason.count("differ from the model") == 2


def test_layers_that_only_the_mask_keeps_from_the_whole_context_turn_the_shared_prompt_off() -> None:
    """Chunked attention is longer than any probe, so it must be read from the configuration."""
    model = make("llama")
    model.config.layer_types = ["full_attention", "chunked_attention"]
    layout = probe_layout(model)
    assert layout.name == "padded"
    assert layout.reason.count("layers of chunked_attention") == 2


def test_a_model_whose_parts_are_not_where_they_should_be_is_refused() -> None:
    with pytest.raises(UserError, match="Llama4ForCausalLM is not supported"):
        probe_layout(make("llama4"))


def test_a_head_that_does_something_else_with_the_logits_is_refused() -> None:
    model = make("llama")
    model.lm_head.register_forward_hook(lambda module, args, logits: 1.5 * logits)
    with pytest.raises(UserError, match=r"LlamaForCausalLM is not supported .* differ"):
        probe_layout(model)


def test_one_pass_that_goes_wrong_does_not_make_a_causal_model_another(capsys: pytest.CaptureFixture[str]) -> None:
    model = make("llama")
    calls = iter(range(10**6))

    def spoil_the_first(module: Any, inputs: Any, output: Any) -> None:
        if next(calls) == 0:
            output.logits.add_(1.0)

    model.register_forward_hook(spoil_the_first)
    assert probe_layout(model).name == "branch"
    assert "asking again" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_model_that_sees_the_tokens_it_should_predict_is_refused() -> None:
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    with pytest.raises(UserError, match="no causal language model"):
        probe_layout(model)


def test_the_probe_leaves_a_model_as_it_was() -> None:
    model = make("gpt2").requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    probe_layout(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


def test_what_a_ballot_costs_is_what_its_layout_lays_out() -> None:
    for ballot in ballots():
        for name in ("branch", "mask", "padded"):
            layout = Layout(name, "")
            assert layout.size(ballot) == layout.lay_out([ballot]).unique_tokens


# --- the chunked head ------------------------------------------------------------------------------------------------

D, V = 8, 23


def tensors(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, D, generator=generator).requires_grad_()
    weight = torch.randn(V, D, generator=generator).requires_grad_()
    bias = torch.randn(V, generator=generator).requires_grad_()
    return hidden, weight, bias, torch.randint(V, (count,), generator=generator)


def plain_log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cap: float | None) -> Tensor:
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits.log_softmax(-1)


@tried(60)
@given(
    count=st.integers(1, 13),
    rows=st.integers(1, 14),
    with_bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.3]),
    cap=st.sampled_from([None, 4.0]),
)
def test_the_chunked_head_is_log_softmax_in_value_and_gradient_wherever_chunks_end(
    count: int, rows: int, with_bias: bool, scale: float, cap: float | None
) -> None:
    hidden, weight, bias, target = tensors(count)
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    head = Head(weight, bias if with_bias else None, scale, cap)
    upstream = torch.linspace(-2, 2, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_ELEMENTS", rows * V)
        found = chunked_logprobs(hidden, head, target)
        found_grads = torch.autograd.grad((upstream * found).sum(), inputs)
    wanted = plain_log_softmax(hidden, weight, head.bias_V, scale, cap).gather(1, target[:, None])[:, 0]
    wanted_grads = torch.autograd.grad((upstream * wanted).sum(), inputs)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    for found_grad, wanted_grad in zip(found_grads, wanted_grads, strict=True):
        assert torch.allclose(found_grad, wanted_grad, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_no_array_of_all_logits_exists_forward_or_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    count, rows = 400, 10
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", rows * V)
    hidden, weight, bias, target = tensors(count)
    with Largest() as largest:
        chunked_logprobs(hidden, Head(weight, bias), target).sum().backward()
        chunked_comparison(hidden, Head(weight, bias), hidden, Head(weight), target)
    assert largest.elements <= count * D < count * V / 2, "the hidden states are the largest, not the logits"


def test_a_frozen_head_gets_no_gradient_and_still_passes_one_on() -> None:
    hidden, weight, _, target = tensors(5)
    weight.requires_grad_(False)
    chunked_logprobs(hidden, Head(weight), target).sum().backward()
    assert weight.grad is None and hidden.grad is not None and bool(hidden.grad.abs().max() > 0)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi"])
def test_bf16_is_close_to_fp32_and_the_weights_keep_fp32_gradients(architecture: str) -> None:
    model, batch = make(architecture), branch_layout(ballots())
    use_branch_attention(model)
    exact, rough = (response_logprobs(model, batch, precision=precision) for precision in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max().detach()) < 0.25
    exact_grads, rough_grads = gradients(model, exact), gradients(model, rough)
    for name, grad in rough_grads.items():
        assert grad.dtype == torch.float32 == model.get_parameter(name).dtype
    a, b = (torch.cat([grad.flatten() for grad in grads.values()]) for grads in (exact_grads, rough_grads))
    assert float(nn.functional.cosine_similarity(a, b, dim=0)) > 0.99


def test_bf16_works_with_a_4d_mask_too() -> None:
    model, batch = make("llama"), branch_layout(ballots())
    use_stock_attention(model)
    exact, rough = (response_logprobs(model, batch, precision=precision) for precision in ("fp32", "bf16"))
    assert float((rough - exact).abs().max().detach()) < 0.25


# --- KL --------------------------------------------------------------------------------------------------------------


@tried(30)
@given(st.integers(1, 9), st.integers(1, 10), st.sampled_from([None, 4.0]))
def test_two_models_are_compared_over_the_whole_vocabulary(count: int, rows: int, cap: float | None) -> None:
    hidden, weight, bias, target = tensors(count)
    other_hidden, other_weight, _, _ = tensors(count, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "CHUNK_ELEMENTS", rows * V)
        found = chunked_comparison(hidden, Head(weight, bias, 0.5, cap), other_hidden, Head(other_weight), target)
    p = plain_log_softmax(hidden, weight, bias, 0.5, cap)
    q = plain_log_softmax(other_hidden, other_weight, None, 1.0, None)
    at_target = torch.arange(count), target
    for name, wanted in {
        "kl_N": (p.exp() * (p - q)).sum(-1),
        "entropy_N": -(p.exp() * p).sum(-1),
        "logprob_N": p[at_target],
        "other_N": q[at_target],
    }.items():
        assert torch.allclose(getattr(found, name).double(), wanted, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_kl_of_a_model_with_itself_is_exactly_0(precision: str) -> None:
    model, batch = make("llama"), branch_layout(ballots())
    use_branch_attention(model)
    with torch.no_grad():
        first, again = (predicting_states(model, batch, precision) for _ in range(2))
    head = logprobs.head_of(model)
    compared = chunked_comparison(first, head, again, head, batch.target_N)
    assert compared.kl_N.tolist() == [0.0] * len(first)
    assert compared.logprob_N.tolist() == compared.other_N.tolist()


# --- gradient checkpointing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_gradient_checkpointing_computes_the_layers_again_and_changes_no_gradient(architecture: str) -> None:
    model, batch = make(architecture).train(), branch_layout(ballots())
    use_branch_attention(model)
    wanted = gradients(model, response_logprobs(model, batch))
    calls: list[int] = []
    attention = next(module for name, module in model.named_modules() if name.endswith(("self_attn", "attn")))
    attention.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_activations(model)
    found = gradients(model, response_logprobs(model, batch))
    assert len(calls) == 2, "once forward, once again backward"
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], grad) for name, grad in wanted.items())
