"""Devices, precision, ranks, saved state: everything about the machine that the mathematics should not see."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ..console import say
from ..errors import UserError
from ..files import PARTIAL, content_hash, sync, sync_file
from ..launch import Launch, launched

T = TypeVar("T")
R = TypeVar("R")
WEIGHTS, MOMENTS, RECORD = "weights.safetensors", "moments.safetensors", "record.json"  # of a saved state
SHARDS = "shards"  # in the place of weights and moments, where several processes saved it: each its own part
HASHES = "files"  # in its record: the content of the others
EXTRA = ".kept-"  # begins the names of files that a training keeps beside its states, by which these name them


def pick_device(name: str = "auto") -> torch.device:
    """The device that `name` asks for; `auto` is the first GPU, else the CPU. Raises UserError if it is not there.

    On a GPU, PyTorch's attention does without cuDNN from here on: Hopper prefers it, and it makes a plan for every new
    length, which takes longer than a step. Our lengths are new almost always.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and (launch := launched()):
        name = own_gpu(launch, torch.cuda.device_count())
    try:
        device = torch.empty(0, device=name).device  # with its number, as tensors say it: cuda is not equal to cuda:0
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available on this machine; use cpu, or leave it out") from error
    if device.type == "meta":
        raise UserError(f"--device {name}: holds no numbers; use cpu, or leave it out")
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def own_gpu(launch: Launch, there: int) -> str:
    """The GPU of one of several processes on this machine: each has one. Raises UserError if there are too few."""
    if launch.local_world > there:
        raise UserError(
            f"--nproc-per-node {launch.local_world}: each process needs a GPU of its own, and there are {there}; start "
            "fewer, or add --device cpu"
        )
    return f"cuda:{launch.local_rank}"


def tokens_per_pass(device: torch.device) -> int:
    """Tokens per forward pass where nobody chose: a CPU is as fast with few of them, and needs less memory."""
    return 1024 if device.type == "cpu" else 4096


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Within it matrix products have so many threads (None: as many as before): sums depend on how they are cut."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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

    Autocast remembers the casts of weights that require a gradient only, so for the time being all do that can: what
    is packed in few bits has none. For use where no gradient is computed.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
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


# --- what the processes of a run do together -------------------------------------------------------------------------


class OneRank:
    """What the processes of a run ("ranks") do together, where there is one: the work itself and nothing else.

    `distributed.ManyRanks` has the same methods for several. Each process runs the same program on the same data; they
    hold parts of the weights and take turns at micro-batches, and only the first writes and says something.
    """

    rank = 0
    world = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all are here."""

    def led(self, work: Callable[[], T]) -> T:
        """What `work()` gives, which the first does alone while the others wait for it."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """What `work()` gives, which the first does before the others: it makes what they find."""
        return work()

    def any(self, flag: bool) -> bool:
        """Whether it is so for one of them."""
        return flag

    def summed(self, totals: Mapping[str, float]) -> dict[str, float]:
        """Sums over all of them, by name."""
        return dict(totals)

    def own(self, micro_batches: Sequence[T]) -> list[tuple[T, bool]]:
        """The micro-batches of a step that are this one's, and whether each counts.

        All get as many, since they meet in each; one that has none left computes what counts elsewhere.
        """
        return [(micro_batch, True) for micro_batch in micro_batches]

    def shared(self, model: nn.Module, items: Sequence[T], compute: Callable[[T], R]) -> Iterator[R]:
        """`compute(item)` for every item, in order, which asks the model: each computes a share and has all results."""
        return map(compute, items)

    def spread(self, model: nn.Module, how: str) -> None:
        """From here on each holds a part of the model's weights (`fsdp`), or all of them (`ddp`)."""

    def within(self, model: nn.Module, loss_of: Callable[[T], R]) -> Callable[[T], R]:
        """`loss_of`, as it is called where the model's weights are spread."""
        return loss_of

    def accumulate(self, *, last: bool) -> None:
        """The next backward pass is one of several of a step, or the last."""

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> float:
        """Bound the norm of the gradient over all parameters and ranks; returns what it was."""
        return float(nn.utils.clip_grad_norm_(parameters, largest))

    def groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """The parameters as an optimiser takes them."""
        return [{"params": list(parameters)}]

    def gathered(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in main memory, by name; empty for those who do not lead."""
        return {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        """What this one holds of a whole tensor that is spread as `like` is."""
        return whole.to(like.device)

    def write_tensors(self, folder: Path, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Write the tensors of a state into its folder."""
        save_file(dict(weights), folder / WEIGHTS)
        save_file(dict(moments), folder / MOMENTS)


_current = [OneRank()]


def ranks() -> OneRank:
    """What the processes of this run do together."""
    return _current[-1]


@contextmanager
def as_ranks(these: OneRank) -> Iterator[None]:
    """Within it `ranks()` are these."""
    _current.append(these)
    try:
        yield
    finally:
        _current.pop()


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
        if ranks().leads:
            for leftover in (partial, old):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
        ranks().meet()
        ranks().write_tensors(partial, weights, moments)
        if ranks().leads:
            _complete(partial, folder, old, record)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: the state cannot be saved ({why}); the one before it stays") from None
    ranks().meet()


def _complete(partial: Path, folder: Path, old: Path, record: Mapping[str, object]) -> None:
    """Add the record to a state whose tensors are there, and put it in the place of the one before."""
    hashes = {
        str(path.relative_to(partial)): content_hash(path) for path in sorted(partial.rglob("*")) if path.is_file()
    }
    (partial / RECORD).write_text(json.dumps({**record, HASHES: hashes}), encoding="utf-8")
    sync(partial)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Any]:
    """Put a saved state back into the parameters and the optimiser, bit for bit, and return its record.

    As many processes as saved it, or more, or fewer: each takes its part.
    """
    weights, moments = read_tensors(folder, parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        # the step count too: the fused AdamW wants it beside the moments
        optimizer.state[parameters[name]][moment] = value
    return state_record(folder) or {}


def read_tensors(folder: Path, parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by name and moments by `name/moment` of a saved state, spread as the parameters are."""
    if (folder / SHARDS).is_dir():
        from .shards import read_shards  # which loads what several processes need

        return read_shards(folder / SHARDS, parameters)
    weights, moments = load_file(folder / WEIGHTS), load_file(folder / MOMENTS)
    likes = {key: parameters[key.rpartition("/")[0]] for key in moments}
    return (
        {name: ranks().part_of(value, parameters[name]) for name, value in weights.items()},
        {key: ranks().part_of(value, likes[key]) for key, value in moments.items()},
    )


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
    for name in hashes or (WEIGHTS, MOMENTS):
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
