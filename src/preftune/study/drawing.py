"""Prompts become ballots that nobody has voted on yet: responses of a policy, for people to compare."""

from __future__ import annotations

from pathlib import Path

from ..console import say
from ..data import Ballot, fit_prompts, read_prompts
from ..errors import UserError
from ..model import sample_responses
from ..training import describe_counts
from .folders import find_policy
from .limits import check_asked, check_precision
from .policies import load_policy


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
    check_asked(samples=samples, max_new_tokens=max_new_tokens, least=2)
    check_precision(precision)
    if max_new_tokens >= max_length:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: must leave room for a prompt within --max-length {max_length}"
        )
    asked = read_prompts(prompts)
    folder = find_policy(model)
    base = load_policy(folder, device)
    fitted, counts = fit_prompts(asked, base.form, max_length - max_new_tokens)
    rollouts = sample_responses(
        base.model,
        [ids for _, ids in fitted],
        stops=base.form.stops,
        samples=samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        precision=precision,
        description=folder.name,
    )
    found = []
    for (prompt, _), rollout in zip(fitted, rollouts, strict=True):
        texts = {base.form.text(ids): ended for ids, ended in zip(rollout.responses, rollout.ended, strict=True)}
        kept = {text: ended for text, ended in texts.items() if text.strip()}
        if len(kept) < 2:
            counts["prompts whose responses are empty or alike"] += 1
        else:
            found.append(Ballot(prompt, tuple(kept), (), source=folder.name, ended=tuple(kept.values())))
    say(f"{len(found)} prompts to label; skipped or shortened: {describe_counts(counts)}")
    if not found:
        raise UserError(f"{prompts}: no prompt has two different responses of {folder.name}; draw more --samples")
    return tuple(found)
