"""Stored values computed anew: whether what earlier runs left in the stores is what the models say."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console import track
from ..data import TokenBallot
from ..errors import UserError
from .engine import pick_device
from .features import pooled_layers
from .invariants import bound
from .layout import Layout, probe_layout
from .loading import Base, load_base
from .logprobs import response_logprobs
from .policy import Reference
from .stores import Store, Witness, read_key, stores_folder

SAMPLE = 32  # witnesses of a store that are computed anew
FEATURES_AGREE = {"fp32": 1e-3, "bf16": 5e-2}  # relative: far above rounding, far below another model's states


@dataclass(frozen=True)
class Checked:
    """A store's file, and what came of it: how many values were computed anew, how many differ, or why none was.

    `worst` is the largest difference between log-probs, in nats.
    """

    path: Path
    model: str
    entries: int
    checked: int = 0
    wrong: int = 0
    worst: float = 0.0
    unchecked: str = ""


def check_stores(folder: Path | None = None, *, device: str = "auto") -> list[Checked]:
    """Compute a sample of every store's values anew, each response on its own, by a model that is loaded afresh."""
    return [check_store(path, device=device) for path in sorted((folder or stores_folder()).glob("*.sqlite"))]


def check_store(path: Path, *, device: str = "auto") -> Checked:
    """The same of one store. Not checked: an unreadable file, a model that is not where it was or has other weights."""
    key = read_key(path)
    if key is None:
        return Checked(path, "?", 0, unchecked="no store of this version")
    store = Store(path.parent, key)
    entries, witnesses = sum(store.sizes().values()), store.witnesses()
    try:
        base = load_base(key.model, device=pick_device(device), base=key.base)
        layout = probe_layout(base.model, key.precision)
    except UserError as error:
        return Checked(path, key.model, entries, unchecked=str(error))
    if base.sha256 != key.weights:
        return Checked(path, key.model, entries, unchecked="the model there has other weights now")
    drawn = random.Random(0).sample(witnesses, min(SAMPLE, len(witnesses)))
    found = [one for witness in track(drawn, "stored values") for one in _compare(store, base, layout, witness)]
    worst = max((nats for _, nats in found), default=0.0)
    return Checked(path, key.model, entries, len(found), sum(wrong for wrong, _ in found), worst)


def _compare(store: Store, base: Base, layout: Layout, witness: Witness) -> list[tuple[bool, float]]:
    """(wrong, difference in nats) of a response's log-prob, and (wrong, 0) of each of its features."""
    ballot = TokenBallot(witness.prompt, (witness.response,), ())
    precision, layers = store.key.precision, store.layers(witness.key)
    found = []
    with Reference(base).alone() as model:
        batch = layout.lay_out([ballot]).to(model.device)
        for value in store.logprobs([witness.key]).values():
            nats = abs(float(response_logprobs(model, batch, precision=precision)) - value)
            found.append((not nats <= bound(precision, len(witness.response)), nats))
        if layers:
            states_LD = pooled_layers(model, batch, layers, precision)[:, 0].cpu().numpy()
            stored = store.features([witness.key], layers)
            for layer, state_D in zip(layers, states_LD, strict=True):
                there_D = np.frombuffer(stored[witness.key, layer], np.float32)
                far = np.linalg.norm(there_D - state_D) > FEATURES_AGREE[precision] * np.linalg.norm(state_D)
                found.append((bool(far), 0.0))
    return found
