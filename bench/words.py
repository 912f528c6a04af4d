"""A world of words for benchmarks that train many tiny models: sentences, their values, votes on them.

Every word has a value, a response that of its words. Words follow each other as in `sentence`, which a tiny Llama has
learned before it meets a vote.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from unittest.mock import patch

from preftune.data.ballots import Ballot, Vote
from preftune.study.single import train
from tests.tiny import tiny_llama

WORDS = tuple("abcdefgh")


@dataclass
class WordWorld:
    """Prompts, what each word is worth (logits of a vote), and where the votes' luck comes from."""

    prompts: Sequence[Sequence[str]]
    values: Mapping[str, float]
    rng: random.Random

    @classmethod
    def of(cls, seed: int, prompts: int) -> WordWorld:
        """A world with so many prompts, all different."""
        rng = random.Random(seed)
        values = {word: rng.gauss(0, 1.5) for word in WORDS}
        found: dict[str, list[str]] = {}
        while len(found) < prompts:
            prompt = sentence(rng, 5)
            found[" ".join(prompt)] = prompt
        return cls(list(found.values()), values, rng)

    def worth(self, text: str) -> float:
        """The value of a response."""
        return sum(self.values.get(word, 0.0) for word in text.split())

    def ballots(self, noises: Sequence[float]) -> list[Ballot]:
        """A ballot of two responses for each prompt, its vote by Bradley-Terry and flipped at a rate of its own."""
        return [self._ballot(prompt, noise) for prompt, noise in zip(self.prompts, noises, strict=True)]

    def _ballot(self, prompt: Sequence[str], noise: float) -> Ballot:
        rng = self.rng
        first = second = sentence(rng, rng.randint(2, 4), prompt[-1])
        while first == second:
            second = sentence(rng, rng.randint(2, 4), prompt[-1])
        texts = " ".join(first), " ".join(second)
        better = 1 / (1 + exp(self.worth(texts[1]) - self.worth(texts[0])))
        says_first = (rng.random() < better) != (rng.random() < noise)
        return Ballot(" ".join(prompt), texts, (Vote(0, 1, float(says_first)),))


def sentence(rng: random.Random, length: int, last: str | None = None) -> list[str]:
    """Words of which each is followed by the next one, the one after it, or (seldom) any."""
    words: list[str] = []
    at = WORDS.index(last) if last else rng.randrange(len(WORDS))
    for _ in range(length):
        at = (at + rng.choice((1, 1, 1, 2, 2, rng.randrange(len(WORDS))))) % len(WORDS)
        words.append(WORDS[at])
    return words


def pretrained(folder: Path, seed: int) -> str:
    """A tiny Llama that has learned how words follow each other."""
    rng = random.Random(seed)
    ballots = []
    for _ in range(1600):
        prompt = sentence(rng, 1)
        text = " ".join(sentence(rng, 8, prompt[-1]))
        ballots.append(Ballot(prompt[0], (text, ""), (Vote(0, 1, 1.0),)))
    start = tiny_llama(folder / "start", WORDS, seed=seed, std=0.1)
    settings = {"lr": 1e-2, "batch_size": 16, "max_length": 32, "device": "cpu"}
    with patch.dict(os.environ, PREFTUNE_CACHE=str(folder / "store")):
        run = train("sft", ballots, model=start, out=folder / "run", seed=seed, **settings)
    return str(run.folder / "policy")
