"""A language model by its name: a folder, an adapter's folder, a GGUF file, the hub."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ..data import TextFormat, template_options, text_format
from ..errors import UserError
from .attention import use_branch_attention
from .bits import check_library
from .frozen import base_of, check_runs, freeze_in, written_by
from .gguf import load_gguf
from .packing import FewBits, packed
from .starts import find_adapter, load_adapted, loading

CPU = torch.device("cpu")
RESTING = "resting"  # where a parameter keeps its copy in main memory


@dataclass(frozen=True)
class Base:
    """A loaded model and what identifies it: the start of every run, and its reference.

    `device` is where it computes. Its weights may be in main memory meanwhile: `awake` has them there.
    """

    model: PreTrainedModel
    form: TextFormat
    name: str
    sha256: str
    device: torch.device = CPU

    @property
    def kept_as(self) -> str:
        """How its weights are kept: `fp32`, `bf16`, `int8` or `nf4`."""
        return base_of(self.model)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.form.tokenizer


def load_base(name: str, *, device: torch.device, where: str = "", template: str = "", base: str = "fp32") -> Base:
    """Load a causal language model from a folder, a GGUF file or the hub, weights in float32, dropout off.

    With another `base` its weights are then put into few bits (`frozen`): so only an adapter can be trained.

    A folder with an adapter in it is its base (the model in the folder, else the one that the adapter names) with the
    adapter folded in. `template` are options of its chat template, as `--template-options` has them. Raises UserError,
    beginning with `where` (by default `--model` and the name), when there is no such model, when it is not one that
    generates text, when a weight is not finite, or when the tokenizer does not fit.
    """
    where = where or f"--model {name}"
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every attempt
    check_library(base, where)
    model, tokenizer = load_any(name, where, base)
    check_weights(model, where)
    check_vocabulary(model, tokenizer, where)
    if base_of(model) != base:  # a folded adapter, a GGUF file
        freeze_in(model, base, where)
    model.to(device)
    form = text_format(tokenizer, where=where, options=template_options(template))
    return Base(model, form, name, weights_hash(model), device)


def rest(base: Base) -> None:
    """Keep the weights in main memory until they are asked for: a policy of its own needs the room on a GPU.

    They are copied there once: nothing changes them.
    """
    for parameter in base.model.parameters():
        if not hasattr(parameter, RESTING):
            setattr(parameter, RESTING, parameter.data.to(CPU))
        parameter.data = getattr(parameter, RESTING)


@contextmanager
def awake(base: Base) -> Iterator[None]:
    """Within it the base's weights are on its device; after it they are where they were."""
    parameters = [parameter for parameter in base.model.parameters() if parameter.device != base.device]
    before = [parameter.data for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data = parameter.data.to(base.device)
        yield
    finally:
        for parameter, data in zip(parameters, before, strict=True):
            parameter.data = data


def check_weights(model: nn.Module, where: str) -> None:
    """Raises UserError, naming the weight, for one with values that are not finite."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise UserError(f"{where}: its weight {name} holds values that are not finite; fetch or train it again")


def load_form(name: str, template: str = "", where: str = "") -> TextFormat:
    """How a model's texts become tokens, from its tokenizer alone; `template` are options of its chat template.

    Raises UserError, beginning with `where` (by default `--model` and the name), where there is no tokenizer.
    """
    where = where or f"--model {name}"
    path = Path(name)
    folder, options = (str(path.parent), {"gguf_file": path.name}) if name.endswith(".gguf") else (name, {})
    if options and not path.is_file():
        raise UserError(f"{where}: no such file")
    if path.exists() and not options and not any(path.glob("*token*.json")):
        raise UserError(f"{where}: no tokenizer there (a model folder has a tokenizer.json)")
    hint = "" if path.exists() else "; it is no local folder, and the hub did not serve it"
    with loading(f"{where}: its tokenizer cannot be loaded{hint}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    return text_format(tokenizer, where=where, options=template_options(template))


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises UserError for a tokenizer with a token that the embedding has no row for."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    token, number = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if number >= rows:
        raise UserError(
            f"{where}: its tokenizer has {token!r} with the id {number}, and the embedding has {rows} rows; resize the "
            "embedding, or take the tokenizer that belongs to the model"
        )


def reads_at_most(model: PreTrainedModel) -> int | None:
    """How many tokens a model reads at most; None where its configuration sets no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or None


def load_any(name: str, where: str, base: str = "fp32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and its tokenizer: of a GGUF file, a folder with an adapter, any folder, or the hub.

    Of the last two the weights are kept in `base`; the others are as yet float32.
    """
    if name.endswith(".gguf"):
        return _load_gguf(Path(name), where)
    if adapter := find_adapter(name, where):
        return load_adapted(name, where, adapter, load_any)
    return _load_folder_or_hub(name, where, base)


def _load_gguf(path: Path, where: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not path.is_file():
        raise UserError(f"{where}: no such file")
    model, tokenizer = load_gguf(path)
    model.name_or_path = str(path)  # and not the folder, which names no model
    use_branch_attention(model)
    return model, tokenizer


MOST_LAYERS = 2000  # no model has so many, and each is made before a weight is read


def _load_folder_or_hub(name: str, where: str, base: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = Path(name)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{where}: no model there (a model folder has a config.json)")
    hint = "" if folder.exists() else "; it is no local folder, and the hub did not serve it"
    with loading(f"{where}: not a causal language model that can be loaded{hint}"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > MOST_LAYERS:
            raise UserError(f"{where}: its config.json asks for {layers} layers; is it the model's own?")
        if getattr(config, "quantization_config", None):
            raise UserError(f"{where}: its weights are quantised already; take the original, and --base nf4 or int8")
        no_dropout(config)
        how = {} if base == "fp32" else {"quantization_config": FewBits(base, where)}
        model, report = AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **how
        )
    if report["missing_keys"]:
        raise UserError(f"{where}: its weights lack {sorted(report['missing_keys'])[0]}; is the folder complete?")
    if base != "fp32":
        check_runs(packed(model), base, where)
    with loading(f"{where}: its tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    use_branch_attention(model)
    return model, tokenizer


def no_dropout(config: Any) -> None:
    """Set every dropout rate of a configuration to 0, so that training mode and scoring agree."""
    for key, value in config.to_dict().items():
        if isinstance(value, float) and ("drop" in key or key.endswith("pdrop")):
            setattr(config, key, 0.0)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the configuration and all parameters: what a reference log-prob depends on.

    Of weights in few bits, over what is kept of them (their scales too), and what reads them.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in {"_name_or_path", "dtype"}}  # type: ignore[union-attr, operator]
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if base_of(model) != "fp32":
        digest.update(written_by(base_of(model)).encode())
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
