"""LoRA layers whose step costs little more than the frozen layer's own: the low-rank product is added to the weight."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class _AdaptedLinear(torch.autograd.Function):
    """y = x (W + s·B A)ᵀ + bias with W and bias frozen, differentiable in x, A and B.

    Shapes: N tokens, I and O features in and out, r rank. Beside the frozen layer's two products of N·I·O there are
    four of N·r·(I or O) in the backward pass and none over outputs; W + s·B A is made again there instead of kept.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_rI: Tensor, b_Or: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI, a_rI, b_Or)
        ctx.scaling = scaling
        adapted_OI = torch.addmm(weight_OI, b_Or, a_rI, alpha=scaling)
        return linear(x_NI, adapted_OI.to(x_NI.dtype), bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, a_rI, b_Or = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_NO @ torch.addmm(weight_OI, b_Or, a_rI, alpha=ctx.scaling).to(grad_NO.dtype)
        scaled_Or = (ctx.scaling * b_Or).to(grad_NO.dtype)
        grad_a = (grad_NO @ scaled_Or).T @ x_NI
        grad_b = grad_NO.T @ (x_NI @ (ctx.scaling * a_rI).to(x_NI.dtype).T)
        return grad_x, None, None, grad_a.to(a_rI.dtype), grad_b.to(b_Or.dtype), None


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
        place = x.device.type
        dtype = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x.dtype
        bias = None if layer.bias is None else layer.bias.to(dtype)
        factors = self.lora_A[name].weight, self.lora_B[name].weight
        with torch.autocast(place, enabled=False):
            y_NO: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
                x.to(dtype).flatten(0, -2), layer.weight, bias, *factors, self.scaling[name]
            )
        result = y_NO.reshape(*x.shape[:-1], -1)
        return result


LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: AdaptedLinear}
