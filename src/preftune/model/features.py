"""What is read off a model's hidden states: one vector a response, and a score from it.

Shapes: R rows, T tokens in a row, N response tokens, B responses, D hidden size, L layers. Works for any model with a
decoder: a causal language model, a sequence classifier, or the decoder itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data import BranchBatch
from .blocks import decoder_blocks
from .logprobs import decoder_states


def last_states(model: Any, batch: BranchBatch, precision: str) -> Tensor:
    """Final hidden state (after the last norm) at the last token of each response, float32, `[B, D]`.

    The place comes from the layout and not from the value of a token, so a pad token that is also the end-of-text
    token does no harm. Differentiable.
    """
    return decoder_states(model, batch, precision).flatten(0, 1)[batch.last_B].float()


@torch.no_grad()
def pooled_states(model: Any, batch: BranchBatch, layer: int, precision: str) -> Tensor:
    """Mean over a response's own tokens of the hidden states after `layer` blocks, float32, `[B, D]`."""
    return pooled_layers(model, batch, (layer,), precision)[0]


@torch.no_grad()
def pooled_layers(model: Any, batch: BranchBatch, layers: Sequence[int], precision: str) -> Tensor:
    """`pooled_states` of several layers (counted from 1) in one forward pass that ends at the last, `[L, B, D]`.

    Raises UserError for a model whose layers cannot be found.
    """
    try:
        with watched_layers(model, batch, layers, stop=True) as kept:
            decoder_states(model, batch, precision)
    except _Enough:
        pass
    return torch.stack([kept[layer] for layer in layers])


@contextmanager
def watched_layers(
    model: Any, batch: BranchBatch, layers: Sequence[int], *, stop: bool = False
) -> Iterator[dict[int, Tensor]]:
    """Within it, a forward pass over the batch leaves `pooled_states` of these layers here, whatever it is made for.

    With `stop` it goes no further than the last of them. Raises UserError for a model whose layers cannot be found.
    """
    blocks = decoder_blocks(model)
    kept: dict[int, Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        hidden_RTD = output[0] if isinstance(output, tuple) else output
        kept[layer] = _mean_of_responses(hidden_RTD.detach(), batch)
        if stop and len(kept) == len(set(layers)):
            raise _Enough

    hooks = [
        blocks[layer - 1].register_forward_hook(lambda module, inputs, output, layer=layer: keep(layer, output))
        for layer in set(layers)
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def score_head(width: int, *, seed: int) -> nn.Linear:
    """A linear map from a hidden state to one number, without a bias (scores count only by their differences).

    Weights start at N(0, 1/√(D + 1)), the standard deviation that Stiennon et al. (arXiv 2009.01325) give.
    """
    head = nn.Linear(width, 1, bias=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0, (width + 1) ** -0.5, generator=generator)
    return head


@dataclass(frozen=True)
class Companion:
    """What a score that is trained beside a policy reads: frozen features of every response by its key, `[D]`."""

    features: Mapping[bytes, Tensor]

    def start(self, device: torch.device) -> nn.Linear:
        """The score before anything is learned: 0 of every response."""
        head = nn.Linear(len(next(iter(self.features.values()))), 1, bias=False)
        nn.init.zeros_(head.weight)
        return head.to(device)

    def scores(self, head: nn.Linear, keys: Iterable[bytes]) -> Tensor:
        """Scores of the responses of those keys, `[B]`, differentiable."""
        features_BD = torch.stack([self.features[key] for key in keys]).to(head.weight.device)
        return features_BD @ head.weight[0]


class _Enough(Exception):
    """All that was asked for is there: the rest of the forward pass is not needed."""


def _mean_of_responses(hidden_RTD: Tensor, batch: BranchBatch) -> Tensor:
    states_ND = hidden_RTD.flatten(0, 1)[_own_places(batch)].float()
    sums_BD = states_ND.new_zeros(batch.branches, states_ND.shape[1]).index_add(0, batch.branch_N, states_ND)
    return sums_BD / batch.lengths_B()[:, None]


def _own_places(batch: BranchBatch) -> Tensor:
    """Where each response token itself stands, `[N]`: where the next one is predicted, or its response's last place."""
    own_N = batch.source_N.roll(-1)
    own_N[batch.lengths_B().cumsum(0) - 1] = batch.last_B
    return own_N
