"""Model and batch to log-probs of responses, without the logits of a whole batch; and which layout a model can take.

Shapes: N predicted tokens, D hidden size, V vocabulary, B responses, C tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ..data import BranchBatch
from ..errors import NotFinite
from .attention import BRANCH_ATTENTION
from .engine import autocast, compute_dtype

CHUNK_ELEMENTS = 2**25  # logits held at a time: 128 MiB in float32
GPU_CHUNKS = 4  # times as many on a GPU, which is faster in large pieces


@dataclass(frozen=True)
class Head:
    """The language-model head as a function: logits = cap(scale·(h Wᵀ + bias))."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
        """Float32 logits of some positions; `weight_VD` is the weight in the type of the product."""
        logits = linear(hidden_CD, weight_VD).float()
        if self.bias_V is not None:
            logits = logits + self.bias_V.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def rows(self) -> int:
        """How many positions make a chunk."""
        elements = CHUNK_ELEMENTS * (GPU_CHUNKS if self.weight_VD.is_cuda else 1)
        return max(1, elements // self.weight_VD.shape[0])


def head_of(model: Any) -> Head:
    """The head of a causal language model, with the scale and the cap that some architectures apply."""
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0
    if getattr(config, "logits_scaling", None):
        scale = scale / config.logits_scaling
    return Head(layer.weight, getattr(layer, "bias", None), scale, getattr(config, "final_logit_softcapping", None))


class _ChunkedLogprobs(torch.autograd.Function):
    """log softmax(logits)[target] row by row. The backward pass computes the logits of a chunk again.

    It begins where the forward pass ended, when there is the most in memory either way: the logits of the last chunk
    wait for it. The last chunk is a whole one; the first takes what is left over.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, head: Head
    ) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        logprobs_N = hidden_ND.new_empty(len(target_N), dtype=torch.float32)
        normaliser_N = torch.empty_like(logprobs_N)
        logits = None
        for rows in _chunks(len(target_N), head.rows()):
            logits = None  # the chunk before goes first
            logits = head.logits(hidden_ND[rows], weight)
            normaliser_N[rows] = logits.logsumexp(-1)
            logprobs_N[rows] = logits.gather(1, target_N[rows, None])[:, 0] - normaliser_N[rows]
        ctx.save_for_backward(hidden_ND, weight, target_N, normaliser_N)
        ctx.head, ctx.weight_dtype = head, weight_VD.dtype
        ctx.last_logits = logits if any(ctx.needs_input_grad) else None
        return logprobs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight, target_N, normaliser_N = ctx.saved_tensors
        head: Head = ctx.head
        grad_hidden = torch.empty_like(hidden_ND)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_weight else None
        grad_bias = torch.zeros(len(weight), dtype=torch.float32, device=weight.device) if needs_bias else None
        kept, ctx.last_logits = ctx.last_logits, None  # used up below: a second backward pass computes it again
        for rows in reversed(_chunks(len(target_N), head.rows())):
            logits = head.logits(hidden_ND[rows], weight) if kept is None else kept
            kept = None
            grad = _logit_grads(head, logits, normaliser_N[rows], target_N[rows], grad_N[rows])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden_ND.dtype)
            torch.mm(grad, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad.T, hidden_ND[rows])
            del logits, grad
        weight_grad = None if grad_weight is None else grad_weight.to(ctx.weight_dtype)
        return grad_hidden, weight_grad, grad_bias, None, None


def _logit_grads(head: Head, logits_CV: Tensor, normaliser_C: Tensor, target_C: Tensor, grad_C: Tensor) -> Tensor:
    """Gradient of Σ grad·log softmax(logits)[target] in h Wᵀ + bias, in the memory of the logits."""
    slope = None if head.softcap is None else 1 - (logits_CV / head.softcap) ** 2
    grad_CV = logits_CV.sub_(normaliser_C[:, None]).exp_().mul_(-grad_C[:, None])
    grad_CV.scatter_add_(1, target_C[:, None], grad_C[:, None].float())
    if slope is not None:
        grad_CV.mul_(slope)
    return grad_CV.mul_(head.scale) if head.scale != 1.0 else grad_CV


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, in one pass where the types allow."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _chunks(length: int, size: int) -> list[slice]:
    """Whole chunks from the end; the first takes what is left over."""
    starts = range(length % size - size if length % size else 0, length, size)
    return [slice(max(start, 0), start + size) for start in starts]


def chunked_logprobs(hidden_ND: Tensor, head: Head, target_N: Tensor) -> Tensor:
    """Log-probability of each target token, in nats, float32, `[N]`; at most a chunk of logits exists at a time.

    The product runs in the type of `hidden_ND`; sums over the vocabulary run in float32. Differentiable in the hidden
    states and in the head's weight and bias.
    """
    logprobs: Tensor = _ChunkedLogprobs.apply(hidden_ND, head.weight_VD, head.bias_V, target_N, head)  # type: ignore[no-untyped-call]
    return logprobs


class Comparison(NamedTuple):
    """Two models at the same predicted tokens, `[N]`, in nats: log-probs of the tokens, and over the whole vocabulary
    KL(π ‖ π_other) and the entropy of π."""

    logprob_N: Tensor
    other_N: Tensor
    kl_N: Tensor
    entropy_N: Tensor


@torch.no_grad()
def chunked_comparison(
    hidden_ND: Tensor, head: Head, other_hidden_ND: Tensor, other_head: Head, target_N: Tensor
) -> Comparison:
    """Compare the next-token distributions of two models; at most a chunk of logits of each exists at a time."""
    found = Comparison(*torch.empty(4, len(hidden_ND), dtype=torch.float32, device=hidden_ND.device))
    weight = head.weight_VD.to(hidden_ND.dtype)
    same = other_head.weight_VD is head.weight_VD
    other_weight = weight if same else other_head.weight_VD.to(hidden_ND.dtype)
    for rows in _chunks(len(hidden_ND), head.rows()):
        logprobs = head.logits(hidden_ND[rows], weight).log_softmax(-1)
        others = other_head.logits(other_hidden_ND[rows], other_weight).log_softmax(-1)
        target = target_N[rows, None]
        found.logprob_N[rows], found.other_N[rows] = logprobs.gather(1, target)[:, 0], others.gather(1, target)[:, 0]
        probs = logprobs.exp()
        found.kl_N[rows] = (probs * (logprobs - others)).sum(-1)
        found.entropy_N[rows] = -(probs * logprobs).sum(-1)
    return found


def predicting_states(model: Any, batch: BranchBatch, precision: str) -> Tensor:
    """Hidden states that predict the response tokens, `[N, D]`, in the type of the head's product."""
    return decoder_states(model, batch, precision).flatten(0, 1)[batch.source_N].to(compute_dtype(precision))


def decoder_states(model: Any, batch: BranchBatch, precision: str) -> Tensor:
    """Final hidden states (after the last norm) of the whole batch, `[R, T, D]`."""
    with autocast(precision, batch.ids_RT.device):
        hidden_RTD: Tensor = model.get_decoder()(
            input_ids=batch.ids_RT, position_ids=batch.positions_RT, use_cache=False, **_attention_inputs(model, batch)
        )[0]
    return hidden_RTD


def _attention_inputs(model: Any, batch: BranchBatch) -> dict[str, Any]:
    """What a model is called with so that it attends as the layout of the batch asks."""
    if batch.plan is None:
        return {"attention_mask": batch.padding_RT}
    if model.config._attn_implementation == BRANCH_ATTENTION:
        # a 4D mask passes through untouched: without one, transformers would build a T × T mask that nobody reads
        placeholder = torch.zeros(1, 1, 1, 1, device=batch.ids_RT.device)
        return {"attention_mask": placeholder, "branch_plan": batch.plan}
    # eager attention adds the mask, so it must be a float one: a boolean mask would be silently wrong
    smallest = torch.finfo(torch.float32).min
    return {"attention_mask": torch.where(batch.plan.dense(), 0.0, smallest)[None, None]}


def response_logprobs(model: Any, batch: BranchBatch, *, precision: str = "fp32", look: bool = True) -> Tensor:
    """log π(y|x) of every response, summed over its tokens, in nats, float32, `[B]`.

    `precision` is `fp32`, or `bf16` for matrix products under autocast. Divide by `batch.lengths_B()` for means.
    Raises NotFinite for one that is not finite, unless nobody is to `look`.
    """
    hidden_ND = predicting_states(model, batch, precision)
    logprobs_N = chunked_logprobs(hidden_ND, head_of(model), batch.target_N)
    logprobs_B = sum_by_branch(logprobs_N, batch)
    if look:
        check_finite(logprobs_B, "log-probs", model)
    return logprobs_B


def check_finite(values_B: Tensor, what: str, model: Any) -> None:
    """Raises NotFinite, naming the model, if a value per response (or token) is not finite: it would pass for a number.

    A NaN compares as a tie, and an average drowns in it.
    """
    finite_B = values_B.isfinite()
    if not bool(finite_B.all()):
        name = getattr(model, "name_or_path", "") or type(model).__name__
        count = f"{int((~finite_B).sum())} of {len(finite_B)}"
        raise NotFinite(f"{name}: {count} {what} are not finite; use --precision fp32, or check the model's weights")


def sum_by_branch(values_N: Tensor, batch: BranchBatch) -> Tensor:
    """Sum a value per predicted token over each response, `[N]` → `[B]`."""
    return values_N.new_zeros(batch.branches).index_add(0, batch.branch_N, values_N)
