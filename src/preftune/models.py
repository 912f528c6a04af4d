"""Load and save language models; the attention of the branch layout; which layout a model can take.

Our attention serves both layouts: with a branch plan it attends per ballot, without one it is
transformers' own SDPA, so generation and padded scoring are untouched.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from .adapters import LAYERS
from .blocks import compile_blocks, plain_blocks
from .branches import BranchPlan
from .errors import UserError
from .gguf import load_gguf
from .starts import find_adapter, load_adapted, loading
from .tokens import TextFormat, text_format

BRANCH_ATTENTION = "preftune_branch"
HANDLED = {"sliding_window", "softcap", "s_aux", "branch_plan", "position_ids", "use_cache", "is_causal"}
SHORT_PROMPT = 32  # up to here one call over the whole ballot costs less than two
PLAIN = "plain_weight"  # where a layer keeps its own weight while an adapter is folded into it


@dataclass(frozen=True)
class Base:
    """A loaded model and what identifies it: the start of every run, and its reference."""

    model: PreTrainedModel
    form: TextFormat
    name: str
    sha256: str

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.form.tokenizer


def load_base(name: str, *, device: torch.device) -> Base:
    """Load a causal language model from a folder, a GGUF file or the hub, weights in float32, dropout off.

    A folder with an adapter in it is its base (the model in the folder, else the one that the adapter names) with the
    adapter folded in. Raises UserError when there is no such model, when it is not one that generates text, or when a
    weight is not finite.
    """
    transformers_logging.disable_progress_bar()
    model, tokenizer = _load(name)
    check_weights(model, f"--model {name}")
    model.to(device)
    return Base(model, text_format(tokenizer), name, weights_hash(model))


def check_weights(model: nn.Module, where: str) -> None:
    """Raises UserError, naming the weight, for one with values that are not finite."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise UserError(f"{where}: its weight {name} holds values that are not finite; fetch or train it again")


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if name.endswith(".gguf"):
        return _load_gguf(Path(name))
    if adapter := find_adapter(name):
        return load_adapted(name, adapter, _load)
    return _load_folder_or_hub(name)


def _load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not path.is_file():
        raise UserError(f"--model {path}: no such file")
    model, tokenizer = load_gguf(path)
    use_branch_attention(model)
    return model, tokenizer


def _load_folder_or_hub(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"--model {name}: no model there (a model folder has a config.json)")
    hint = "" if folder.exists() else "; it is no local folder, and the hub did not serve it"
    with loading(f"--model {name}: not a causal language model that can be loaded{hint}"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        no_dropout(config)
        model, report = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    if report["missing_keys"]:
        raise UserError(
            f"--model {name}: its weights lack {sorted(report['missing_keys'])[0]}; is the folder complete?"
        )
    with loading(f"--model {name}: its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    use_branch_attention(model)
    return model, tokenizer


def no_dropout(config: Any) -> None:
    """Set every dropout rate of a configuration to 0, so that training mode and scoring agree."""
    for key, value in config.to_dict().items():
        if isinstance(value, float) and ("drop" in key or key.endswith("pdrop")):
            setattr(config, key, 0.0)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the configuration and all parameters: what a reference log-prob depends on."""
    config = {key: value for key, value in model.config.to_dict().items() if key not in {"_name_or_path", "dtype"}}  # type: ignore[union-attr, operator]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a folder that `from_pretrained` loads: safetensors, configuration, tokenizer.

    Then the file is compared with `weights`, by default the model's own. Raises RuntimeError where they differ.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_saved(folder, model.state_dict() if weights is None else weights, type(model))


def save_adapter(adapter: PeftModel, folder: Path) -> None:
    """Write the adapter as peft does, with the place of its base as anybody finds it. Checked as `save_policy` is."""
    config = adapter.peft_config["default"]
    name = config.base_model_name_or_path
    if name and Path(name).exists():
        config.base_model_name_or_path = str(Path(name).resolve())
    # on linear layers alone: peft need not look on the hub whether the vocabulary was changed
    adapter.save_pretrained(
        str(folder), safe_serialization=True, selected_adapters=["default"], save_embedding_layers=False
    )
    check_saved(folder, get_peft_model_state_dict(adapter, adapter_name="default", save_embedding_layers=False))


def check_saved(folder: Path, weights: Mapping[str, Tensor], kind: type[PreTrainedModel] | None = None) -> None:
    """Compare every tensor with what lies in the folder. Raises RuntimeError, naming the first that differs.

    The files are read one tensor at a time. A tensor that shares its memory with one that is there (tied embeddings)
    need not be there itself. Some architectures are saved under other names: then the model, which is of that `kind`,
    is loaded again.
    """
    with ExitStack() as files:
        opened = [files.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        homes = {name: file for file in opened for name in sorted(file.keys())}
        shared = {weights[name].data_ptr() for name in homes if name in weights}
        absent = [name for name, tensor in weights.items() if name not in homes and tensor.data_ptr() not in shared]
        if absent and kind is not None and homes.keys() - weights.keys():
            check_loaded(folder, weights, kind)
            return
        differ = (n for n, w in weights.items() if n in homes and not torch.equal(homes[n].get_tensor(n), w.cpu()))
        if wrong := [*absent, *differ]:
            raise RuntimeError(f"{folder}: {wrong[0]} was not saved as it was trained; the policy is not whole")


def check_loaded(folder: Path, weights: Mapping[str, Tensor], kind: type[PreTrainedModel]) -> None:
    """As `check_saved`, of the model as it is loaded from the folder."""
    loaded = kind.from_pretrained(folder, dtype=torch.float32).state_dict()
    if wrong := [n for n, w in weights.items() if n not in loaded or not torch.equal(loaded[n], w.cpu())]:
        raise RuntimeError(f"{folder}: {wrong[0]} was not saved as it was trained; the policy is not whole")


# --- attention -------------------------------------------------------------------------------------------------------


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


# --- policies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """A model in training: all of its weights, or a LoRA adapter inside the base model that it started from."""

    model: PreTrainedModel
    form: TextFormat
    adapter: PeftModel | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Within it the adapter is folded into the weights (sampling is faster); after it they are as before, exactly.

        Un-merging by subtraction would leave rounding behind, so the plain weights are kept and put back.
        """
        layers = adapted_layers(self.model)
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

    def save(self, folder: Path) -> None:
        """Write `folder/policy`, which `from_pretrained` loads, and `folder/adapter` where there is one.

        Raises RuntimeError if what lies in the files is not what was trained.
        """
        if self.adapter is None:
            save_policy(self.model, self.form.tokenizer, folder / "policy")
            return
        save_adapter(self.adapter, folder / "adapter")
        with self.merged():
            plain = plain_weights(self.model)
            whole = type(self.model)(copy.deepcopy(self.model.config))
            whole.load_state_dict(plain)
            whole.generation_config = self.model.generation_config
            save_policy(whole, self.form.tokenizer, folder / "policy", weights=plain)

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
    base: Base, *, lora: int, seed: int, grad_checkpointing: bool = False, compiled: bool = False
) -> Policy:
    """A policy equal to the base: a copy of all weights, or with `lora` > 0 an adapter of that rank in the base.

    The adapter sits on every linear layer but the head (alpha = 2·rank, no dropout); switched off, the model is the
    reference, bit for bit. `compiled`: as `blocks.compile_blocks`. Raises RuntimeError if the base has an adapter.
    """
    if adapted_layers(base.model):
        raise RuntimeError("there is an adapter in the base model already: the run before was not closed")
    base.model.requires_grad_(False)
    if lora:
        torch.manual_seed(seed)
        policy = Policy(base.model, base.form, _add_adapter(base.model, lora))
    else:
        policy = Policy(copy.deepcopy(base.model).requires_grad_(True), base.form)
    with closed_on_error(policy):
        if grad_checkpointing:
            checkpoint_activations(policy.model)
        if compiled:
            compile_blocks(policy.model)
    policy.model.train()
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
    def alone(self) -> Iterator[PreTrainedModel]:
        """The model, as `alone` has it."""
        with alone(self._base.model):
            yield self._base.model
