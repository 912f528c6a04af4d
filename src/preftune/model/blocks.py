"""The blocks of a decoder: where they are, and as compiled code where they are trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import nn

from ..errors import UserError


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The blocks of a model's decoder, in order. Raises UserError if they cannot be found."""
    decoder = model.get_decoder()
    count = decoder.config.get_text_config().num_hidden_layers
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"--model: the layers of {type(decoder).__name__} were not found, which --compile and --kind frozen need"
    )


def compile_blocks(model: Any) -> None:
    """From here on a forward pass of each block that is to be differentiated runs compiled (`torch.compile`).

    Norms, rotary positions, activations and casts become a few passes over memory instead of dozens; products and
    attention stay what they are. Blocks of a class share the code, and lengths do not matter to it, so it is compiled
    once. Passes without gradients stay bit for bit what they were. Raises UserError where there is no compiler, or
    for a model whose blocks cannot be found.
    """
    blocks = decoder_blocks(model)
    _try_compiler(next(model.parameters()).device)
    for block in blocks:
        compiled = _compiled_for_training(type(block))  # type: ignore[arg-type]  # mypy asks whether blocks are hashable
        block.forward = MethodType(compiled, block)  # a method: a copied block gets its own, with its own weights


def plain_blocks(model: Any) -> None:
    """Undo `compile_blocks`; nothing happens where it was not called."""
    for module in model.modules():
        if hasattr(vars(module).get("forward"), "compiled"):
            del module.forward


@cache
def _compiled_for_training(block: type[nn.Module]) -> Callable[..., Any]:
    plain = block.forward
    compiled = torch.compile(plain, dynamic=True)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else plain)(self, *args, **kwargs)

    forward.compiled = compiled  # type: ignore[attr-defined]
    return forward


def _try_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # whatever a toolchain lacks, on whichever device
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--compile: nothing can be compiled here ({reason}); install g++, or leave it out") from error
