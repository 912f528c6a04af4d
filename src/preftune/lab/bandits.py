"""The bandits of the IPO paper (Azar et al., arXiv 2310.12036, section 5), trained by its protocol and in closed form.

Three responses, a uniform reference, π = softmax(θ), and a handful of hard votes. Adam with learning rate 0.01 takes
18,000 steps on mini-batches of 9 votes drawn with replacement, for 10 seeds. Seeds, data sets, methods and strengths
are trained side by side in one array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import expit, softmax
from scipy.stats import t as student

from .optima import ipo_scores, most_likely, tilt
from .worlds import Floats, wins_of

DATASETS: dict[str, tuple[tuple[int, int], ...]] = {  # (winner, loser) among the responses a, b, c
    "D1": ((0, 1), (1, 2), (0, 2)),
    "D2": ((0, 1), (1, 2), (2, 0)),
    "D3 as printed": ((0, 1), (1, 0)),
    "D3 as meant": ((0, 1), (1, 0), (0, 2)),
}
BETAS = (0.1, 0.5, 1.0)
METHODS = ("ipo", "dpo")
STEPS, BATCH, RATE, SEEDS = 18_000, 9, 0.01, 10
POINTS = 80  # of a learning curve, evenly spaced on a log scale


@dataclass(frozen=True)
class Curve:
    """What one method does on one data set at one β.

    `steps` `[T]`; `policy` `[T, seeds, 3]`, the probabilities of a, b and c; `optimum` `[3]`, the closed form.
    """

    dataset: str
    method: str
    beta: float
    steps: Floats
    policy: Floats
    optimum: Floats

    def band(self) -> tuple[Floats, Floats, Floats]:
        """Mean over seeds and the ends of its 95% interval (Student's t over seeds), each `[T, 3]`."""
        mean = self.policy.mean(1)
        seeds = self.policy.shape[1]
        reach = student.ppf(0.975, seeds - 1) * self.policy.std(1, ddof=1) / seeds**0.5
        return mean, mean - reach, mean + reach


def optimum(dataset: str, method: str, beta: float) -> Floats:
    """The closed form `[3]`: IPO's least squares, or the limit of the Bradley–Terry likelihood."""
    wins = wins_of(((winner, loser, 1.0, 1.0) for winner, loser in DATASETS[dataset]), 3)
    score = ipo_scores(wins) if method == "ipo" else most_likely(wins).score
    return tilt(np.full(3, 1 / 3), score, beta)


def train(
    steps: int = STEPS, seeds: int = SEEDS, *, seed: int = 0, track: Callable[[Iterable[int]], Iterable[int]] = iter
) -> list[Curve]:
    """Run the protocol on every data set with every method and β. `track` wraps the steps, to show progress."""
    cells = list(product(DATASETS, METHODS, BETAS))
    # row r of an array below is one run; rows of one cell stand together, one per seed
    votes, chances = _tables([dataset for dataset, _, _ in cells], seeds)
    is_ipo = np.repeat([method == "ipo" for _, method, _ in cells], seeds)[:, None]
    beta = np.repeat([beta for _, _, beta in cells], seeds)[:, None]
    rng = np.random.default_rng(seed)
    theta, mean, square = np.zeros((3, len(beta), 3))
    times = np.unique(np.append(0, np.geomspace(min(10, steps), steps, POINTS).round()))
    kept = [softmax(theta, -1)]
    for step in track(range(1, steps + 1)):
        share = rng.multinomial(BATCH, chances) / BATCH
        gap = np.einsum("rvk,rk->rv", votes, theta)  # log π(winner) − log π(loser); the uniform reference cancels
        slope = np.where(is_ipo, 2 * (gap - 0.5 / beta), -beta * expit(-beta * gap))
        gradient = np.einsum("rv,rvk->rk", share * slope, votes)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        theta = theta - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        if step == times[len(kept)]:
            kept.append(softmax(theta, -1))
    policies = np.array(kept).reshape(len(kept), len(cells), seeds, 3)
    return [
        Curve(dataset, method, beta, times, policies[:, i], optimum(dataset, method, beta))
        for i, (dataset, method, beta) in enumerate(cells)
    ]


def _tables(datasets: list[str], seeds: int) -> tuple[Floats, Floats]:
    """Of each run: its votes as one-hot(winner) − one-hot(loser) `[R, 3, 3]`, and the chance to draw each `[R, 3]`."""
    votes, chances = np.zeros((len(datasets), 3, 3)), np.zeros((len(datasets), 3))
    for i, name in enumerate(datasets):
        for j, (winner, loser) in enumerate(DATASETS[name]):
            votes[i, j, winner], votes[i, j, loser] = 1, -1
            chances[i, j] = 1 / len(DATASETS[name])
    return np.repeat(votes, seeds, 0), np.repeat(chances, seeds, 0)
