"""Sampling and KL along samples, against the enumeration of every response of a world with four tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from preftune.data.branches import branch_layout
from preftune.data.tokens import text_format
from preftune.model import decoding, sampling
from preftune.model.attention import use_branch_attention, use_stock_attention
from preftune.model.layout import Layout
from preftune.model.loading import Base
from preftune.model.logprobs import response_logprobs
from preftune.model.policy import start_policy
from preftune.model.sampling import Rollout, exact_kl, noise_key, sample_responses

VOCAB, LENGTH, STOP = 4, 3, 0
PROMPT = (1, 2, 3, 1)
Response = tuple[int, ...]


@cache
def world(seed: int) -> Any:
    """A model of four tokens; another seed is another policy of the same world."""
    model = tiny_model("llama", VOCAB, seed=seed, std=0.3)
    use_branch_attention(model)
    return model


def every_response() -> list[Response]:
    """Up to LENGTH tokens; the stop token ends a response, and so does the length."""
    return [
        (*body, *end)
        for n in range(LENGTH + 1)
        for body in product(range(1, VOCAB), repeat=n)
        for end in ([(STOP,)] if n < LENGTH else [()])
    ]


@torch.no_grad()
def enumerated(model: Any, prompt: Sequence[int] = PROMPT) -> dict[Response, float]:
    """log π of every response, from whole logits of a sequence at a time."""
    found = {}
    for response in every_response():
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].double()
        steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        found[response] = float(steps.gather(1, torch.tensor(response)[:, None]).sum())
    assert sum(np.exp(list(found.values()))) == pytest.approx(1, abs=1e-6), "these are all responses there are"
    return found


def sample(model: Any, prompts: Sequence[Sequence[int]] = (PROMPT,), **options: Any) -> list[Rollout]:
    settings = {"stops": (STOP,), "samples": 4, "max_new_tokens": LENGTH, "seed": 0, "precision": "fp32"}
    return sample_responses(model, prompts, **{**settings, **options})


@cache
def many_samples() -> Rollout:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "SAMPLING_ROWS", 1000)
        return sample(world(0), samples=5000)[0]


def kl(model: Any, reference: Any, drawn: Sequence[Rollout], layout: str = "branch") -> list[list[float]]:
    @contextmanager
    def yields() -> Iterator[Any]:
        yield reference

    return exact_kl(model, yields, drawn, layout=Layout(layout, ""), precision="fp32", micro_tokens=2000)


# --- the distribution ------------------------------------------------------------------------------------------------


def test_samples_have_the_models_own_distribution_over_whole_responses() -> None:
    drawn = many_samples().responses
    counts = Counter(drawn)
    probabilities = {response: np.exp(value) for response, value in enumerated(world(0)).items()}
    assert set(counts) <= set(probabilities)
    common = [response for response, p in probabilities.items() if p * len(drawn) >= 5]
    rest = 1 - sum(probabilities[response] for response in common)
    observed = [counts[response] for response in common]
    expected = [probabilities[response] * len(drawn) for response in common]
    assert len(common) > 10, "a world with few likely responses would test nothing"
    test = scipy.stats.chisquare([*observed, len(drawn) - sum(observed)], [*expected, rest * len(drawn)])
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_token_depends_on_seed_prompt_sample_and_position_and_not_on_the_batch(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(architecture, 40, std=0.2)
    use_branch_attention(model)
    prompts = [(3,), (4, 5, 6), tuple(range(2, 30)), (7, 8), (9,) * 12]
    options = {"max_new_tokens": 9, "samples": 3}
    together = sample(model, prompts, **options)
    monkeypatch.setattr(sampling, "SAMPLING_ROWS", 2)
    assert sample(model, prompts[::-1], **options)[::-1] == together
    assert [sample(model, [prompt], **options)[0] for prompt in prompts] == together
    fewer = sample(model, prompts, max_new_tokens=9, samples=2)
    assert [r.responses for r in fewer] == [r.responses[:2] for r in together]
    shorter = sample(model, prompts, max_new_tokens=4, samples=3)
    assert [[ids[:4] for ids in r.responses] for r in together] == [list(r.responses) for r in shorter]


def test_samples_of_a_prompt_differ_and_so_do_seeds() -> None:
    model = tiny_model("llama", 40, std=0.2)
    first, other = (sample(model, [(3, 4)], max_new_tokens=9, samples=8, seed=seed)[0] for seed in (0, 1))
    long = [ids for rollout in (first, other) for ids in rollout.responses if len(ids) > 3]
    assert len(long) > 8 and len(set(long)) == len(long)
    assert len({noise_key(s, p, k) for s in (0, 1) for p in ((1, 2), (12,), (1,)) for k in (0, 1)}) == 12


def test_policies_that_hardly_differ_draw_nearly_the_same_samples() -> None:
    model = tiny_model("llama", 40, std=0.2)
    before = sample(model, [(3, 4), (5,)], max_new_tokens=5, samples=50)
    with torch.no_grad():
        model.lm_head.weight += 1e-3 * torch.randn(model.lm_head.weight.shape)
    after = sample(model, [(3, 4), (5,)], max_new_tokens=5, samples=50)
    same = [a == b for x, y in zip(before, after, strict=True) for a, b in zip(x.responses, y.responses, strict=True)]
    assert np.mean(same) > 0.9


def test_a_models_own_generation_settings_do_not_bend_the_samples() -> None:
    model = tiny_model("llama", 40, std=0.2)
    prompts = [(3, 4), (5, 6, 7)]
    wanted = sample(model, prompts, max_new_tokens=12)
    bent = model.generation_config
    bent.update(do_sample=True, top_k=1, top_p=0.1, temperature=0.01, repetition_penalty=5.0, no_repeat_ngram_size=1)
    bent.update(eos_token_id=[5, 6], min_new_tokens=10, suppress_tokens=[7, 8, 9], max_length=3, num_beams=3)
    assert sample(model, prompts, max_new_tokens=12) == wanted
    assert model.generation_config is bent and bent.top_k == 1


def test_the_model_is_left_as_it_was_also_when_sampling_fails() -> None:
    model = tiny_model("llama", 40).train()
    own = model.generation_config
    sample(model, max_new_tokens=2)
    assert model.training and model.generation_config is own
    with pytest.raises(IndexError):
        sample(model, [(99,)], max_new_tokens=2)
    assert model.training and model.generation_config is own


# --- where a response ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(0,), (2, 0), (0, 1, 2, 3)])
def test_a_response_ends_with_the_first_stop_or_at_the_limit(stops: tuple[int, ...]) -> None:
    drawn = sample(world(0), [PROMPT, (2,)], stops=stops, samples=40, max_new_tokens=6)
    for rollout in drawn:
        for ids, ended in zip(rollout.responses, rollout.ended, strict=True):
            assert not set(ids[:-1]) & set(stops)
            assert ended == (ids[-1] in stops)
            assert ended or len(ids) == 6
            assert 1 <= len(ids) <= 6
    assert {ended for rollout in drawn for ended in rollout.ended} == ({True} if len(stops) == 4 else {True, False})


def test_the_prompt_of_a_rollout_is_the_prompt() -> None:
    assert [r.prompt for r in sample(world(0), [(3, 3), (1,), (2, 1, 2)])] == [(3, 3), (1,), (2, 1, 2)]


def test_samples_of_a_merged_adapter_are_samples_of_the_policy() -> None:
    base = Base(tiny_model("llama", 40, std=0.2), text_format(tiny_tokenizer(["a"])), "", "")
    use_branch_attention(base.model)
    before = sample(base.model, [(3, 4), (5,)], max_new_tokens=8)
    policy = start_policy(base, lora=4, seed=0)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.normal_(0, 0.3)
    unmerged = sample(policy.model, [(3, 4), (5,)], max_new_tokens=8)
    with policy.merged():
        merged = sample(policy.model, [(3, 4), (5,)], max_new_tokens=8)
    assert merged == unmerged != before
    policy.close()
    assert sample(base.model, [(3, 4), (5,)], max_new_tokens=8) == before


# --- KL along samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["branch", "padded"])
def test_the_kl_of_a_sample_is_the_sum_of_its_steps_over_the_whole_vocabulary(layout: str) -> None:
    drawn = sample(world(0), [PROMPT, (2,)], samples=5)
    found = kl(world(0), world(1), drawn, layout)
    for rollout, values in zip(drawn, found, strict=True):
        for response, value in zip(rollout.responses, values, strict=True):
            ids = torch.tensor([[*rollout.prompt, *response]])
            with torch.no_grad():
                p, q = (world(s)(input_ids=ids).logits[0].double().log_softmax(-1) for s in (0, 1))
            steps = (p.exp() * (p - q)).sum(-1)[len(rollout.prompt) - 1 : -1]
            assert value == pytest.approx(float(steps.sum()), abs=1e-5)


def test_the_mean_kl_of_samples_is_the_true_kl_of_the_length_limited_policy() -> None:
    policy, reference = enumerated(world(0)), enumerated(world(1))
    truth = sum(np.exp(p) * (p - reference[response]) for response, p in policy.items())
    drawn = many_samples()
    parts = [Rollout(PROMPT, drawn.responses[i : i + 50], drawn.ended[i : i + 50]) for i in range(0, 5000, 50)]
    values = [value for part in kl(world(0), world(1), parts) for value in part]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - truth) < 4 * error
    plain = [policy[response] - reference[response] for response in drawn.responses]
    assert error < np.std(plain) / np.sqrt(len(plain)), "less noise than the plain log-ratio has"
    assert truth > 20 * error, "or the comparison says little"


def test_the_kl_of_a_policy_with_itself_is_0() -> None:
    assert kl(world(0), world(0), sample(world(0))) == [[0.0] * 4]


def test_the_kl_of_an_adapter_is_measured_against_the_model_that_it_sits_in() -> None:
    base = Base(tiny_model("llama", VOCAB, std=0.3), text_format(tiny_tokenizer([])), "", "")
    use_branch_attention(base.model)
    policy = start_policy(base, lora=4, seed=0)
    assert policy.adapter is not None
    drawn = sample(policy.model)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.normal_(0, 0.2)

    @contextmanager
    def reference() -> Iterator[Any]:
        with policy.adapter.disable_adapter():
            yield base.model

    options = {"layout": Layout("branch", ""), "precision": "fp32", "micro_tokens": 2000}
    (found,) = exact_kl(policy.model, reference, drawn, **options)
    wanted = kl(policy.model, tiny_model("llama", VOCAB, std=0.3), drawn)
    assert found == pytest.approx(wanted[0], abs=1e-5)
    assert min(found) > 1e-3


def test_sampling_works_in_bf16_too() -> None:
    model = world(0)
    (drawn,) = sample(model, samples=2, precision="bf16")
    with torch.no_grad():
        assert torch.isfinite(response_logprobs(model, branch_layout([drawn]), precision="bf16")).all()


# --- the states of a prompt are kept once for its samples -------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("narrow", [False, True])
def test_samples_that_share_a_prompt_are_those_of_generate(
    architecture: str, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of different lengths, longer than a sliding window, read in together or one at a time."""
    model = tiny_model(architecture, 20, std=0.4)
    assert use_branch_attention(model) and decoding.can_decode(model)
    prompts = [(3, 4, 5, 6, 7, 8, 9, 10, 11), (5, 6, 7), (9,)]
    if narrow:
        monkeypatch.setattr(decoding, "PREFILL_TOKENS", 1)
    shared = sample(model, prompts, samples=3, max_new_tokens=6)
    use_stock_attention(model)
    assert not decoding.can_decode(model)
    assert sample(model, prompts, samples=3, max_new_tokens=6) == shared


def test_more_samples_than_share_a_prompt_are_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", 40, std=0.2)
    use_branch_attention(model)
    together = sample(model, [(3, 4), (5,)], samples=7, max_new_tokens=6)
    monkeypatch.setattr(sampling, "SHARING_ROWS", 3)
    assert sample(model, [(3, 4), (5,)], samples=7, max_new_tokens=6) == together


def test_the_prompts_run_through_the_model_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = world(0), []
    real = model.get_decoder().forward
    monkeypatch.setattr(
        model.get_decoder(), "forward", lambda *a, **k: sizes.append(k["input_ids"].numel()) or real(*a, **k)
    )
    sample(model, [PROMPT, (2, 1, 3)], samples=8, max_new_tokens=3)
    assert sizes == [2 * len(PROMPT), 16, 16]


def test_sampling_ends_when_every_sample_has(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = world(0), []
    real = model.get_decoder().forward
    monkeypatch.setattr(
        model.get_decoder(), "forward", lambda *a, **k: sizes.append(k["input_ids"].numel()) or real(*a, **k)
    )
    drawn = sample(model, samples=2, max_new_tokens=200)
    assert len(sizes) == max(len(ids) for ids in drawn[0].responses) < 200
