"""Weights put into few bits one after the other as they are read: the model is never whole in float32.

This is the way that transformers has for it: a quantizer prepares the empty model, and an operation turns each tensor
of the files into what is kept of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import UserError
from .frozen import pack, prepare

METHOD = "preftune_few_bits"


@register_quantization_config(METHOD)
class FewBits(QuantizationConfigMixin):  # type: ignore[misc]
    """How the weights are to be kept, and what an error begins with."""

    def __init__(self, base: str, where: str) -> None:
        self.quant_method, self.base, self.where = METHOD, base, where


@register_quantizer(METHOD)
class Packer(HfQuantizer):  # type: ignore[misc]
    """Prepares an empty model for weights in few bits, and knows which of its weights are packed."""

    def __init__(self, quantization_config: FewBits, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.packed: frozenset[str] = frozenset()
        self.wrong: list[str] = []  # weights with values that are not finite

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        wanted = self.quantization_config
        layers = prepare(model, wanted.base, wanted.where)
        self.packed = frozenset(f"{name}.weight" for name, module in model.named_modules() if module in layers)

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.packed

    def get_quantize_ops(self) -> ConversionOps:
        return _Pack(self)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Pack(ConversionOps):  # type: ignore[misc]
    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    @torch.no_grad()
    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            if not bool(weight.isfinite().all()):
                self.packer.wrong.append(name)
            packed, scale = pack(weight, self.packer.quantization_config.base)
            kept[name] = packed
            if scale is not None:
                kept[f"{name.removesuffix('weight')}scale"] = scale
        return kept


def packed(model: PreTrainedModel) -> PreTrainedModel:
    """A model that was loaded so, without what transformers would make of one that it has quantized itself.

    Raises UserError, naming the weight, for one with values that were not finite.
    """
    packer: Packer = model.hf_quantizer
    if packer.wrong:
        where = packer.quantization_config.where
        raise UserError(
            f"{where}: its weight {packer.wrong[0]} holds values that are not finite; fetch or train it again"
        )
    packer.remove_quantization_config(model)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module.config).pop("_is_quantized", None)
    return model
