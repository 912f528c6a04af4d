"""What the runs of a study share: the models, the layout that they can take, what is stored of them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data import TokenBallot
from ..errors import UserError
from .engine import keep_freed_memory, pick_device, ranks
from .invariants import StartCheck
from .layout import Layout, probe_layout
from .loading import Base, load_base, reads_at_most
from .policy import Reference
from .stores import Store, StoreKey, stores_folder


@dataclass(frozen=True)
class Workbench:
    """What the runs of a study share: the model they start from, the reference, the layout, what is stored of both.

    `base` is the model that policies live in: of it as it was loaded, ask `start`.
    """

    base: Base
    reference: Reference
    layout: Layout
    precision: str
    store: Store

    @property
    def start(self) -> Reference:
        """The base as it was loaded, whatever is trained inside it."""
        return Reference(self.base)

    @property
    def start_store(self) -> Store:
        """What is stored of the base: the reference's store, where the base is the reference."""
        key = replace(self.store.key, model=self.base.name, weights=self.base.sha256)
        return self.store if key == self.store.key else Store(self.store.path.parent, key)


def start_check(bench: Workbench, first: set[Any], computed: Iterable[bytes], source: str) -> StartCheck:
    """What the first step of a fresh run is held to: `first` are its micro-batches.

    `computed` are the responses whose reference log-prob was computed by this run, which counts where sums are made in
    one order: not on a GPU.
    """
    in_order = bench.base.device.type == "cpu"
    exact = frozenset(computed) if in_order else frozenset()
    return StartCheck(bench.reference.is_start(bench.base), bench.precision, first, exact, source)


def check_room(bench: Workbench, longest: int, max_new_tokens: int) -> None:
    """Raises UserError if a response after the longest prompt (in tokens) does not fit into what the model reads."""
    room = reads_at_most(bench.base.model)
    if room and longest + max_new_tokens > room:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: the longest prompt has {longest} tokens and the model reads "
            f"{room}; lower it, or --max-length"
        )


def check_fits(bench: Workbench, ballots: Sequence[TokenBallot]) -> None:
    """Raises UserError for a ballot that is longer than what the model reads: it has no position for the rest."""
    room = reads_at_most(bench.base.model)
    longest = max((len(one.prompt) + max(map(len, one.responses)) for one in ballots), default=0)
    if room and longest > room:
        raise UserError(
            f"--max-length: a prompt with its response has {longest} tokens and the model reads {room}; "
            f"give --max-length {room} or less"
        )


def open_workbench(
    model: str,
    *,
    reference: str | None = None,
    precision: str = "fp32",
    device: str = "auto",
    template: str = "",
    where: str = "",
    base: str = "fp32",
) -> Workbench:
    """Load the model (and the reference, where it is another one) and find out which layout it can take.

    The weights of both are kept in `base`. `template` are options of the model's chat template, which renders for the
    reference too; `where` is what an error in loading the model begins with.
    """
    place = pick_device(device)
    keep_freed_memory()
    start = load_base(model, device=place, where=where, template=template, base=base)
    other = start
    if reference not in (None, model):
        other = load_base(str(reference), device=place, where=f"--reference {reference}", base=base)
    if other.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise UserError(f"--reference {reference}: its tokenizer differs from the one of {model}; they must share one")
    layout = probe_layout(start.model, precision)
    if other is not start:
        others = probe_layout(other.model, precision)
        if others.name != layout.name:
            layout = Layout("padded", "the reference cannot take the policy's layout")
        elif others.attention != layout.attention:
            layout = replace(layout, attention="by ballot")
    key = store_key(other, layout, precision, place)
    store = ranks().in_turn(lambda: Store(stores_folder(), key))
    return Workbench(start, Reference(other), layout, precision, store)


def store_key(base: Base, layout: Layout, precision: str, device: torch.device) -> StoreKey:
    """What values that are stored of the model depend on."""
    chip = platform.machine() if device.type == "cpu" else torch.cuda.get_device_name(device)
    found = Path(base.name)
    name = str(found.resolve()) if found.exists() else base.name
    machine = f"{chip}/torch {torch.__version__}"
    return StoreKey(name, base.sha256, precision, layout.stored_as, machine, base=base.kept_as)
