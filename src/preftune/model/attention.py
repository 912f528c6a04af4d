"""The attention of the branch layout: a branch sees its prompt and itself.

It serves both layouts: with a branch plan it attends per ballot, without one it is transformers' own SDPA, so
generation and padded scoring are untouched.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..data import BranchPlan
from .varlen import index_of, refusal, varlen_attention

BRANCH_ATTENTION = "preftune_branch"
HANDLED = {"sliding_window", "softcap", "s_aux", "branch_plan", "position_ids", "use_cache", "is_causal"}
SHORT_PROMPT = 32  # up to here one call over the whole ballot costs less than two


def use_branch_attention(model: PreTrainedModel) -> bool:
    """Switch a model to the branch attention; False if its architecture does not route attention through a function."""
    if not model._can_set_attn_implementation():
        return False
    model.set_attn_implementation(BRANCH_ATTENTION)
    return True


def use_stock_attention(model: PreTrainedModel) -> None:
    """Switch a model to the attention that transformers gives it: SDPA, or eager where the architecture needs it."""
    if model._can_set_attn_implementation():
        try:
            model.set_attn_implementation("sdpa")
        except ValueError:
            model.set_attn_implementation("eager")


@torch.compiler.disable  # type: ignore[untyped-decorator]  # compiled, it would be made anew for every number of ballots
def branch_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    branch_plan: BranchPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention in which a branch sees its prompt and itself; transformers' SDPA when there is no plan.

    query `[1, heads, T, d]`, key and value `[1, kv heads, T, d]` → `[1, T, heads, d]`. Raises NotImplementedError for
    an argument that changes attention in a way not handled here (the probe then falls back to the padded layout).
    """
    if branch_plan is None:
        if softcap is not None or s_aux is not None:
            return _masked_attention(module, query, key, value, attention_mask, scaling, softcap, s_aux)
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    unknown = [name for name, given in kwargs.items() if name not in HANDLED and given is not None]
    if unknown or dropout:
        raise NotImplementedError(f"branch attention does not handle {unknown or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    refused = "asked for" if branch_plan.by_ballot else refusal(query, value, softcap, s_aux)
    if refused is None:
        return varlen_attention(query, key, value, index_of(branch_plan), scale, sliding_window), None
    branch_plan.refusals.add(refused)
    place, dtype = query.device.type, value.dtype
    in_float32 = place == "cpu" and dtype == torch.bfloat16  # whose kernel takes up to three times as long, backwards
    if in_float32:
        query, key, value = query.float(), key.float(), value.float()
    if place != "cpu" or softcap is not None or s_aux is not None:  # the CPU's kernel reads shared keys as they are
        groups = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    # split, not sliced: the gradient of a slice is as long as the row, and there would be three of them a ballot
    sizes = [stop - start for start, _, stop in branch_plan.spans]
    ballots = zip(branch_plan.spans, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    pieces = []
    with torch.autocast(place, enabled=False) if in_float32 else nullcontext():
        for span, queries, keys, values in ballots:
            pieces += _attend_ballot(branch_plan, span, queries, keys, values, sliding_window, scale, softcap, s_aux)
    return torch.cat([piece.transpose(1, 2) for piece in pieces], dim=1).to(dtype), None


def _attend_ballot(
    plan: BranchPlan,
    span: tuple[int, int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> list[Tensor]:
    """Attention within one ballot: its prompt and its branches apart, so that the prompt never looks at branches."""
    start, middle, stop = span
    prompt = middle - start
    if prompt <= SHORT_PROMPT:
        return [attend(query, key, value, plan.visible(start, stop, start, window), scale, softcap, sinks)]
    causal = None if window is None or window >= prompt else plan.visible(start, middle, start, window)
    ahead, branches = query.split([prompt, stop - middle], dim=2)
    return [
        attend(ahead, key[:, :, :prompt], value[:, :, :prompt], causal, scale, softcap, sinks),
        attend(branches, key, value, plan.visible(start, stop, middle, window), scale, softcap, sinks),
    ]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention under a mask; None: each sees itself and what came before, which SDPA computes in half the time."""
    if softcap is None and sinks is None:
        shared = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=shared
        )
    if mask is None:
        mask = _causal(query.shape[2], key.shape[2], query.device)
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)  # not −inf: a padding row sees nothing
    if sinks is not None:
        sink = sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(value.dtype) @ value


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """What the last `queries` of `keys` tokens see: themselves and what came before."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _masked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, None]:
    """Soft-capped or sink attention outside the branch layout, which SDPA does not offer."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    queries, keys = query.shape[2], key.shape[2]
    # ours is registered with SDPA's masks, which are boolean
    mask = _causal(queries, keys, query.device) if attention_mask is None else attention_mask[..., :keys]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, mask, scale, softcap, sinks).transpose(1, 2), None


AttentionInterface.register(BRANCH_ATTENTION, branch_attention)
AttentionMaskInterface.register(BRANCH_ATTENTION, sdpa_mask)
