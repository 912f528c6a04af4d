"""Attention of all ballots in one call: which keys it gets, that it is the loop's, when it is taken, and the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from branch_rows import batches, places, sees
from hypothesis import given
from hypothesis import strategies as st
from properties import tried
from tiny import ARCHITECTURES, WINDOW, tiny_model
from torch import Tensor

from preftune.data.branches import BranchBatch, branch_layout
from preftune.data.tokens import TokenBallot
from preftune.model import attention, varlen
from preftune.model.attention import use_branch_attention
from preftune.model.layout import Layout, probe_layout, try_kernel
from preftune.model.logprobs import decoder_states, response_logprobs
from preftune.model.varlen import VarlenIndex, index_of, refused_by_kernel, varlen_index

WORDS = 15
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
BALLOTS = [
    TokenBallot(tuple(range(3, 15)) * 4, ((6, 7, 3), (4,), (5, 9, 11, 2, 8)), ()),
    TokenBallot((3, 4, 5), ((6, 7), (8, 9, 10)), ()),
    TokenBallot((5, 3), ((4, 4, 7),), ()),
]


def index_for(ballots: list[TokenBallot]) -> VarlenIndex:
    plan = branch_layout(ballots).plan
    assert plan is not None
    return index_of(plan)


def seen_by_kernel(index: VarlenIndex, window: int | None) -> dict[int, list[int]]:
    """Rows that each row sees, by the kernel's rule: the last query of a sequence is aligned with its last key."""
    found = {}
    for s in range(len(index.starts_q_S) - 1):
        rows = range(int(index.starts_q_S[s]), int(index.starts_q_S[s + 1]))
        keys = index.keys_K[int(index.starts_k_S[s]) : int(index.starts_k_S[s + 1])].tolist()
        for i, row in enumerate(rows):
            last = i + len(keys) - len(rows)
            found[row] = keys[0 if window is None else max(0, last - window + 1) : last + 1]
    return found


# --- the plan --------------------------------------------------------------------------------------------------------


@given(batches, st.none() | st.integers(1, 8))
@tried(200)
def test_a_branch_sees_its_prompt_and_itself(ballots: list[TokenBallot], window: int | None) -> None:
    row = places(ballots)
    wanted = {
        q: [k for k, key in enumerate(row) if sees(query, key, window)] for q, query in enumerate(row)
    }  # in order of position, since a prompt lies before its branches
    assert seen_by_kernel(index_for(ballots), window) == wanted


@given(batches)
@tried(100)
def test_lengths_and_copies_of_a_plan(ballots: list[TokenBallot]) -> None:
    index = index_for(ballots)
    for starts, longest in ((index.starts_q_S, index.longest_q), (index.starts_k_S, index.longest_k)):
        assert starts.dtype == torch.int32
        assert int(starts.diff().max()) == longest
        assert int(starts.diff().min()) > 0
    tokens = sum(len(b.prompt) + sum(map(len, b.responses)) for b in ballots)
    assert int(index.starts_q_S[-1]) == tokens
    assert int(index.starts_k_S[-1]) == len(index.keys_K)
    assert len(index.keys_K) == tokens + sum(len(b.prompt) * (len(b.responses) - 1) for b in ballots)
    assert index.keys_K[index.first_T].tolist() == list(range(tokens))
    places_K = torch.cat([index.first_T, *(found for found, _ in index.copies)])
    assert sorted(places_K.tolist()) == list(range(len(index.keys_K)))
    for found, rows in index.copies:
        assert torch.equal(index.keys_K[found], rows)
        assert len(set(rows.tolist())) == len(rows)  # what fixes the order of sums


@given(batches, st.integers(0, 99))
@tried(50)
def test_the_gradient_of_a_row_is_the_sum_over_its_copies(ballots: list[TokenBallot], seed: int) -> None:
    index, generator = index_for(ballots), torch.Generator().manual_seed(seed)
    x = torch.randn(len(index.first_T), 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(len(index.keys_K), 2, 3, generator=generator, dtype=torch.float64)
    gathered = varlen._Gathered.apply(x, index)
    assert torch.equal(gathered, x[index.keys_K])
    (found,) = torch.autograd.grad(gathered, x, grad)
    (wanted,) = torch.autograd.grad(x.index_select(0, index.keys_K), x, grad)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_prompt_without_responses_is_a_sequence() -> None:
    index = varlen_index([(0, 3, 3), (3, 5, 6)], [(), (1,)])
    assert index.starts_q_S.tolist() == index.starts_k_S.tolist() == [0, 3, 6]
    assert index.copies == ()


def test_a_plan_is_cut_once() -> None:
    plan = branch_layout(BALLOTS).plan
    assert plan is not None
    assert index_of(plan) is index_of(plan)


# --- the whole model through a plain kernel --------------------------------------------------------------------------


def plain_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """`varlen_attn` as it is documented, sequence by sequence."""
    groups = query.shape[1] // key.shape[1]
    assert enable_gqa == (groups > 1) or not varlen.SHARED_HEADS
    assert query.is_contiguous() and key.is_contiguous() and value.is_contiguous()
    assert window_size[1] == 0
    outputs = []
    for s in range(len(cu_seq_q) - 1):
        q = query[cu_seq_q[s] : cu_seq_q[s + 1]]
        k, v = (x[cu_seq_k[s] : cu_seq_k[s + 1]].repeat_interleave(groups, 1) for x in (key, value))
        assert len(q) <= max_q and len(k) <= max_k
        last = torch.arange(len(q))[:, None] + len(k) - len(q)
        distance = last - torch.arange(len(k))
        seen = distance >= 0
        if window_size[0] >= 0:
            seen = seen & (distance <= window_size[0])
        scores = torch.einsum("qhd,khd->hqk", q, k).float() * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(outputs)


@pytest.fixture
def plain_kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kernel's place is taken by `plain_varlen`, on a CPU; a list that grows with its calls."""
    calls: list[int] = []

    def called(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(len(args[3]) - 1)
        return plain_varlen(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", called)

    def refusal(query: Tensor, value: Tensor, softcap: float | None, sinks: Tensor | None) -> str | None:
        return "soft cap" if softcap is not None or sinks is not None else None

    monkeypatch.setattr(attention, "refusal", refusal)
    return calls


def states_and_gradients(model: Any, batch: BranchBatch, precision: str = "fp32") -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    states = decoder_states(model, batch, precision)
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states.device)
    (states * weights).sum().backward()
    grads = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    return states.detach(), grads


def branch_model(architecture: str) -> Any:
    model = tiny_model(architecture, WORDS)
    assert use_branch_attention(model)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_call_gives_what_the_loop_gives(architecture: str, plain_kernel: list[int]) -> None:
    model = branch_model(architecture)
    loop = states_and_gradients(model, branch_layout(BALLOTS, by_ballot=True))
    assert plain_kernel == []
    batch = branch_layout(BALLOTS)
    found = states_and_gradients(model, batch)
    assert batch.plan is not None and batch.plan.refusals == set()
    assert plain_kernel == [6] * model.config.num_hidden_layers
    torch.testing.assert_close(found[0], loop[0], rtol=0, atol=1e-5)
    assert found[1].keys() == loop[1].keys()
    for name, wanted in loop[1].items():
        torch.testing.assert_close(found[1][name], wanted, rtol=0, atol=1e-5 * max(1.0, float(wanted.abs().max())))


def test_a_window_reaches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[tuple[int, int]] = []

    def called(*args: Any, **kwargs: Any) -> Tensor:
        windows.append(kwargs["window_size"])
        return plain_varlen(*args, **kwargs)

    monkeypatch.setattr(varlen, "varlen_attn", called)
    monkeypatch.setattr(attention, "refusal", lambda *_: None)
    model = branch_model("gemma3")  # a layer with a window, and one without
    decoder_states(model, branch_layout(BALLOTS), "fp32")
    short = [TokenBallot((3, 4), ((5,), (6, 7)), ())]  # shorter than the window: a plain causal mask
    decoder_states(model, branch_layout(short), "fp32")
    assert windows == [(WINDOW - 1, 0), (-1, 0), (-1, 0), (-1, 0)]


# --- when it is taken ------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"capability": (9, 0), "flash": True, "plain": True}


def test_the_kernel_takes_half_precision_on_a_new_gpu() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        for size in (8, 64, 96, 128, 256):
            assert refused_by_kernel(dtype, (size, size), **GOOD) is None
    assert refused_by_kernel(torch.bfloat16, (64, 64), **{**GOOD, "capability": (8, 0)}) is None


@pytest.mark.parametrize(
    ("dtype", "sizes", "given_", "reason"),
    [
        (torch.float32, (64, 64), {}, "float32"),
        (torch.bfloat16, (64, 128), {}, "64 and 128"),
        (torch.bfloat16, (288, 288), {}, "288"),
        (torch.bfloat16, (20, 20), {}, "20"),
        (torch.bfloat16, (64, 64), {"capability": (7, 5)}, "7.5"),
        (torch.bfloat16, (64, 64), {"flash": False}, "flash"),
        (torch.bfloat16, (64, 64), {"plain": False}, "sinks"),
    ],
)
def test_what_the_kernel_does_not_take(
    dtype: torch.dtype, sizes: tuple[int, int], given_: dict[str, Any], reason: str
) -> None:
    refused = refused_by_kernel(dtype, sizes, **{**GOOD, **given_})
    assert refused is not None and reason in refused


def test_a_cpu_goes_ballot_by_ballot() -> None:
    model, batch = branch_model("llama"), branch_layout(BALLOTS)
    decoder_states(model, batch, "bf16")
    assert batch.plan is not None and batch.plan.refusals == {"not on a GPU"}
    layout = probe_layout(model, "bf16")
    assert layout == Layout("branch", layout.reason) and "call" not in layout.reason


def test_unaligned_states_are_moved() -> None:
    flat = torch.randn(4 * 8 + 1)
    states = flat[1:].view(4, 1, 8)
    assert states.is_contiguous()
    moved = varlen._aligned(states)
    assert torch.equal(moved, states)
    assert moved.data_ptr() % 16 == 0


# --- the probe -------------------------------------------------------------------------------------------------------


def probe(model: Any) -> tuple[str, str]:
    wanted_batch = branch_layout(BALLOTS, by_ballot=True)
    first = model.get_input_embeddings().weight
    last = model.get_output_embeddings().weight
    logprobs_B = response_logprobs(model, wanted_batch)
    weights = torch.linspace(-1, 1, len(logprobs_B))
    ends = [first] if first is last else [first, last]
    grads = torch.autograd.grad((weights * logprobs_B).sum(), ends)
    return try_kernel(model, BALLOTS, (logprobs_B.detach(), grads[0], grads[-1]), "bf16")


def test_the_probe_takes_a_kernel_that_is_right(plain_kernel: list[int]) -> None:
    attention, words = probe(branch_model("llama"))
    assert attention == "one call" and "in one call" in words
    assert plain_kernel


def looking_ahead(*args: Any, **kwargs: Any) -> Tensor:
    query, key = args[0], args[1]
    return plain_varlen(query, key.flip(0).contiguous(), *args[2:], **kwargs)


def failing(*args: Any, **kwargs: Any) -> Tensor:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(("kernel", "reason"), [(looking_ahead, "differ"), (failing, "RuntimeError in the kernel")])
def test_the_probe_refuses_a_kernel_that_is_wrong(
    kernel: Callable[..., Tensor], reason: str, plain_kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    attention, words = probe(branch_model("llama"))
    assert attention == "by ballot" and reason in words
    batch = Layout("branch", "", attention).lay_out(BALLOTS)
    assert batch.plan is not None and batch.plan.by_ballot
    assert batch.to(torch.device("cpu")).plan is batch.plan


def test_the_probe_says_why_a_kernel_is_not_asked() -> None:
    assert probe(branch_model("llama")) == ("", "; attention ballot by ballot (not on a GPU)")


def test_what_is_stored_depends_on_the_attention() -> None:
    names = {Layout("branch", "", attention).stored_as for attention in ("", "one call", "by ballot")}
    assert len(names) == 3 and "branch" in names


def test_a_plan_that_moves_keeps_how_it_attends() -> None:
    batch = branch_layout(BALLOTS, by_ballot=True).to(torch.device("meta"))
    assert batch.plan is not None and batch.plan.by_ballot


# --- the kernel itself -----------------------------------------------------------------------------------------------


def to_gpu(batch: BranchBatch) -> BranchBatch:
    return batch.to(torch.device("cuda"))


@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_kernel_is_as_near_as_the_loop(architecture: str) -> None:
    model = branch_model(architecture)
    exact = states_and_gradients(model, branch_layout(BALLOTS))
    model.cuda()
    loop = states_and_gradients(model, to_gpu(branch_layout(BALLOTS, by_ballot=True)), "bf16")
    batch = to_gpu(branch_layout(BALLOTS))
    kernel = states_and_gradients(model, batch, "bf16")
    assert batch.plan is not None and batch.plan.refusals == set()

    def error(found: tuple[Tensor, dict[str, Tensor]], name: str | None) -> float:
        a, b = (pair[0] if name is None else pair[1][name] for pair in (found, exact))
        return float((a.cpu().float() - b).norm() / b.norm())

    for name in (None, *exact[1]):
        assert error(kernel, name) <= 1.5 * error(loop, name) + 1e-3, name


@needs_gpu
def test_the_kernel_of_float16_and_its_gradients_repeat() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    index = index_for(BALLOTS).to(torch.device("cuda"))
    tokens = len(index.first_T)
    shapes = ((1, 4, tokens, 64), (1, 2, tokens, 64), (1, 2, tokens, 64))
    inputs = [torch.randn(shape, device="cuda", generator=generator).half().requires_grad_(True) for shape in shapes]

    def once() -> tuple[Tensor, ...]:
        output = varlen.varlen_attention(*inputs, index, 0.125, None)
        return output, *torch.autograd.grad(output.float().square().sum(), inputs)

    first, second = once(), once()
    assert torch.equal(first[0], second[0])
    for a, b in zip(first[1:], second[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@needs_gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_probe_takes_the_kernel(architecture: str) -> None:
    model = tiny_model(architecture, WORDS).cuda()
    for precision in ("fp32", "bf16"):
        layout = probe_layout(model, precision)
        assert layout.name == "branch", layout.reason
        assert layout.attention == ("one call" if precision == "bf16" else ""), layout.reason
