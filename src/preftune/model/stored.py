"""What is computed of a frozen model once per content: read from its store, computed by the model alone where missing.

Shapes: L layers, B responses, D hidden size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..console import track
from ..data import TokenBallot
from ..errors import UserError
from .engine import ranks
from .features import pooled_layers, watched_layers
from .layout import Layout
from .logprobs import response_logprobs
from .policy import Reference
from .stores import Store, response_keys
from .workbench import Workbench


class ReferenceValues(NamedTuple):
    """log π_ref(y|x) in nats by response key, and the keys whose value was computed here in every micro-batch that
    holds them, and read in none: there a policy that has not moved has the same value, bit for bit."""

    logprobs: dict[bytes, float]
    computed: frozenset[bytes]


def fill_store(
    store: Store,
    reference: Reference,
    micro_batches: Sequence[Sequence[TokenBallot]],
    *,
    layout: Layout,
    precision: str,
    layers: Sequence[int] = (),
) -> ReferenceValues:
    """Reference log-probs of all responses in the micro-batches, from the store where they are there.

    They are computed in the micro-batches of training, whole ones only: so at the first step the policy's log-probs,
    computed the same way, equal them bit for bit, also after an interrupted fill. The passes that are made leave the
    features of `layers` in the store too. Several processes share the passes, and the first one has the store. Raises
    UserError for a log-prob that is not finite.
    """
    check_store(store, reference)
    keys = [[key for ballot in micro for key in response_keys(ballot)] for micro in micro_batches]
    known = ranks().led(lambda: store.logprobs([key for micro in keys for key in micro]))
    missing = [i for i, micro in enumerate(keys) if any(key not in known for key in micro)]
    read = {key for i in set(range(len(keys))).difference(missing) for key in keys[i]}
    computed: dict[bytes, set[float]] = defaultdict(set)
    with reference.alone() as model:

        def compute(i: int) -> list[float]:
            batch = layout.lay_out(micro_batches[i]).to(next(model.parameters()).device)
            watched: AbstractContextManager[dict[int, Tensor]] = nullcontext({})
            if layers:
                watched = watched_layers(model, batch, layers)
            with watched as states:
                values: list[float] = response_logprobs(model, batch, precision=precision).tolist()
            if layers:
                add_finite_features(store, micro_batches[i], layers, [states[layer] for layer in layers])
            return values

        results = ranks().shared(model, missing, compute)
        for i in track(missing, "reference log-probs") if missing else ():
            values = next(results)
            if ranks().leads:
                store.add_logprobs(micro_batches[i], values)
            for key, value in zip(keys[i], values, strict=True):
                computed[key].add(value)
    known |= ranks().led(lambda: store.logprobs([key for i in missing for key in keys[i]]))
    exact = {key for key, values in computed.items() if values == {known[key]}}
    return ReferenceValues(known, frozenset(exact - read))


def check_store(store: Store, reference: Reference) -> None:
    """Raises RuntimeError if the store is another model's."""
    if store.key.weights != reference.sha256:
        raise RuntimeError(f"{store.path} holds values of another model than {reference.name}")


def add_finite_features(
    store: Store, ballots: Sequence[TokenBallot], layers: Sequence[int], states: Sequence[Tensor]
) -> None:
    """Store the features of a pass, unless one of them is not finite."""
    values_LBD = torch.stack(list(states))
    if bool(values_LBD.isfinite().all()):
        store.add_features(ballots, layers, values_LBD)


def pooled_features(
    bench: Workbench, ballots: Sequence[TokenBallot], layers: Sequence[int], micro_tokens: int
) -> npt.NDArray[np.float32]:
    """Features of all responses of the ballots after some layers of the base model, `[L, B, D]`, from the store where
    they are there. Raises UserError for one that is not finite."""
    store = bench.start_store
    keys = [response_keys(ballot) for ballot in ballots]
    flat = [key for group in keys for key in group]
    known = store.features(flat, layers)
    missing = [i for i, own in enumerate(keys) if any((key, layer) not in known for key in own for layer in layers)]
    parts = bench.layout.groups([ballots[i] for i in missing], micro_tokens)
    groups = [[missing[i] for i in part] for part in parts]
    with bench.start.alone() as model:
        for group in track(groups, "features") if groups else ():
            batch = bench.layout.lay_out([ballots[i] for i in group]).to(model.device)
            values_LBD = pooled_layers(model, batch, layers, bench.precision)
            if not bool(values_LBD.isfinite().all()):
                raise UserError("--model: its hidden states are not finite; use --precision fp32, or check for NaN")
            store.add_features([ballots[i] for i in group], layers, values_LBD)
    known |= store.features([key for i in missing for key in keys[i]], layers)
    return np.stack([[np.frombuffer(known[key, layer], np.float32) for key in flat] for layer in layers])
