"""Evaluation prompts that were trained on: an error with their number, or, where that is allowed, a caveat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, Prompt, as_text, kept_digests, prompt_digest, prompt_digests
from ..errors import UserError
from ..text import excerpt

Trained = Mapping[str, frozenset[str]]  # digests of prompts, by whatever learned from them


def trained_on(ballots: Iterable[Ballot], *folders: Any) -> dict[str, frozenset[str]]:
    """The digests of the training prompts, and those that a start or a reward model was trained on before."""
    trained = {"the training data": prompt_digests({ballot.prompt for ballot in ballots})}
    names: dict[frozenset[str], list[str]] = {}
    for folder in folders:
        if isinstance(folder, str | Path) and (before := kept_digests(folder)):
            names.setdefault(before, []).append(str(folder))
    return trained | {f"what {', '.join(own)} learned from": before for before, own in names.items()}


def together(trained: Trained) -> frozenset[str]:
    """All digests: what a folder keeps of the training that led to it."""
    return frozenset().union(*trained.values())


def check_overlap(asked: Mapping[str, Iterable[Prompt]], trained: Trained, *, allowed: bool) -> list[str]:
    """A caveat for each set of evaluation prompts that shares some with training; said at once.

    `asked` has the sets by what names them. Raises UserError with the number of prompts unless they are `allowed`.
    """
    caveats = []
    for name, prompts in asked.items():
        digests = {prompt_digest(prompt): prompt for prompt in prompts}
        for place, known in trained.items():
            shared = [prompt for digest, prompt in digests.items() if digest in known]
            if not shared:
                continue
            found = f"{len(shared)} of {len(digests)} prompts are also in {place}"
            if not allowed:
                such = excerpt(as_text(shared[0]))
                raise UserError(
                    f"{name}: {found} (such as {such}); take them out of one of the two, or keep them, with a caveat, "
                    "with --allow-overlap"
                )
            caveats.append(f"Not held out: of {name}, {found}; what is measured on them is in-sample.")
    for caveat in caveats:
        say(caveat)
    return caveats


def prompts_of(ballots: Sequence[Ballot]) -> list[Prompt]:
    """The prompts of some ballots."""
    return [ballot.prompt for ballot in ballots]
