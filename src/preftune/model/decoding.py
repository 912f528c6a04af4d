"""Sampling token by token, with the keys and values of a prompt kept once for all of its samples.

Shapes: P prompts, S samples of each, W tokens of the widest prompt, H heads, K heads of keys and values, D size of a
head, V vocabulary. Prompts are right-aligned in W slots; then come the tokens of all samples, S of them a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from .attention import BRANCH_ATTENTION, attend
from .engine import compute_dtype
from .logprobs import head_of

DECODING_ATTENTION = "preftune_decoding"
PREFILL_TOKENS = 2**11  # prompts of similar length that run together, so that little of it is padding


def can_decode(model: Any) -> bool:
    """Whether the model's attention goes through a function of ours, so that it can go through this one too."""
    return bool(model.config._attn_implementation == BRANCH_ATTENTION)


class States:
    """Keys and values of every layer, and what sees what among them.

    A plain object, handed to the attention of each layer as the keyword `states`.
    """

    def __init__(self, lengths: Sequence[int], samples: int, max_new_tokens: int, device: torch.device) -> None:
        self.lengths_P = torch.tensor(lengths, device=device)
        self.samples, self.width = samples, max(lengths)
        self.room = self.width + samples * max_new_tokens
        self.steps = 0
        self.reading: slice | None = None  # the prompts that run through the model; None: a token of every sample does
        self._memory: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._masks: dict[int | None, Tensor] = {}

    def read(self, prompts: slice) -> None:
        """Next come these prompts, right-aligned."""
        self.reading, self._masks = prompts, {}

    def step(self) -> Tensor:
        """Next comes a token of every sample; returns their positions `[P, S]`."""
        self.reading, self._masks, self.steps = None, {}, self.steps + 1
        return self._now_P[:, None].expand(-1, self.samples)

    @property
    def _now_P(self) -> Tensor:
        return self.lengths_P + self.steps - 1

    def keep(self, layer: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values to those that it has; returns the ones to attend to."""
        if layer not in self._memory:
            shape = (len(self.lengths_P), key.shape[1], self.room)
            self._memory[layer] = key.new_zeros(*shape, key.shape[3]), value.new_zeros(*shape, value.shape[3])
        keys, values = self._memory[layer]
        rows, stop = self.reading or slice(None), self.width + self.steps * self.samples
        new = slice(stop - key.shape[2], stop)
        keys[rows, :, new], values[rows, :, new] = key, value
        return (keys[:, :, :stop], values[:, :, :stop]) if self.reading is None else (key, value)

    def visible(self, window: int | None) -> Tensor:
        """Boolean `[prompts, 1, queries, keys]`: what each token sees, within a window of positions if there is one."""
        if window not in self._masks:
            distance, seen = self._among_samples() if self.reading is None else self._within(self.reading)
            self._masks[window] = (seen if window is None else seen & (distance < window))[:, None]
        return self._masks[window]

    def _within(self, prompts: slice) -> tuple[Tensor, Tensor]:
        """How far back each key is from each query, and which are seen, where prompts run through the model."""
        position = _aligned(self.lengths_P[prompts])
        distance = position[:, :, None] - position[:, None, :]
        # padding sees itself: what saw nothing would be no number
        return distance, (distance >= 0) & ((position >= 0)[:, None, :] | (distance == 0))

    def _among_samples(self) -> tuple[Tensor, Tensor]:
        """The same where a token of every sample does."""
        device = self.lengths_P.device
        sampled = self.lengths_P[:, None] + torch.arange(self.steps, device=device).repeat_interleave(self.samples)
        position = torch.cat([_aligned(self.lengths_P), sampled], dim=1)
        prompt = torch.ones(self.samples, self.width, dtype=torch.bool, device=device)
        own = torch.eye(self.samples, dtype=torch.bool, device=device).repeat(1, self.steps)
        return (self._now_P[:, None] - position)[:, None], torch.cat([prompt, own], dim=1) & (position >= 0)[:, None]


def _aligned(lengths_P: Tensor) -> Tensor:
    """Position of every slot of right-aligned prompts; negative: padding."""
    width = int(lengths_P.max())
    return torch.arange(width, device=lengths_P.device) - (width - lengths_P)[:, None]


def decoding_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    states: States | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of prompts that are read in, `[prompts, H, W, D]`, or of a token of each sample, `[P, H, S, D]`.

    Returns the same with the middle dimensions swapped.
    """
    assert states is not None
    keys, values = states.keep(module, key, value)
    mask = states.visible(sliding_window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    if states.reading is not None or s_aux is not None:
        keys, values = repeat_kv(keys, groups), repeat_kv(values, groups)
        return attend(query, keys, values, mask, scale, softcap, s_aux).transpose(1, 2), None
    # heads that share keys become queries of one head: nothing is copied for them
    packed = query.reshape(len(query), heads // groups, -1, query.shape[-1])
    output = attend(packed, keys, values, mask.repeat(1, 1, groups, 1), scale, softcap, None)
    return output.reshape(len(query), heads, -1, output.shape[-1]).transpose(1, 2), None


AttentionInterface.register(DECODING_ATTENTION, decoding_attention)
AttentionMaskInterface.register(DECODING_ATTENTION, sdpa_mask)


@contextmanager
def _attention(model: Any) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(DECODING_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samples: int,
    draw: Callable[[Tensor, int], Tensor],
    stops: Sequence[int],
    max_new_tokens: int,
    precision: str,
) -> Tensor:
    """Sample token ids `[P·S, tokens]`, until every sample has reached one of the stops or the limit.

    `draw` takes logits `[P·S, V]` and the position of the token in its response, and returns one token each. Prompts
    of similar length should be neighbours. After its end a sample goes on with anything.
    """
    device = next(model.parameters()).device
    head = head_of(model)
    weight = head.weight_VD.to(compute_dtype(precision))
    states = States([len(prompt) for prompt in prompts], samples, max_new_tokens, device)
    # a 4D mask passes through untouched: without one, transformers would build one that nobody reads
    always = {"attention_mask": torch.zeros(1, 1, 1, 1, device=device), "states": states, "use_cache": False}
    decoder, ends = model.get_decoder(), torch.tensor(stops, device=device)
    with _attention(model):
        last = []
        for group in _neighbours(prompts):
            states.read(group)
            last.append(decoder(**_padded(prompts[group], device), **always)[0][:, -1])
        logits = head.logits(torch.cat(last).to(weight.dtype), weight).repeat_interleave(samples, dim=0)
        tokens = [draw(logits, 0)]
        ended = torch.isin(tokens[0], ends)
        while len(tokens) < max_new_tokens and not ended.all():
            ids = tokens[-1].view(len(prompts), samples)
            hidden = decoder(input_ids=ids, position_ids=states.step(), **always)[0].flatten(0, 1)
            tokens.append(draw(head.logits(hidden.to(weight.dtype), weight), len(tokens)))
            ended |= torch.isin(tokens[-1], ends)
    return torch.stack(tokens, dim=1)


def _neighbours(prompts: Sequence[Sequence[int]]) -> list[slice]:
    """Prompts in order, cut where a group would get more than `PREFILL_TOKENS`, padding included."""
    groups, start, width = [], 0, 0
    for i, prompt in enumerate(prompts):
        width = max(width, len(prompt))
        if i > start and (i + 1 - start) * width > PREFILL_TOKENS:
            groups.append(slice(start, i))
            start, width = i, len(prompt)
    return [*groups, slice(start, len(prompts))]


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    positions = _aligned(torch.tensor([len(prompt) for prompt in prompts], device=device)).clamp(min=0)
    return {"input_ids": ids, "position_ids": positions}
