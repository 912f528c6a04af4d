"""A quick study of a tiny model: its words, its ballots, its settings."""

import random

from preftune import Ballot, Vote
from preftune.judges import Judge

WORDS = list("abcdefgh")


LIKES_A = Judge("likes a", "count of a less that of b", lambda _, texts: [t.count("a") - t.count("b") for t in texts])


QUICK = {
    "betas": [0.1, 0.5],
    "eval_fraction": 0.3,
    "samples": 2,
    "max_new_tokens": 6,
    "max_length": 24,
    "checkpoints": 2,
    "judge": LIKES_A,
    "lr": 5e-3,
    "batch_size": 8,
    "epochs": 2.0,
    "device": "cpu",
}


def make_ballots(count: int = 40, seed: int = 0) -> list[Ballot]:
    rng = random.Random(seed)
    ballots = []
    for _ in range(count):
        responses = tuple({" ".join(rng.choices(WORDS, k=rng.randint(1, 4))): None for _ in range(3)})
        if len(responses) < 2:
            continue
        likes = [text.count("a") - text.count("b") for text in responses]
        votes = tuple(
            Vote(i, j, 0.5 if likes[i] == likes[j] else float(likes[i] > likes[j]))
            for i in range(len(responses))
            for j in range(i)
        )
        ballots.append(Ballot(" ".join(rng.choices(WORDS, k=3)), responses, votes))
    return ballots
