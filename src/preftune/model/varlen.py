"""Attention of the branch layout on a GPU: one call a layer for all ballots of a row.

PyTorch's kernel for sequences of different lengths (`varlen_attn`) knows nothing of branches. So a ballot is cut into
as many sequences as it has responses: the first is the prompt with the first response, as they lie in the row; each
other one has a response for queries, and for keys the prompt's, copied, and its own. The kernel aligns the last query
with the last key, and a causal mask from there is what a branch sees: its prompt, and itself up to each token.

Shapes: T tokens in the row, S sequences, K keys (T and the copies of prompts), H query heads, G key heads, d head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.varlen import varlen_attn

from ..data import BranchPlan, sent

HALF = (torch.bfloat16, torch.float16)
LARGEST_HEAD = 256
# Since 2.12 PyTorch wants to be told that key heads are shared; before, it saw it.
SHARED_HEADS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def refusal(query: Tensor, value: Tensor, softcap: float | None, sinks: Tensor | None) -> str | None:
    """Why attention goes ballot by ballot and not through the kernel; None if the kernel takes it.

    query `[1, H, T, d]`, value `[1, G, T, d]`.
    """
    if query.device.type != "cuda":
        return "not on a GPU"
    return refused_by_kernel(
        product_dtype(value),
        (query.shape[-1], value.shape[-1]),
        capability=torch.cuda.get_device_capability(query.device),
        flash=torch.version.hip is None and torch.backends.cuda.is_flash_attention_available(),
        plain=softcap is None and sinks is None,
    )


def refused_by_kernel(
    dtype: torch.dtype, head_sizes: tuple[int, int], *, capability: tuple[int, int], flash: bool, plain: bool
) -> str | None:
    """The same from what is known of a model and a device: `head_sizes` are those of queries and values."""
    if not flash:
        return "this PyTorch has no flash attention"
    if capability < (8, 0):
        return f"compute capability {capability[0]}.{capability[1]}, and the kernel needs 8.0"
    if dtype not in HALF:
        return f"{str(dtype).removeprefix('torch.')}, and the kernel has bfloat16 and float16"
    if not plain:
        return "soft-capped scores or attention sinks"
    if head_sizes[0] != head_sizes[1] or head_sizes[0] > LARGEST_HEAD or head_sizes[0] % 8:
        return f"heads of size {head_sizes[0]} and {head_sizes[1]}"
    return None


def product_dtype(value: Tensor) -> torch.dtype:
    """The type in which attention is computed: autocast's where it is on, which does not know the kernel."""
    place = value.device.type
    return torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else value.dtype


# --- which keys a sequence has ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VarlenIndex:
    """Sequences of a row as the kernel takes them.

    Queries of sequence s are rows `starts_q_S[s]` to `starts_q_S[s + 1]` of the row; its keys are
    `keys_K[starts_k_S[s]:starts_k_S[s + 1]]`, which are rows too. `first_T` is where in `keys_K` a row's first copy
    is; `copies` has, for the second copies, the third ones and so on, where in `keys_K` they are, and their rows.
    """

    starts_q_S: Tensor  # int32 [S + 1]
    starts_k_S: Tensor  # int32 [S + 1]
    keys_K: Tensor
    first_T: Tensor
    copies: tuple[tuple[Tensor, Tensor], ...]
    longest_q: int
    longest_k: int

    def to(self, device: torch.device) -> VarlenIndex:
        """The same on another device."""
        moved = {name: sent(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        copies = tuple((sent(places, device), sent(rows, device)) for places, rows in self.copies)
        return VarlenIndex(**{**vars(self), **moved, "copies": copies})


def varlen_index(spans: Sequence[tuple[int, int, int]], lengths: Sequence[Sequence[int]]) -> VarlenIndex:
    """Cut ballots into sequences. `spans`: (start, end of the prompt, end) in the row; `lengths`: of their branches."""
    queries: list[int] = []  # lengths of sequences
    pieces: list[list[tuple[int, int]]] = []  # runs of rows that are a sequence's keys
    for (start, middle, _), branches in zip(spans, lengths, strict=True):
        stop = middle + (branches[0] if branches else 0)
        queries.append(stop - start)
        pieces.append([(start, stop)])
        for length in branches[1:]:
            queries.append(length)
            pieces.append([(start, middle), (stop, stop + length)])
            stop += length
    keys = [sum(b - a for a, b in runs) for runs in pieces]
    keys_K = torch.cat([torch.arange(a, b) for runs in pieces for a, b in runs])
    order_K = keys_K.argsort(stable=True)  # by row, then by place
    sorted_K = keys_K[order_K]
    counts_T = torch.bincount(keys_K)
    rank_K = torch.arange(len(keys_K)) - (counts_T.cumsum(0) - counts_T)[sorted_K]
    copies = [(order_K[rank_K == rank], sorted_K[rank_K == rank]) for rank in range(int(counts_T.max()))]
    return VarlenIndex(
        torch.tensor([0, *accumulate(queries)], dtype=torch.int32),
        torch.tensor([0, *accumulate(keys)], dtype=torch.int32),
        keys_K,
        copies[0][0],
        tuple(copies[1:]),
        max(queries),
        max(keys),
    )


def index_of(plan: BranchPlan) -> VarlenIndex:
    """The sequences of a plan, on its device; made when they are first asked for."""
    if plan.varlen is None:
        plan.varlen = varlen_index(plan.spans, plan.lengths).to(plan.segment_T.device)
    found: VarlenIndex = plan.varlen
    return found


class _Gathered(torch.autograd.Function):
    """x[keys_K]. A row's gradient is the sum over its copies, which the backward pass adds in one order always."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: VarlenIndex) -> Tensor:
        ctx.index = index
        return x.index_select(0, index.keys_K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        index: VarlenIndex = ctx.index
        total = grad.index_select(0, index.first_T)
        if len(index.copies) > 1:  # sums of many in bfloat16 would lose digits
            total = total.float()
        for places, rows in index.copies:  # within one call no row comes twice, so the order of sums is fixed
            total.index_add_(0, rows, grad.index_select(0, places).to(total.dtype))
        return total.to(grad.dtype), None


# --- attention -------------------------------------------------------------------------------------------------------


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, index: VarlenIndex, scale: float, window: int | None
) -> Tensor:
    """Attention of all ballots of the row in one call, in `product_dtype`.

    query `[1, H, T, d]`, key and value `[1, G, T, d]` → `[1, T, H, d]`. `window`: how many tokens a token sees, with
    itself, by position.
    """
    dtype = product_dtype(value)
    query_THd, key_TGd, value_TGd = (states[0].transpose(0, 1).to(dtype) for states in (query, key, value))
    if index.copies:
        key_TGd, value_TGd = (_Gathered.apply(states, index) for states in (key_TGd, value_TGd))  # type: ignore[no-untyped-call]
    left = -1 if window is None or window >= index.longest_k else window - 1
    shared = SHARED_HEADS if query.shape[1] != key.shape[1] else {}
    output_THd = varlen_attn(
        _aligned(query_THd),
        _aligned(key_TGd),
        _aligned(value_TGd),
        index.starts_q_S,
        index.starts_k_S,
        index.longest_q,
        index.longest_k,
        scale=scale,
        window_size=(left, 0),
        **shared,
    )
    assert isinstance(output_THd, Tensor)  # a tuple only where more is asked for
    return output_THd[None]


def _aligned(states: Tensor) -> Tensor:
    """Dense and from an address that the kernel's wide loads need: elsewhere it has read wrong numbers silently."""
    dense = states.contiguous()
    return dense if dense.data_ptr() % 16 == 0 else dense.clone()
