"""Several processes that train one model: FSDP2, of which DDP is the case that nothing is cut (`torchrun`).

Every rank plans the micro-batches of all ranks, so that nothing about the data is sent. Gradients are summed, since a
loss is divided by the mass of the whole step before its backward pass. A micro-batch runs within the forward pass of
one root module, which has all weights outside the decoder's blocks at hand, the head's too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from ..console import console
from ..errors import Interrupted, UserError
from ..launch import Launch, launched
from .blocks import decoder_blocks
from .engine import SHARDS, OneRank, as_ranks, own_gpu, ranks
from .shards import write_shards

T = TypeVar("T")
R = TypeVar("R")
LONGEST = timedelta(hours=6)  # that one rank works alone while the others wait
ENDED = "preftune/ended"  # in the store that the ranks share: who ended first, and with which exit code


class _Root(nn.Module):
    """Whatever is computed with the model, as a module's forward pass: FSDP gathers weights around those."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[Any], Any], item: Any) -> Any:
        return work(item)


class ManyRanks(OneRank):
    """What several processes do together."""

    def __init__(self, launch: Launch) -> None:
        self.rank, self.world = launch.rank, launch.world
        self.roots: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self.whole: set[Any] = set()  # roots whose weights are not cut

    def meet(self) -> None:
        self._sum([0.0])  # gloo's own barrier waits without looking whether the others live

    def led(self, work: Callable[[], T]) -> T:
        result: list[Any] = [None]
        if self.leads:
            with as_ranks(OneRank()):
                result = [work()]
        dist.broadcast_object_list(result, src=0)
        given: T = result[0]
        return given

    def in_turn(self, work: Callable[[], T]) -> T:
        if not self.leads:
            self.meet()
            return work()
        result = work()
        self.meet()
        return result

    def any(self, flag: bool) -> bool:
        return self._sum([float(flag)])[0] > 0

    def summed(self, totals: Mapping[str, float]) -> dict[str, float]:
        return dict(zip(totals, self._sum(list(totals.values())), strict=True))

    def _sum(self, values: list[float]) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(together)
        return together.tolist()

    def own(self, micro_batches: Sequence[T]) -> list[tuple[T, bool]]:
        rounds = range(self.rank, len(micro_batches) + self.rank, self.world)
        mine = [(micro_batches[i], True) for i in rounds if i < len(micro_batches)]
        lacking = -(-len(micro_batches) // self.world) - len(mine)
        return mine + lacking * [(micro_batches[-1], False)]

    def shared(self, model: nn.Module, items: Sequence[T], compute: Callable[[T], R]) -> Iterator[R]:
        root = self.roots.get(model)
        for start in range(0, len(items), self.world):
            round_ = items[start : start + self.world]
            item = round_[min(self.rank, len(round_) - 1)]
            results: list[Any] = [None] * self.world
            dist.all_gather_object(results, compute(item) if root is None else root(compute, item))
            yield from results[: len(round_)]

    def spread(self, model: nn.Module, how: str) -> None:
        device = next(model.parameters()).device.type
        names = ("copies", "parts")
        shape = (self.world, 1) if how == "ddp" else (1, self.world)
        mesh = init_device_mesh(device, shape, mesh_dim_names=names)
        mesh = mesh if how == "ddp" else mesh["parts"]
        root = _Root(model)
        for module in (*decoder_blocks(model), root):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided already
                module.set_force_sum_reduction_for_comms(True)
        self.roots[model] = root
        if how == "ddp":
            self.whole.add(root)

    def within(self, model: nn.Module, loss_of: Callable[[T], R]) -> Callable[[T], R]:
        root = self.roots[model]

        def parted(item: T) -> tuple[Any, R]:
            terms: Any = loss_of(item)
            return terms.loss, terms  # FSDP looks for the tensors of what comes out

        return lambda item: root(parted, item)[1]

    def accumulate(self, *, last: bool) -> None:
        for root in self.whole:  # where weights are cut, gradients of a whole step would be held whole meanwhile
            root.set_requires_gradient_sync(last)

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> float:
        parts, whole = _parted(parameters)
        for parameter in whole:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
        norms = [nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in (parts, whole)]
        plain = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
        norm = torch.linalg.vector_norm(torch.stack([value.to(plain[0].device) for value in plain]))
        for group in (parts, whole):
            nn.utils.clip_grads_with_norm_(group, largest, norm)
        return float(norm)

    def groups(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": group} for group in _parted(parameters) if group]

    def gathered(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, parameter in parameters.items():  # one at a time: a device need not hold all of them
            tensor = parameter.detach()
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.leads:
                found[name] = whole.cpu().contiguous()
        return found

    def part_of(self, whole: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor) or whole.shape != like.shape:
            return whole.to(like.device)
        place = whole.to(like.device)
        return distribute_tensor(place, like.device_mesh, like.placements, src_data_rank=None)

    def write_tensors(self, folder: Path, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        write_shards(folder / SHARDS, weights, moments)


def _parted(parameters: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Those that are spread, and those that every rank has whole: small heads beside a model."""
    spread: list[nn.Parameter] = []
    whole: list[nn.Parameter] = []
    for parameter in parameters:
        (spread if isinstance(parameter, DTensor) else whole).append(parameter)
    return spread, whole


# --- how a run of several processes begins and ends ------------------------------------------------------------------


@contextmanager
def joined() -> Iterator[None]:
    """Within it `ranks()` are the processes that torchrun started; where it started none, nothing happens.

    Only the first says something. What ends one of them ends all, with its exit code, and is told once: whoever fails
    first leaves the reason where the others find it, and raises; the others exit. Raises UserError when the others
    cannot be reached, or one of them has gone without a word.
    """
    launch = launched()
    if launch is None or ranks().world > 1:
        yield
        return
    store = _meet(launch)
    with as_ranks(ManyRanks(launch)), _quiet(not ranks().leads):
        try:
            yield
            ranks().meet()
        except BaseException as error:
            _end(error, launch, store)
            raise
        finally:
            with suppress(Exception):  # the others may be gone
                dist.destroy_process_group()


def _meet(launch: Launch) -> Any:
    """Reach the other processes; returns the store that all share."""
    gpus = torch.cuda.is_available()
    if gpus and torch.cuda.device_count() >= launch.local_world:
        torch.cuda.set_device(own_gpu(launch, torch.cuda.device_count()))
    where = f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}"
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=timedelta(minutes=5))))
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=LONGEST)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{where}: the processes do not reach each other ({_first_line(error)})") from None
    return store


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Within it nothing is said; what ends the process is."""
    before = console.quiet, sys.stdout
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        if quiet:
            console.quiet, sys.stdout = True, nowhere
        try:
            yield
        finally:
            console.quiet, sys.stdout = before


def _end(error: BaseException, launch: Launch, store: Any) -> None:
    """Tell the others why this one ends; exit as they do, if one of them ended first.

    They learn of it when the process is over, which closes its connections.
    """
    mine = {"rank": launch.rank, "code": exit_code(error)}
    try:
        first = json.loads(store.compare_set(ENDED, "", json.dumps(mine)))
    except RuntimeError:  # the process that held the store has gone with it
        first = mine
    if first != mine:
        raise SystemExit(first["code"]) from None
    if _is_loss(error):
        raise UserError(
            "a process of this run has gone without a word (killed, or out of memory?); train --resume goes on from "
            "the last saved state"
        ) from None


def exit_code(error: BaseException) -> int:
    """What the command line exits with after it."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError | OSError) or _is_loss(error) else 1


def _is_loss(error: BaseException) -> bool:
    """Whether it says that another process could not be reached."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
