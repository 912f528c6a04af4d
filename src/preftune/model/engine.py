"""Devices, precision and seeds: everything about the machine that the mathematics should not see."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..console import say
from ..errors import UserError
from ..files import PARTIAL, sync, sync_file

WEIGHTS, MOMENTS, RECORD = "weights.safetensors", "moments.safetensors", "record.json"  # of a saved state
HASHES = "files"  # in its record: the content of the others
EXTRA = ".kept-"  # begins the names of files that a training keeps beside its states, by which these name them


def pick_device(name: str = "auto") -> torch.device:
    """The device that `name` asks for; `auto` is the first GPU, else the CPU. Raises UserError if it is not there.

    On a GPU, PyTorch's attention does without cuDNN from here on: Hopper prefers it, and it makes a plan for every new
    length, which takes longer than a step. Our lengths are new almost always.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device  # with its number, as tensors say it: cuda is not equal to cuda:0
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available on this machine; use cpu, or leave it out") from error
    if device.type == "meta":
        raise UserError(f"--device {name}: holds no numbers; use cpu, or leave it out")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def tokens_per_pass(device: torch.device) -> int:
    """Tokens per forward pass where nobody chose: a CPU is as fast with few of them, and needs less memory."""
    return 1024 if device.type == "cpu" else 4096


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """`fp32` computes in float32; `bf16` autocasts matrix products, the weights themselves stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensor, instead of giving it back to the system each time.

    Activations are large and short-lived: asked anew from the system at every step, their pages are cleared one by one,
    which took a sixth of a CPU's step. glibc only; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of <malloc.h>
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL("libc.so.6").mallopt
        for option, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**26), (mmap_max, 0)):
            set_option(option, value)


def return_freed_memory() -> None:
    """Give what is free to the system after all, between one piece of work and the next, which may be of another size.

    What a run leaves free is in pieces that the next one, or another program, cannot always use.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def remembered_casts(model: nn.Module) -> Iterator[None]:
    """Within one autocast, cast each weight once and not in every forward pass, as decoding token by token would.

    Autocast remembers the casts of weights that require a gradient only, so for the time being all do. For use where
    no gradient is computed.
    """
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def compute_dtype(precision: str) -> torch.dtype:
    """The type in which matrix products run."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


# --- the state of a training run, on disk ----------------------------------------------------------------------------


def save_state(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, record: Mapping[str, object]
) -> None:
    """Write trainable weights, optimiser moments and a JSON record as one: the old state stays until the new is whole
    and on the disk.

    Safetensors and JSON only; nothing is pickled. The record has the content hashes of the other files. Raises
    UserError if there is no room.
    """
    partial, old = _beside(folder)
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    weights = {name: parameter.detach().contiguous() for name, parameter in parameters.items()}
    moments = {
        f"{names[parameter]}/{key}": value.contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(weights, partial / WEIGHTS)
        save_file(moments, partial / MOMENTS)
        hashes = {name: content_hash(partial / name) for name in (WEIGHTS, MOMENTS)}
        (partial / RECORD).write_text(json.dumps({**record, HASHES: hashes}), encoding="utf-8")
        sync(partial)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: the state cannot be saved ({why}); the one before it stays") from None
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any]:
    """Put a saved state back into the parameters and the optimiser, bit for bit, and return its record."""
    weights = load_file(folder / WEIGHTS)
    moments = load_file(folder / MOMENTS)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        # the step count too: the fused AdamW wants it beside the moments
        optimizer.state[parameters[name]][moment] = value.to(parameters[name].device)
    return state_record(folder) or {}


def state_record(folder: Path) -> dict[str, Any] | None:
    """The record of a saved state; None if there is none. A state whose replacement was cut short counts."""
    _, old = _beside(folder)
    if not folder.exists() and old.exists():
        os.replace(old, folder)
    if not (folder / RECORD).exists():
        return None
    return {name: value for name, value in _read_record(folder).items() if name != HASHES}


def _read_record(folder: Path) -> Any:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def check_state(folder: Path, why: Callable[[Mapping[str, Any]], str] = lambda record: "") -> None:
    """Set a broken state aside, with a line that says so: then the one before it counts, if it is still there.

    `why(record)` says what else speaks against a state.
    """
    for _ in range(2):  # the state, and the one before it
        if not folder.exists() and not _beside(folder)[1].exists():
            return
        problem = _problem(folder, why)
        if not problem:
            return
        aside = folder.with_name(folder.name + ".broken")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        say(f"{folder}: the saved state is broken ({problem}) and set aside as {aside.name}")


def _problem(folder: Path, why: Callable[[Mapping[str, Any]], str]) -> str:
    """What is wrong with a state, in words; "" if nothing is."""
    if not folder.exists():
        state_record(folder)  # the one before it takes its place
    try:
        record = _read_record(folder)
    except (OSError, ValueError, RecursionError):
        return f"{RECORD} cannot be read"
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return f"{RECORD} is no record of a state"
    hashes = record.get(HASHES, {})
    for name in (WEIGHTS, MOMENTS):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name in hashes and content_hash(folder / name) != hashes[name]:
            return f"{name} is not what was written"
    return why(record)


def remove_state(folder: Path) -> None:
    """Delete a saved state and what an interrupted save may have left beside it."""
    for leftover in (folder, *_beside(folder)):
        shutil.rmtree(leftover, ignore_errors=True)
    for extra in folder.parent.glob(folder.name + EXTRA + "*"):
        extra.unlink()


def save_extra(folder: Path, name: str, parameters: Mapping[str, Tensor]) -> str:
    """Write tensors that a state is to name beside the states, whole and on the disk; the hash of what was written."""
    path = extra_path(folder, name)
    partial = path.with_name(path.name + PARTIAL)
    try:
        save_file({key: value.detach().contiguous() for key, value in parameters.items()}, partial)
        sync_file(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    return content_hash(path)


def extra_path(folder: Path, name: str) -> Path:
    """Where `save_extra` writes."""
    return folder.with_name(f"{folder.name}{EXTRA}{name}.safetensors")


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where a new state is written, and where the one that it replaces waits."""
    return folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")


def content_hash(path: Path) -> str:
    """What tells a file's content from any other; no defence against somebody who wants two to look alike."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return str(digest.hexdigest())
