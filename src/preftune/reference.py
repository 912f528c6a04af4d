"""The store of reference log-probs: computed once per content, on disk, shared by every run that needs them.

One SQLite file per (weights, precision, layout, device); in it one row per (prompt ids, response ids). Nothing in the
key depends on a file's name or age, on a learning rate or on an output folder, so a sweep pays once.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .console import track
from .errors import UserError
from .heads import watched_layers
from .logprobs import Layout, response_logprobs
from .tokens import TokenBallot


def cache_folder() -> Path:
    """Where things are kept between runs: `$PREFTUNE_CACHE`, else `preftune` in the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PREFTUNE_CACHE") or base / "preftune")


def response_keys(ballot: TokenBallot) -> list[bytes]:
    """What identifies each response of a ballot in the store: its prompt's ids and its own."""
    prompt = hashlib.sha256(repr(ballot.prompt).encode()).digest()
    return [hashlib.sha256(prompt + repr(response).encode()).digest() for response in ballot.responses]


class ReferenceStore:
    """log π_ref(y|x) in nats, summed over the response, by content. Exact: float32 values come back bit for bit."""

    def __init__(self, folder: Path, *, weights: str, precision: str, layout: str, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256("/".join((weights, precision, layout, device)).encode()).hexdigest()[:32]
        self.path = folder / f"{name}.sqlite"
        with self._open() as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS logprobs (key BLOB PRIMARY KEY, value REAL NOT NULL)")

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.path, timeout=60))

    def read(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The values that are there."""
        with self._open() as database:
            query = "SELECT value FROM logprobs WHERE key = ?"
            rows = ((key, database.execute(query, (key,)).fetchone()) for key in keys)
            return {key: row[0] for key, row in rows if row is not None}

    def write(self, values: Mapping[bytes, float]) -> None:
        """Add values; one that is there already stays as it is, so that runs side by side see the same."""
        with self._open() as database, database:
            database.executemany("INSERT OR IGNORE INTO logprobs VALUES (?, ?)", values.items())


@dataclass(frozen=True)
class Watch:
    """What else to take from a pass over responses: the pooled states of some layers, `[L, B, D]`, by response key."""

    layers: Sequence[int]
    write: Callable[[Sequence[bytes], Tensor], None]


def fill_store(
    store: ReferenceStore,
    model: Any,
    micro_batches: Sequence[Sequence[TokenBallot]],
    *,
    layout: Layout,
    precision: str,
    watch: Watch | None = None,
) -> dict[bytes, float]:
    """Reference log-probs of all responses in the micro-batches, from the store where they are there.

    They are computed in the micro-batches of training, whole ones only: so at the first step the policy's log-probs,
    computed the same way, equal them bit for bit, also after an interrupted fill. A `watch` gets the hidden states of
    the passes that are made. Raises UserError for a log-prob that is not finite.
    """
    keys = [[key for ballot in micro for key in response_keys(ballot)] for micro in micro_batches]
    known = store.read([key for micro in keys for key in micro])
    missing = [i for i, micro in enumerate(keys) if any(key not in known for key in micro)]
    device = next(model.parameters()).device
    for i in track(missing, "reference log-probs") if missing else ():
        batch = layout.lay_out(micro_batches[i]).to(device)
        watched: AbstractContextManager[dict[int, Tensor]] = nullcontext({})
        if watch:
            watched = watched_layers(model, batch, watch.layers)
        with torch.no_grad(), watched as states:
            values = response_logprobs(model, batch, precision=precision).tolist()
        if not all(map(math.isfinite, values)):
            raise UserError("--model: its log-probs are not finite; use --precision fp32, or check its weights for NaN")
        store.write(dict(zip(keys[i], values, strict=True)))
        if watch:
            watch.write(keys[i], torch.stack([states[layer] for layer in watch.layers]))
    return known | store.read([key for i in missing for key in keys[i]])
