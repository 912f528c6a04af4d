"""What the runs of a study share: the models, the layout that they can take, the store of reference log-probs."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from .engine import keep_freed_memory, pick_device
from .errors import UserError
from .logprobs import Layout, probe_layout
from .models import Base, load_base
from .reference import ReferenceStore, cache_folder

ARITHMETIC = 2  # raise it when log-probs come out differently in the last bits: what is stored no longer serves


@dataclass(frozen=True)
class Workbench:
    """What the runs of a study share: the model they start from, the reference, the layout, the store's place."""

    base: Base
    reference: Base
    layout: Layout
    precision: str
    store: ReferenceStore


def check_room(bench: Workbench, longest: int, max_new_tokens: int) -> None:
    """Raises UserError if a response after the longest prompt (in tokens) does not fit into what the model reads."""
    room = getattr(bench.base.model.config.get_text_config(), "max_position_embeddings", None)
    if room and longest + max_new_tokens > room:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: the longest prompt has {longest} tokens and the model reads "
            f"{room}; lower it, or --max-length"
        )


def open_workbench(
    model: str, *, reference: str | None = None, precision: str = "fp32", device: str = "auto"
) -> Workbench:
    """Load the model (and the reference, where it is another one) and find out which layout it can take."""
    place = pick_device(device)
    keep_freed_memory()
    base = load_base(model, device=place)
    other = base if reference in (None, model) else load_base(str(reference), device=place)
    if other.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise UserError(f"--reference {reference}: its tokenizer differs from the one of {model}; they must share one")
    layout = probe_layout(base.model)
    if other is not base and probe_layout(other.model).name != layout.name:
        layout = Layout("padded", "the reference cannot take the policy's layout")
    chip = platform.machine() if place.type == "cpu" else torch.cuda.get_device_name(place)
    kind = f"{layout.name}/{chip}/torch {torch.__version__}/{ARITHMETIC}"
    store = ReferenceStore(
        cache_folder() / "reference", weights=other.sha256, precision=precision, layout=layout.name, device=kind
    )
    return Workbench(base, other, layout, precision, store)
