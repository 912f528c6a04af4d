"""Prompts become ballots that nobody has voted on yet: responses of a policy, for people or judges to compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..console import say
from ..data import Ballot, Prompt, fit_prompts, read_prompts
from ..errors import UserError
from ..model import Base, sample_responses
from ..training import describe_counts
from .folders import find_policy
from .limits import check_asked, check_precision
from .policy_folders import load_policy


def draw_ballots(
    prompts: str | Path,
    model: str,
    *,
    samples: int = 2,
    max_new_tokens: int = 64,
    max_length: int = 1024,
    seed: int = 0,
    precision: str = "fp32",
    device: str = "auto",
) -> tuple[Ballot, ...]:
    """A ballot of so many distinct responses to each prompt of a file, sampled from a policy.

    A prompt whose responses are all alike has none; that is counted and said. Raises UserError where nothing is left.
    """
    check_drawing(samples, max_new_tokens, max_length)
    check_precision(precision)
    asked = read_prompts(prompts)
    folder = find_policy(model)
    base = load_policy(folder, device)
    drawn, counts = draw_responses(
        asked,
        base,
        source=folder.name,
        samples=samples,
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        seed=seed,
        precision=precision,
    )
    found = [ballot for ballot, _ in map(distinct, drawn) if ballot is not None]
    counts["prompts whose responses are empty or alike"] += len(drawn) - len(found)
    say(f"{len(found)} prompts to label; skipped or shortened: {describe_counts(+counts)}")
    if not found:
        raise UserError(f"{prompts}: no prompt has two different responses of {folder.name}; draw more --samples")
    return tuple(found)


def check_drawing(samples: int, max_new_tokens: int, max_length: int) -> None:
    """Raises UserError for a number of responses to compare, or for lengths, that cannot be."""
    check_asked(samples=samples, max_new_tokens=max_new_tokens, least=2)
    if max_new_tokens >= max_length:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: must leave room for a prompt within --max-length {max_length}"
        )


def draw_responses(
    asked: Sequence[Prompt],
    base: Base,
    *,
    source: str,
    samples: int,
    max_new_tokens: int,
    max_length: int,
    seed: int | str,
    precision: str,
) -> tuple[list[Ballot], Counter[str]]:
    """All responses of a policy to each prompt as they were drawn, alike or not; and what was skipped or shortened."""
    fitted, counts = fit_prompts(asked, base.form, max_length - max_new_tokens)
    rollouts = sample_responses(
        base.model,
        [ids for _, ids in fitted],
        stops=base.form.stops,
        samples=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        precision=precision,
        description=source,
    )
    found = []
    for (prompt, _), rollout in zip(fitted, rollouts, strict=True):
        texts = tuple(map(base.form.text, rollout.responses))
        found.append(Ballot(prompt, texts, (), source=source, ended=rollout.ended))
    return found, counts


def distinct(drawn: Ballot) -> tuple[Ballot | None, Counter[str]]:
    """The ballot of the different responses, and how often each was drawn; None where there are not two. What is empty
    is nothing to compare."""
    ended = {text: end for text, end in zip(drawn.responses, drawn.ended, strict=True) if text.strip()}
    counts = Counter(text for text in drawn.responses if text.strip())
    if len(ended) < 2:
        return None, counts
    return replace(drawn, responses=tuple(ended), ended=tuple(ended.values())), counts
