"""A frozen base in few bits: its linear layers in bf16, int8 or nf4, read as plain numbers where they are multiplied.

`int8` has a scale a row, `nf4` 4 bits and a scale for every 64 weights (QLoRA, arXiv 2305.14314; bitsandbytes packs and
reads them). Embeddings and head are bf16, norms and biases stay float32. Activations stay what they were: a product is
made in the type of its input, so that the model in few bits is a plain model with rounded weights, which can be written
down and loaded anywhere.

Shapes: O and I features out and in, N tokens.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from ..errors import UserError
from .bits import check_library
from .blocks import decoder_blocks

BLOCK = 64  # weights that share a scale in nf4
MOST_OTHERS = 0.05  # of the blocks' matrices may be in layers that are not replaced


def _nf4() -> Any:
    """The operators of bitsandbytes, imported when they are first needed."""
    check_library("nf4")
    import bitsandbytes  # noqa: F401

    return torch.ops.bitsandbytes


def written_by(base: str) -> str:
    """What the values of a base in few bits depend on beside what is kept of them."""
    return f"{base}, bitsandbytes {version('bitsandbytes')}" if base == "nf4" else base


def pack(weight_OI: Tensor, base: str) -> tuple[Tensor, Tensor | None]:
    """A weight in few bits, and its scales: bf16 has none, int8 one a row, nf4 one for every `BLOCK` weights in a row.

    nf4 is `[blocks, BLOCK / 2]`, filled up with zeros: the library's kernel for a CPU reads widths that are no multiple
    of a block wrongly.
    """
    if base == "bf16":
        return weight_OI.bfloat16(), None
    weight_OI = weight_OI.float()
    if base == "int8":
        scale_O1 = weight_OI.abs().amax(1, keepdim=True) / 127
        steps = weight_OI / scale_O1.clamp_min(torch.finfo(torch.float32).tiny)
        return steps.round_().clamp_(-127, 127).to(torch.int8), scale_O1
    flat = weight_OI.reshape(-1)
    blocks = pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    packed, scale = _nf4().quantize_4bit(blocks, BLOCK, "nf4", torch.uint8)
    return packed.view(-1, BLOCK // 2), scale


def unpack(packed: Tensor, scale: Tensor | None, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight that was packed, `[O, I]`, of a type."""
    if scale is None:
        return packed.to(dtype)
    if packed.dtype == torch.int8:
        return packed.float().mul_(scale).to(dtype)
    blocks = len(packed), BLOCK
    values = torch.ops.bitsandbytes.dequantize_4bit(packed.view(-1, 1), scale, BLOCK, "nf4", blocks, dtype)
    weight_OI: Tensor = values.view(-1)[: shape[0] * shape[1]].view(shape)
    return weight_OI


class _Product(torch.autograd.Function):
    """y = x Wᵀ + bias of a weight in few bits, which is read again in the backward pass instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, packed: Tensor, scale: Tensor | None, shape: tuple[int, int], bias_O: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(packed, scale)
        ctx.shape = shape
        return linear(x_NI, unpack(packed, scale, shape, x_NI.dtype), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        packed, scale = ctx.saved_tensors
        return grad_NO @ unpack(packed, scale, ctx.shape, grad_NO.dtype), None, None, None, None


class FrozenLinear(nn.Linear):
    """A linear layer whose `weight` is packed, with its `scale`."""

    scale: nn.Parameter | None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight as it is multiplied."""
        return self.out_features, self.in_features

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as plain numbers, `[O, I]`."""
        return unpack(self.weight, self.scale, self.shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        dtype, place = product_dtype(x), x.device.type
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(place, enabled=False):
            y_NO: Tensor = _Product.apply(x.to(dtype).flatten(0, -2), self.weight, self.scale, self.shape, bias)  # type: ignore[no-untyped-call]
        return y_NO.reshape(*x.shape[:-1], -1)


class FrozenEmbedding(nn.Embedding):
    """An embedding that is kept in bf16 and read in float32, the type of the states that it begins."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).float()


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which a product with `x` runs."""
    place = x.device.type
    return torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x.dtype


# --- a whole model ----------------------------------------------------------------------------------------------------


def freeze_in(model: Any, base: str, where: str) -> None:
    """Put the weights of a float32 model into few bits, in place, one after the other.

    Raises UserError, beginning with `where`, for a model whose layers are not of the kind that can be replaced.
    """
    for layer in prepare(model, base, where):
        packed, scale = pack(layer.weight.data, base)
        layer.weight = nn.Parameter(packed, requires_grad=False)
        if scale is not None:
            layer.scale = nn.Parameter(scale, requires_grad=False)
    check_runs(model, base, where)


def prepare(model: Any, base: str, where: str) -> list[nn.Linear]:
    """Make the layers of a model ready for weights in few bits, which are still to come; returns those layers.

    Embedding and head are shortened already. The model may be empty (on the device `meta`).
    """
    check_library(base, where)
    layers, ends = packable(model, where), _short_ends(model)
    model.requires_grad_(False)
    short = {id(end.weight): end.weight.data.bfloat16() for end in ends}
    tied = {place: nn.Parameter(weight, requires_grad=False) for place, weight in short.items()}
    for module in (*layers, *ends):
        if module in ends:
            module.weight = tied[id(module.weight)]
        module.__class__ = FrozenEmbedding if isinstance(module, nn.Embedding) else FrozenLinear
        scales = _scales(module, base) if module in layers else None
        module.register_parameter("scale", None if scales is None else nn.Parameter(scales, requires_grad=False))
    model.base_kept_as = base
    return layers


def _scales(layer: nn.Linear, base: str) -> Tensor | None:
    """Room for the scales of a layer, without numbers."""
    rows, weights = layer.out_features, layer.out_features * layer.in_features
    shape = {"bf16": None, "int8": (rows, 1), "nf4": (-(-weights // BLOCK),)}[base]
    return None if shape is None else torch.empty(shape, device="meta")


def check_runs(model: Any, base: str, where: str) -> None:
    """Raises UserError, beginning with `where`, for a model that does more with a weight than multiply."""
    device = model.get_input_embeddings().weight.device
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except Exception as error:  # whatever an architecture does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{where}: {type(model).__name__} cannot be kept in {base} ({reason}); use --base fp32"
        ) from error


def round_to(model: Any, base: str, where: str) -> None:
    """Round the weights of a float32 model to what they would be in few bits, in place: an adapter that was trained
    beside those has its effect on these, and on no others."""
    check_library(base, where)
    for layer in packable(model, where):
        shape = layer.out_features, layer.in_features
        layer.weight.data = unpack(*pack(layer.weight.data, base), shape, torch.float32)
    for end in _short_ends(model):
        end.weight.data = end.weight.data.bfloat16().float()


def packable(model: Any, where: str) -> list[nn.Linear]:
    """The linear layers of the blocks. Raises UserError where too many of the blocks' weights are in others."""
    blocks = decoder_blocks(model)
    layers = [module for module in blocks.modules() if type(module) is nn.Linear]
    matrices = {name: p for name, p in blocks.named_parameters() if p.dim() > 1}
    own = {id(layer.weight) for layer in layers}
    others = {name: p.numel() for name, p in matrices.items() if id(p) not in own}
    if sum(others.values()) > MOST_OTHERS * sum(p.numel() for p in matrices.values()):
        raise UserError(
            f"{where}: {type(model).__name__} keeps weights in layers that are no plain linear ones "
            f"({max(others, key=lambda name: others[name])}), which have no few-bit form here; use --base fp32"
        )
    return layers


def _short_ends(model: Any) -> list[Any]:
    """Embedding and head, which are kept in bf16; one of an architecture that computes more than a row or a product
    stays as it is."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    plain, tied = type(embedding) is nn.Embedding, head is not None and head.weight is embedding.weight
    ends = [embedding] if plain else []
    return [*ends, head] if type(head) is nn.Linear and (plain or not tied) else ends


def base_of(model: nn.Module) -> str:
    """How the weights of a model are kept."""
    return str(getattr(model, "base_kept_as", "fp32"))


def frozen_layers(model: nn.Module) -> dict[str, FrozenLinear]:
    """The layers in few bits, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FrozenLinear)}


def parameter_count(model: nn.Module) -> int:
    """How many weights a model has, however they are kept."""
    packed = {id(layer.weight): layer for layer in frozen_layers(model).values() if layer.scale is not None}
    scales = {id(layer.scale) for layer in packed.values()}
    plain = sum(p.numel() for p in model.parameters() if id(p) not in packed and id(p) not in scales)
    return plain + sum(math.prod(layer.shape) for layer in packed.values())
