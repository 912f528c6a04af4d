"""A policy in training: all weights, or an adapter inside the base; and the one door to the base as it was loaded."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..data import TextFormat
from .adapters import LAYERS
from .blocks import compile_blocks, plain_blocks
from .engine import ranks
from .frozen import FrozenLinear, base_of, frozen_layers
from .loading import Base, awake, load_any, rest
from .saving import save_adapter, save_in_parts, save_policy, whole_folder
from .starts import CONFIG, WEIGHTS, loading, mark_adapter

PLAIN = "plain_weight"  # where a layer keeps its own weight while an adapter is folded into it


@dataclass(frozen=True)
class Policy:
    """A model in training: all of its weights, or a LoRA adapter inside the base model that it started from.

    Where several processes hold parts of its weights, `outline` is the same policy without any.
    """

    model: PreTrainedModel
    form: TextFormat
    adapter: PeftModel | None = None
    outline: Policy | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within it the adapter is folded into the weights (sampling is faster); after it they are as before, exactly.

        Un-merging by subtraction would leave rounding behind, so the plain weights are kept and put back. Into weights
        in few bits nothing is folded: most of it would be lost in their rounding. There the adapter acts as it does in
        training.
        """
        layers = [one for one in adapted_layers(self.model) if not isinstance(one.get_base_layer(), FrozenLinear)]
        try:
            for layer in layers:
                weight = layer.get_base_layer().weight
                setattr(layer, PLAIN, weight.data)
                weight.data = weight.data.clone()
                layer.merge()
            yield
        finally:
            for layer in layers:
                if hasattr(layer, PLAIN):
                    layer.get_base_layer().weight.data = getattr(layer, PLAIN)
                    delattr(layer, PLAIN)
                layer.merged_adapters.clear()

    def whole(self) -> Policy:
        """The policy with all of its weights in one place: on the first of several processes, on others as it is."""
        if self.outline is None:
            return self
        weights = ranks().gathered(dict(self.model.named_parameters()))
        return _filled(self.outline, weights) if ranks().leads else self

    def save(self, folder: Path, *, merge_into: str = "base") -> None:
        """Write `folder/policy`, which `from_pretrained` loads, and `folder/adapter` where there is one.

        The adapter is the truth where the base is kept in few bits; `policy` has it in the numbers that these stand
        for, or with `merge_into` "original" in the weights that the base was made of, beside which it was not trained.
        Raises RuntimeError if what lies in the files is not what was trained.
        """
        if self.adapter is None:
            with whole_folder(folder / "policy") as place:
                save_policy(self.model, self.form.tokenizer, place)
            return
        with whole_folder(folder / "adapter") as place:
            save_adapter(self.adapter, place)
            if base_of(self.model) != "fp32":
                mark_adapter(place, base_of(self.model))
        with whole_folder(folder / "policy") as place:
            if merge_into == "original":
                whole = self._in_original()
                save_policy(whole, self.form.tokenizer, place)
            elif base_of(self.model) != "fp32":
                save_in_parts(self.model, self.form.tokenizer, place, whole_weights(self.model))
            else:
                self._save_merged(place)

    def _save_merged(self, folder: Path) -> None:
        with self.merged():
            plain = plain_weights(self.model)
            whole = type(self.model)(copy.deepcopy(self.model.config))
            whole.load_state_dict(plain)
            whole.generation_config = self.model.generation_config
            save_policy(whole, self.form.tokenizer, folder, weights=plain)

    def _in_original(self) -> PreTrainedModel:
        name = self.model.name_or_path
        whole, _ = load_any(name, f"--merge-into original: {name}")
        for path, layer in self.model.named_modules():
            if isinstance(layer, LoraLayer):
                weight = whole.get_submodule(path).weight
                weight.data += layer.get_delta_weight("default").cpu()
        return whole

    def close(self) -> None:
        """Take the adapter out of the base model, which is then as it was."""
        if self.adapter is not None:
            plain_blocks(self.model)
            self.adapter.unload()


@contextmanager
def closed_on_error(policy: Policy) -> Iterator[None]:
    """Close the policy if what is done with it fails, so that no adapter stays in a model that others share."""
    try:
        yield
    except BaseException:
        policy.close()
        raise


def start_policy(
    base: Base,
    *,
    lora: int,
    seed: int,
    grad_checkpointing: bool = False,
    compiled: bool = False,
    parallel: str = "auto",
) -> Policy:
    """A policy equal to the base: a copy of all weights, or with `lora` > 0 an adapter of that rank in the base.

    The adapter sits on every linear layer but the head (alpha = 2·rank, no dropout); switched off, the model is the
    reference, bit for bit. Beside a copy of all weights the base's own wait in main memory. `compiled`: as
    `blocks.compile_blocks`. Several processes spread both as `parallel` says: each a part of the weights (`fsdp`), or
    all of them (`ddp`); `auto` cuts them where all are trained. Raises RuntimeError if the base has an adapter.
    """
    if adapted_layers(base.model):
        raise RuntimeError("there is an adapter in the base model already: the run before was not closed")
    base.model.requires_grad_(False)
    base.model.to(base.device)
    if not lora and base_of(base.model) != "fp32":
        raise RuntimeError(f"the base is kept in {base_of(base.model)}: its weights cannot be trained, an adapter can")
    if lora:
        torch.manual_seed(seed)
        policy = Policy(base.model, base.form, _add_adapter(base.model, lora))
    else:
        policy = Policy(copy.deepcopy(base.model).requires_grad_(True), base.form)
        if base.device.type != "cpu" and ranks().world == 1:
            rest(base)
    with closed_on_error(policy):
        if grad_checkpointing:
            checkpoint_activations(policy.model)
        if compiled:
            compile_blocks(policy.model)
    policy.model.train()
    return policy if ranks().world == 1 else _spread(policy, base, parallel)


def _spread(policy: Policy, base: Base, parallel: str) -> Policy:
    """The policy, and the base beside it, held by several processes."""
    outline = _outline(policy)
    how = parallel if parallel != "auto" else "ddp" if policy.adapter else "fsdp"
    for model in {policy.model: None, base.model: None}:
        ranks().spread(model, how)
    return replace(policy, outline=outline)


def _outline(policy: Policy) -> Policy:
    """The same modules, whose parameters have shapes and no values."""
    empty = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in policy.model.parameters()
    }
    model, adapter = copy.deepcopy((policy.model, policy.adapter), empty)
    return Policy(model, policy.form, adapter)


def _filled(outline: Policy, weights: Mapping[str, Tensor]) -> Policy:
    """The outline with those values, by name; parameters that are tied stay so."""
    values = {
        id(parameter): nn.Parameter(weights[name], requires_grad=parameter.requires_grad)
        for name, parameter in outline.model.named_parameters()
    }
    for module in outline.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, values[id(parameter)])
    return outline


def load_adapter(base: Base, folder: Path) -> Policy:
    """A policy that was trained beside this base, from the folder that `Policy.save` left its adapter in.

    Raises UserError for an adapter of other layers.
    """
    where = f"{folder}"
    with loading(f"{where}: its adapter cannot be read"):
        rank = int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"])
        weights = load_file(folder / WEIGHTS)
    policy = start_policy(base, lora=rank, seed=0)
    with closed_on_error(policy), loading(f"{where}: its adapter does not fit its base"):
        wanted = get_peft_model_state_dict(policy.adapter, save_embedding_layers=False)
        if homeless := sorted(wanted.keys() ^ weights.keys()):
            raise ValueError(f"{homeless[0]} is in one of them alone")
        set_peft_model_state_dict(policy.adapter, weights)
    return policy


def _add_adapter(model: PreTrainedModel, rank: int) -> PeftModel:
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 stores its weights that way
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=transposed
    )
    config._register_custom_module(LAYERS)
    with warnings.catch_warnings():  # peft asks by a name that transformers has since changed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapter: PeftModel = get_peft_model(model, config)
    return adapter


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Compute every layer again in the backward pass instead of keeping its activations; acts in training mode."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:  # its name in earlier releases of transformers
        model.gradient_checkpointing_enable(options)


def adapted_layers(model: nn.Module) -> list[Any]:
    """The layers of a model that have a LoRA adapter."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def plain_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its adapters, under the names that it had before they came."""
    return {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if ".lora_" not in name
    }


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model in few bits as the numbers that they stand for, float32, the adapter added to them.

    They come one after the other, under plain names; of tensors that are one (tied embeddings) only the first.
    Packing the sum again would lose most of the adapter.
    """
    layers = {f"{name}.weight": layer for name, layer in frozen_layers(model).items()}
    scales = {f"{name.removesuffix('weight')}scale" for name in layers}
    seen: set[int] = set()
    for path, value in model.state_dict().items():
        if ".lora_" in path or path in scales or value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        name = path.replace(".base_layer", "")
        if path in layers:
            value = layers[path].dense()
        holder = model.get_submodule(name.rpartition(".")[0])
        if isinstance(holder, LoraLayer) and name.endswith(".weight"):
            value = value + holder.get_delta_weight("default")
        yield name, value.float() if value.is_floating_point() else value


@contextmanager
def active_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Within it only the adapter of that name acts on the model (None: none does); after it all is as before.

    peft's own switches (`set_adapter`, `disable_adapter`) also change which parameters require a gradient, so that
    a backward pass through two adapters would leave one of them still, silently. This one touches no parameter. An
    adapter that a layer does not have does nothing there.
    """
    layers = adapted_layers(model)
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    for layer in layers:
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]
    try:
        yield
    finally:
        for layer, (disabled, active) in zip(layers, before, strict=True):
            layer._disable_adapters, layer._active_adapter = disabled, active


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Within it the model is as it was loaded: no adapter acts, none is folded in, dropout is off, no gradient is kept.

    Whatever surrounds it is as before after it. Raises RuntimeError if an adapter was folded in by somebody else, who
    did not keep the plain weights.
    """
    layers = [layer for layer in adapted_layers(model) if layer.merged]
    if not all(hasattr(layer, PLAIN) for layer in layers):
        raise RuntimeError("an adapter is merged into the weights of the base model, and its plain weights are lost")
    folded = [(layer, layer.get_base_layer().weight.data, layer.merged_adapters) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    try:
        for layer in layers:
            layer.get_base_layer().weight.data = getattr(layer, PLAIN)
            layer.merged_adapters = []  # peft would un-merge by subtraction
        model.eval()
        with active_adapter(model, None), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for layer, weight, names in folded:
            layer.get_base_layer().weight.data = weight
            layer.merged_adapters = names


@dataclass(frozen=True)
class Reference:
    """A model as it was loaded, whatever is trained inside it: the one door to reference log-probs, features, scores.

    Nobody gets at the model but through `alone`. A LoRA policy lives inside its base model, so that whoever asked the
    model itself would ask the policy.
    """

    _base: Base

    @property
    def name(self) -> str:
        return self._base.name

    @property
    def sha256(self) -> str:
        return self._base.sha256

    @property
    def form(self) -> TextFormat:
        return self._base.form

    def is_start(self, base: Base) -> bool:
        """Whether the policies that start from `base` start from this."""
        return self._base.sha256 == base.sha256

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Within it the model need not come from main memory each time that it is asked."""
        with awake(self._base):
            yield

    @contextmanager
    def alone(self) -> Iterator[PreTrainedModel]:
        """The model, as `alone` has it."""
        with awake(self._base), alone(self._base.model):
            yield self._base.model
