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
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..console import track
from ..data import TokenBallot
from ..errors import NotFinite
from .decoding import can_decode, decode
from .engine import autocast, remembered_casts
from .layout import Layout
from .logprobs import check_finite, chunked_comparison, head_of, predicting_states, sum_by_branch

SAMPLING_ROWS = 256  # sequences that decode together, and the tokens that their caches may hold
SAMPLING_TOKENS = 2**14
SHARING_ROWS = 8  # samples that share a prompt's states: each looks past the tokens of the others
Unit = tuple[int, range]  # a prompt's number, and samples of it


@dataclass(frozen=True)
class Rollout:
    """The sampled responses to one prompt, as token ids with their end-of-text; `ended[k]`: it was reached."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    ended: tuple[bool, ...]

    @property
    def ballot(self) -> TokenBallot:
        """The prompt and its responses, to be laid out; nobody has voted on them."""
        return TokenBallot(self.prompt, self.responses, ())


def draw_tokens(keys: Sequence[int], logits: Tensor, position: int) -> Tensor:
    """One exact sample of softmax(logits) a row, `[R, V]` → `[R]`, by the noise of its key at a position.

    argmax(p / E) with E standard exponential has the probabilities p: it is Gumbel noise on the logits. In float64:
    float32 exponentials are exactly 0 too often for a vocabulary of this size.
    """
    weights = logits.softmax(-1).cpu().numpy()
    if not np.isfinite(weights.sum(1)).all():  # of NaN, argmax would make a token like any other
        raise NotFinite("sampling: next-token probabilities are not finite; use --precision fp32, or check the weights")

    def draw(key: int, weights_V: npt.NDArray[np.float32]) -> int:
        stream = np.random.Philox(key=key, counter=[0, 0, 0, position])
        return int(np.argmax(weights_V / np.random.Generator(stream).standard_exponential(len(weights_V))))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy draws without the interpreter's lock
        return torch.tensor(list(pool.map(draw, keys, weights)), device=logits.device)


class KeyedNoise(LogitsProcessor):  # type: ignore[misc]
    """For `generate`: the token that the noise chooses gets an infinite logit."""

    def __init__(self, keys: Sequence[int], prompt_width: int) -> None:
        self.keys, self.prompt_width = keys, prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = draw_tokens(self.keys, scores, input_ids.shape[1] - self.prompt_width)
        return scores.scatter(1, chosen[:, None], torch.inf)


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
    size = max(1, min(samples, SHARING_ROWS, SAMPLING_ROWS))
    chunks = [range(start, min(start + size, samples)) for start in range(0, samples, size)]
    units = [(p, chunk) for chunk in chunks for p in sorted(range(len(prompts)), key=lambda p: len(prompts[p]))]
    ours = can_decode(model)
    drawn: dict[tuple[int, int], tuple[int, ...]] = {}
    with _evaluating(model):
        for batch in track(_batches(units, prompts, max_new_tokens, ours), description):
            rows = [(p, s) for p, chunk in batch for s in chunk]
            keys = [noise_key(seed, prompts[p], s) for p, s in rows]
            asked = [prompts[p] for p, _ in (batch if ours else rows)]
            responses = (_decode if ours else _generate)(model, asked, keys, stops, max_new_tokens, precision)
            drawn.update(zip(rows, responses, strict=True))
    rollouts = []
    for p, prompt in enumerate(prompts):
        own = tuple(drawn[p, s] for s in range(samples))
        rollouts.append(Rollout(tuple(prompt), own, tuple(ids[-1] in stops for ids in own)))
    return rollouts


def _batches(units: Sequence[Unit], prompts: Sequence[Sequence[int]], new: int, shared: bool) -> list[list[Unit]]:
    """Units in order, cut where a batch would get too many sequences or, padded to its widest prompt, too many tokens.

    All units of a batch have the same number of samples. `shared`: they share the tokens of their prompt.
    """
    batches: list[list[Unit]] = []
    for p, chunk in units:
        count, width, size = len(batches[-1]) + 1 if batches else 1, len(prompts[p]), len(chunk)
        tokens = width + size * new if shared else size * (width + new)
        if (
            not batches
            or len(batches[-1][0][1]) != size
            or count * size > SAMPLING_ROWS
            or count * tokens > SAMPLING_TOKENS
        ):
            batches.append([])
        batches[-1].append((p, chunk))
    return batches


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    stops: Sequence[int],
    max_new_tokens: int,
    precision: str,
) -> list[tuple[int, ...]]:
    """The samples of all prompts, as many of each as there are keys for."""
    with autocast(precision, next(model.parameters()).device), remembered_casts(model):
        samples = len(keys) // len(prompts)
        output = decode(model, prompts, samples, partial(draw_tokens, keys), stops, max_new_tokens, precision)
    return [_until_stop(row, stops) for row in output.tolist()]


def _generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[int],
    stops: Sequence[int],
    max_new_tokens: int,
    precision: str,
) -> list[tuple[int, ...]]:
    """A sample of each prompt by transformers, for a model whose attention is not ours, or that keeps other states."""
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
            output = model.generate(input_ids=ids, attention_mask=mask, logits_processor=noise)
    finally:
        model.generation_config = own
    return [_until_stop(row, stops) for row in output[:, width:].tolist()]


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
    ballots = [rollout.ballot for rollout in rollouts]
    groups = layout.groups(ballots, micro_tokens)
    values: list[list[float]] = [[] for _ in rollouts]
    for group in track(groups, "KL along samples"):
        batch = layout.lay_out([ballots[i] for i in group]).to(device)
        hidden_ND, head = predicting_states(model, batch, precision), head_of(model)
        with reference() as other:
            other_hidden_ND, other_head = predicting_states(other, batch, precision), head_of(other)
        compared = chunked_comparison(hidden_ND, head, other_hidden_ND, other_head, batch.target_N)
        check_finite(compared.kl_N, "values of KL", model)
        kl_B = sum_by_branch(compared.kl_N, batch).tolist()
        for i in group:
            count = len(ballots[i].responses)
            values[i], kl_B = kl_B[:count], kl_B[count:]
    return values
