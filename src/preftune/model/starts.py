"""An adapter as the start of a policy: folded into its base, which is then a plain model like any other."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from ..errors import UserError
from .bits import BASES
from .frozen import round_to, written_by

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BESIDE = "base.json"  # how the base was kept that an adapter was trained beside
Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def find_adapter(name: str, where: str) -> Path | None:
    """The folder of the adapter that a local folder or a hub repository holds; None if it holds none."""
    folder = Path(name)
    if folder.exists():
        return folder if (folder / CONFIG).is_file() else None
    try:
        there = find_adapter_config_file(name)
    except OSError:  # no name that the hub could have: whoever loads the model says so
        return None
    if there is None:
        return None
    with loading(f"{where}: the hub did not serve it"):
        return _snapshot(name)


def fetched(name: str, where: str) -> Path:
    """The local folder of that name, or a copy of the hub's repository. Raises UserError where there is neither."""
    if Path(name).exists():
        return Path(name)
    with loading(f"{where}: it is no local folder, and the hub did not serve it"):
        return _snapshot(name)


def _snapshot(name: str) -> Path:
    return Path(huggingface_hub.snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth"]))


def load_adapted(name: str, where: str, folder: Path, load: Callable[[str, str], Loaded]) -> Loaded:
    """The base of an adapter with the adapter folded in, and the tokenizer: the adapter's, if it brings one.

    The base is the model in the same folder, else the one that the adapter names, which `load` loads. Where the adapter
    was trained beside a base in few bits, it is folded into what that stands for. Raises UserError for a base that is
    not there, an adapter that cannot be folded in, or weights that do not belong to its layers.
    """
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{where}: its adapter has no {WEIGHTS}; save it as safetensors")
    with loading(f"{where}: {CONFIG} cannot be read"):
        config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise UserError(f"{where}: a {config.peft_type.value} adapter cannot be folded into weights; use LoRA")
    if (folder / "config.json").is_file():
        with _without_adapter(folder) as plain:
            model, tokenizer = load(plain, where)
    else:
        base = _base_of(where, folder, config.base_model_name_or_path)
        model, tokenizer = load(base, f"{where}: its adapter's base {base}")
    kept_as = trained_beside(folder)
    if kept_as != "fp32":
        round_to(model, kept_as, where)
    model = _fold_in(where, folder, model)
    model.name_or_path = name
    if (folder / "tokenizer_config.json").is_file():
        with loading(f"{where}: its tokenizer cannot be loaded"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return model, tokenizer


def mark_adapter(folder: Path, base: str) -> None:
    """Leave in an adapter's folder how the base was kept that it was trained beside."""
    (folder / BESIDE).write_text(json.dumps({"base": base, "read_by": written_by(base)}), encoding="utf-8")


def trained_beside(folder: Path) -> str:
    """How the base was kept that an adapter was trained beside. Raises UserError for a way that is not known."""
    path = folder / BESIDE
    if not path.is_file():
        return "fp32"
    with loading(f"{path}: cannot be read"):
        base = json.loads(path.read_text(encoding="utf-8"))["base"]
    if base not in BASES:
        raise UserError(f"{path}: base {base!r} is none of {', '.join(BASES)}")
    return str(base)


def _base_of(where: str, folder: Path, base: str | None) -> str:
    """Where the base lies: as the adapter says, from here or from its own folder."""
    if not base:
        raise UserError(f"{where}: its adapter does not name its base; add base_model_name_or_path to {CONFIG}")
    places = [Path(base), folder / base]
    found = next((place for place in places if place.exists()), None)
    if found is not None and found.resolve() == folder.resolve():
        raise UserError(f"{where}: its adapter names itself as its base, and there is no config.json")
    if found is None and (os.path.isabs(base) or base.startswith(".")):
        raise UserError(f"{where}: its adapter's base {base} is not there; mend base_model_name_or_path")
    return str(found or base)


@contextmanager
def _without_adapter(folder: Path) -> Iterator[str]:
    """The same folder but for the adapter, which transformers would load in its own way beside the model."""
    with tempfile.TemporaryDirectory() as view:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                os.symlink(path.resolve(), Path(view) / path.name)
        yield view


def _fold_in(where: str, folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    with loading(f"{where}: its adapter does not fit its base"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys that find no place, which is an error below
        adapted = PeftModel.from_pretrained(model, str(folder))
        used = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        with safe_open(folder / WEIGHTS, "pt") as file:
            if homeless := sorted(used.keys() ^ {*file.keys()}):
                raise ValueError(f"{homeless[0]} is in one of them alone")
            if wrong := [
                key for key, value in used.items() if not torch.equal(value.cpu(), file.get_tensor(key).float())
            ]:
                raise ValueError(f"{wrong[0]} was not taken over")
        merged: Any = adapted.merge_and_unload()
    return merged


@contextmanager
def loading(problem: str) -> Iterator[None]:
    """Turn whatever transformers raises on a bad folder into one line, and keep its own report off the screen."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a broken file makes the libraries raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{problem} ({reason})") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
