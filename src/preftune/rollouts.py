"""Prompts to sampled responses, and how far a policy is from its reference along them.

Sampling is at temperature 1 from the whole vocabulary. The randomness of each token is a function of (seed, prompt,
sample, position) and of nothing else: every policy, whatever its batching, draws from the same noise, so that the
difference between two policies is not blurred by luck.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from .branches import pack
from .console import track
from .engine import autocast, remembered_casts
from .logprobs import Layout, chunked_comparison, head_of, predicting_states, sum_by_branch
from .tokens import TokenBallot

SAMPLING_ROWS = 256  # sequences that decode together, and the tokens that their caches may hold
SAMPLING_TOKENS = 2**14


@dataclass(frozen=True)
class Rollout:
    """The sampled responses to one prompt, as token ids with their end-of-text; `ended[k]`: it was reached."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]


class KeyedNoise(LogitsProcessor):  # type: ignore[misc]
    """Samples of softmax(logits), as the tokens with the largest score: the logit of each is set to infinity.

    argmax(p / E) with E standard exponential has the probabilities p; it is Gumbel noise on the logits. E is in float64:
    float32 exponentials are exactly 0 too often for a vocabulary of this size.
    """

    def __init__(self, keys: Sequence[int], prompt_width: int) -> None:
        self.keys, self.prompt_width = keys, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        position = input_ids.shape[1] - self.prompt_width
        weights = scores.softmax(-1).cpu().numpy()

        def draw(key: int, weights_V: npt.NDArray[np.float32]) -> int:
            stream = np.random.Philox(key=key, counter=[0, 0, 0, position])
            return int(np.argmax(weights_V / np.random.Generator(stream).standard_exponential(len(weights_V))))

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy draws without the interpreter's lock
            chosen = torch.tensor(list(pool.map(draw, self.keys, weights)), device=scores.device)
        return scores.scatter(1, chosen[:, None], torch.inf)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for all tokens to come: a step writes its own, and copies none of those before it.

    It begins with the keys and values of `layer`, those of its row r in every row where `rows_R` has r.
    """

    def __init__(self, layer: DynamicLayer, rows_R: Tensor, tokens: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.rooms = [_with_room(states, rows_R, tokens) for states in (layer.keys, layer.values)]
        self._fill(layer.get_seq_length())

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:stop] = states
        self._fill(stop)
        return self.keys, self.values

    def _fill(self, stop: int) -> None:
        self.keys, self.values = (room[:, :, :stop] for room in self.rooms)


def _with_room(states: Tensor, rows_R: Tensor, tokens: int) -> Tensor:
    """`[rows, heads, T, d]` → `[R, heads, T + tokens, d]`; the last tokens are whatever was in memory."""
    _, heads, length, size = states.shape
    room = states.new_empty(len(rows_R), heads, length + tokens, size)
    room[:, :, :length] = states[rows_R]
    return room


def noise_key(seed: int | str, prompt: Sequence[int], sample: int) -> int:
    """128 bits that stand for one sample of one prompt."""
    text = f"{seed}/{sample}/{list(prompt)}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


@torch.no_grad()
def sample_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    stops: Sequence[int],
    samples: int,
    max_new_tokens: int,
    seed: int | str,
    precision: str,
    description: str = "sampling",
) -> list[Rollout]:
    """Draw `samples` responses to every prompt, at most `max_new_tokens` long, until one of the `stops` ends them."""
    rows = [(p, s) for p in range(len(prompts)) for s in range(samples)]
    rows.sort(key=lambda row: len(prompts[row[0]]))
    batches = _batches(rows, [len(prompts[p]) + max_new_tokens for p, _ in rows])
    drawn: dict[tuple[int, int], tuple[int, ...]] = {}
    with _evaluating(model):
        for batch in track(batches, description):
            keys = [noise_key(seed, prompts[p], s) for p, s in batch]
            responses = _generate(model, [prompts[p] for p, _ in batch], keys, stops, max_new_tokens, precision)
            drawn.update(zip(batch, responses, strict=True))
    rollouts = []
    for p, prompt in enumerate(prompts):
        own = tuple(drawn[p, s] for s in range(samples))
        rollouts.append(Rollout(tuple(prompt), own, tuple(ids[-1] in stops for ids in own)))
    return rollouts


def _batches(rows: Sequence[tuple[int, int]], widths: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Rows in order, cut where a batch would get too many sequences or, padded to its widest, too many tokens."""
    batches: list[list[tuple[int, int]]] = [[]]
    for row, width in zip(rows, widths, strict=True):
        count = len(batches[-1]) + 1
        if batches[-1] and (count > SAMPLING_ROWS or count * width > SAMPLING_TOKENS):
            batches.append([])
        batches[-1].append(row)
    return batches if rows else []


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    stops: Sequence[int],
    max_new_tokens: int,
    precision: str,
) -> list[tuple[int, ...]]:
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    # everything is set here: a model's own generation settings (top-k, penalties) must not bend the samples
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, eos_token_id=list(stops), pad_token_id=stops[0]
    )
    own, model.generation_config = model.generation_config, config
    try:
        with autocast(precision, device), remembered_casts(model):
            noise = LogitsProcessorList([KeyedNoise(keys, width)])
            shared = _shared_prefill(model, prompts, ids, mask, max_new_tokens)
            output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=noise, **shared)
    finally:
        model.generation_config = own
    return [_until_stop(row, stops) for row in output[:, width:].tolist()]


def _shared_prefill(
    model: Any, prompts: Sequence[Sequence[int]], ids: Tensor, mask: Tensor, max_new_tokens: int
) -> dict[str, DynamicCache]:
    """A cache of all prompts but their last token, each computed once for all of its samples; `generate` does the rest.

    Nothing where there is no such token, or the model keeps another kind of state.
    """
    if ids.shape[1] < 2 or not model._supports_default_dynamic_cache():
        return {}
    first: dict[tuple[int, ...], int] = {}
    for row, prompt in enumerate(prompts):
        first.setdefault(tuple(prompt), row)
    distinct = torch.tensor(list(first.values()), device=ids.device)
    number = {prompt: i for i, prompt in enumerate(first)}
    rows_R = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=ids.device)
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[distinct, :-1]
    model.get_decoder()(
        input_ids=ids[distinct, :-1],
        attention_mask=mask[distinct, :-1],
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length():
            cache.layers[i] = RoomyLayer(layer, rows_R, max_new_tokens)
        else:  # a sliding window has little to copy
            layer.batch_select_indices(rows_R)
    return {"past_key_values": cache}


def _until_stop(ids: Sequence[int], stops: Sequence[int]) -> tuple[int, ...]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids) - 1)
    return tuple(ids[: end + 1])


@torch.no_grad()
def exact_kl(
    model: Any, reference: Any, rollouts: Sequence[Rollout], *, layout: Layout, precision: str, micro_tokens: int
) -> list[list[float]]:
    """KL(π ‖ π_ref) along each sampled response: the KL over the whole vocabulary at every step, summed, in nats.

    Its mean over samples of π is an unbiased, low-variance estimate of the sequence-level KL. For responses that were
    stopped by a length limit it is the KL of the length-limited policy. `reference` is a context manager that yields
    the reference model (which may be the same object with its adapter switched off).
    """
    device = next(model.parameters()).device
    ballots = [TokenBallot(rollout.prompt, rollout.responses, ()) for rollout in rollouts]
    groups = pack([layout.size(ballot) for ballot in ballots], micro_tokens)
    values: list[list[float]] = [[] for _ in rollouts]
    for group in track(groups, "KL along samples"):
        batch = layout.lay_out([ballots[i] for i in group]).to(device)
        hidden_ND, head = predicting_states(model, batch, precision), head_of(model)
        with reference() as other:
            other_hidden_ND, other_head = predicting_states(other, batch, precision), head_of(other)
        compared = chunked_comparison(hidden_ND, head, other_hidden_ND, other_head, batch.target_N)
        kl_B = sum_by_branch(compared.kl_N, batch).tolist()
        for i in group:
            count = len(ballots[i].responses)
            values[i], kl_B = kl_B[:count], kl_B[count:]
    return values
