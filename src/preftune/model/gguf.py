"""A GGUF file as a plain model: de-quantised to float32, ready to be trained and saved."""

from __future__ import annotations

import os
import shutil
from copy import deepcopy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError

PROBE = "The film was, in 2 words, not bad: I'd see it again."


def load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (float32, CPU, evaluation mode) and the tokenizer, with its chat template, of a GGUF file.

    The model is built anew from its configuration: the one that transformers de-quantises refuses to be saved.
    Raises UserError when the file is missing, is no GGUF file, or holds an architecture that transformers cannot read.
    """
    _check_magic(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        loaded, report = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
        )
    except (ValueError, KeyError, IndexError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: this GGUF file cannot be loaded ({reason}); use a transformers folder") from error
    if report["missing_keys"]:
        raise UserError(
            f"{path}: this GGUF file lacks weights of its model ({', '.join(sorted(report['missing_keys']))})"
        )
    config = deepcopy(loaded.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model.eval(), tokenizer


def convert_model(path: Path, folder: Path) -> Path:
    """Write a GGUF file's model as a plain transformers folder (safetensors, float32), once; returns the folder.

    The folder appears whole or not at all. Raises UserError as `load_gguf` does, RuntimeError if the saved model or
    tokenizer is not the loaded one, to the last bit.
    """
    if folder.is_dir():
        return folder
    model, tokenizer = load_gguf(path)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _check_saved(model, tokenizer, partial)
    os.replace(partial, folder)
    return folder


def _check_magic(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path}: not a GGUF file (it does not begin with GGUF)")


def _check_saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    saved_ids = AutoTokenizer.from_pretrained(folder)(PROBE, return_tensors="pt").input_ids
    ids = tokenizer(PROBE, return_tensors="pt").input_ids
    with torch.no_grad():
        same = torch.equal(ids, saved_ids) and torch.equal(model(ids).logits, saved(ids).logits)
    if not same:
        raise RuntimeError(f"{folder}: the saved model does not give the logits of the GGUF file")
