"""LoRA layers whose step costs little more than the frozen layer's own."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from .frozen import product_dtype, unpack


class _AdaptedLinear(torch.autograd.Function):
    """y = x (W + s·B A)ᵀ + bias with W and bias frozen, differentiable in x, A and B.

    Shapes: N tokens, I and O features in and out, r rank. W may be in few bits: `scale_` and `shape` say how it is read
    (`frozen.unpack`), also in the backward pass, where nothing of its size is kept for. In float32 the low-rank product
    is added to W: beside the frozen layer's two products of N·I·O there are four of N·r·(I or O) in the backward pass
    and none over outputs. In bf16 it is added to the output before that is rounded, once: in a sum with W most of a
    small change would be less than half of a weight's last digit, and lost.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight: Tensor,
        scale_: Tensor | None,
        shape: tuple[int, int],
        bias_O: Tensor | None,
        a_rI: Tensor,
        b_Or: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(x_NI, weight, scale_, a_rI, b_Or)
        ctx.scaling, ctx.shape = scaling, shape
        weight_OI = unpack(weight, scale_, shape, x_NI.dtype)
        if x_NI.dtype != torch.bfloat16:
            return linear(x_NI, torch.addmm(weight_OI, b_Or, a_rI, alpha=scaling), bias_O)
        added_NO = (x_NI @ a_rI.to(x_NI.dtype).T) @ (scaling * b_Or).to(x_NI.dtype).T
        if bias_O is not None:
            added_NO += bias_O
        return torch.addmm(added_NO, x_NI, weight_OI.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight, scale_, a_rI, b_Or = ctx.saved_tensors
        scaled_Or = (ctx.scaling * b_Or).to(grad_NO.dtype)
        grad_Nr = grad_NO @ scaled_Or
        grad_x = None
        if ctx.needs_input_grad[0]:
            weight_OI = unpack(weight, scale_, ctx.shape, grad_NO.dtype)
            if grad_NO.dtype != torch.bfloat16:
                grad_x = grad_NO @ torch.addmm(weight_OI, b_Or, a_rI, alpha=ctx.scaling)
            else:
                grad_x = torch.addmm(grad_Nr @ a_rI.to(grad_NO.dtype), grad_NO, weight_OI)
        grad_a = grad_Nr.T @ x_NI
        grad_b = grad_NO.T @ (x_NI @ (ctx.scaling * a_rI).to(x_NI.dtype).T)
        return grad_x, None, None, None, None, grad_a.to(a_rI.dtype), grad_b.to(b_Or.dtype), None


class AdaptedLinear(Linear):  # type: ignore[misc]
    """peft's LoRA layer with the same result from fewer products, where one plain adapter acts on a frozen layer."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        acting = [name for name in self.active_adapters if name in self.lora_A]
        layer = self.get_base_layer()
        plain = not (args or kwargs or self.disable_adapters or self.merged or layer.weight.requires_grad)
        if not plain or len(acting) != 1:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (name,) = acting
        dtype = product_dtype(x)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        scale, shape = getattr(layer, "scale", None), (layer.out_features, layer.in_features)
        with torch.autocast(x.device.type, enabled=False):
            y_NO: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
                x.to(dtype).flatten(0, -2), layer.weight, scale, shape, bias, *factors, self.scaling[name]
            )
        result = y_NO.reshape(*x.shape[:-1], -1)
        return result


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: AdaptedLinear}
