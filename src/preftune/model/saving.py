"""Policies and adapters written down, and every tensor of the file compared with the live one."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UserError
from ..evidence import write_json
from ..files import PARTIAL, sync

PART = 2**30  # bytes of a file, where weights are written as they are made


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write files to, which takes its name when all of them are on the disk: it is never there half.

    Raises UserError if there is no room, or no right to write.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        sync(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def save_in_parts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
) -> None:
    """As `save_policy`, of a model of that architecture whose `weights` are made one after the other.

    No more than `PART` bytes of them, and the largest one, are in memory at a time. Each file is compared when it is
    written.
    """
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], torch.float32
    config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    homes, total = [], 0
    for number, part in enumerate(_parts(weights), start=1):
        path = folder / f"part-{number}.safetensors"
        save_file(part, path, metadata={"format": "pt"})
        check_saved(folder, part)
        homes.append((path, list(part)))
        total += sum(tensor.nbytes for tensor in part.values())
    if len(homes) == 1:
        homes[0][0].rename(folder / "model.safetensors")
        return
    names = [f"model-{number:05d}-of-{len(homes):05d}.safetensors" for number in range(1, len(homes) + 1)]
    for name, (path, _) in zip(names, homes, strict=True):
        path.rename(folder / name)
    index = {weight: name for name, (_, own) in zip(names, homes, strict=True) for weight in own}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _parts(weights: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, weight in weights:
        if part and size + weight.nbytes > PART:
            yield part
            part, size = {}, 0
        part[name] = weight.detach().cpu().contiguous()
        size += weight.nbytes
    yield part


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
