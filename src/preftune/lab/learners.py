"""Votes and a ridge become scores: every way of learning that the simulations compare. Shapes as in `study`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit

from .optima import borda, ipo_scores, project, tilt
from .preference import pairs, score_features, skew
from .worlds import Floats, World, bradley_terry, cycle, draw_wins, world

BETA = 0.1

Ridge = tuple[float, ...]
Drawn = tuple[World, Floats]  # a world and the features of its responses, [X, K, D]


@dataclass(frozen=True)
class Case:
    """A row of a table: how a repetition draws its world, how many votes a prompt gets, how many are reversed."""

    table: str
    name: str
    draw: Callable[[np.random.Generator], Drawn]
    votes: int
    flips: float = 0.0


def three_cycle(rng: np.random.Generator) -> Drawn:
    """Each of three responses beats the next with probability .7; they are drawn with μ = (.6, .25, .15).

    Under a uniform μ all Borda scores would be equal, the reference would be optimal, and the best ridge infinite.
    """
    return world(cycle(3, 0.7), sampler=(0.6, 0.25, 0.15)), np.eye(3)[None]


def strong_bandit(rng: np.random.Generator) -> Drawn:
    """Ten responses with scores from N(0, 3²): most votes are foregone conclusions."""
    return bradley_terry(3 * rng.normal(size=10)), np.eye(10)[None]


def non_transitive(rng: np.random.Generator) -> Drawn:
    """Ten responses whose logits are a difference of scores plus a skew part, both from N(0, 1)."""
    score, cyclic = rng.normal(size=10), skew(rng.normal(size=45), 10)
    return world(expit(score[:, None] - score[None, :] + cyclic)), np.eye(10)[None]


def contextual(rng: np.random.Generator, *, strength: float, unexplained: float = 0.0) -> Drawn:
    """s = strength·(φ·w/√8 + unexplained·z), with the 8 features φ of a response, the weights w, and z all N(0, 1)."""
    features, weights = rng.normal(size=(100, 4, 8)), rng.normal(size=8)
    rest = rng.normal(size=(100, 4))
    return bradley_terry(strength * (features @ weights / 8**0.5 + unexplained * rest)), features


FINITE, CONTEXTUAL = "finite bandit", "100 contexts × 4 actions, 3 votes each, 8 features"
STRONG, WEAK = partial(contextual, strength=3.0), partial(contextual, strength=1.0)
CASES = (
    Case(FINITE, "3-cycle, n=30", three_cycle, 30),
    Case(FINITE, "3-cycle, n=1000", three_cycle, 1000),
    Case(FINITE, "K=10, strong BT, n=200", strong_bandit, 200),
    Case(FINITE, "K=10, strong BT, n=200, flips .2", strong_bandit, 200, flips=0.2),
    Case(FINITE, "K=10, non-transitive, n=1000", non_transitive, 1000),
    Case(CONTEXTUAL, "strong, ε=0", STRONG, 3),
    Case(CONTEXTUAL, "strong, ε=.2", STRONG, 3, flips=0.2),
    Case(CONTEXTUAL, "strong, misspecified, ε=.2", partial(STRONG, unexplained=0.3), 3, flips=0.2),
    Case(CONTEXTUAL, "weak, ε=0", WEAK, 3),
)


@dataclass(frozen=True)
class Sample:
    """The votes of R repetitions of a case, and what is needed to judge what is learnt from them."""

    wins: Floats  # [R, X, K, K]
    reference: Floats  # [R, X, K]
    sampler: Floats  # [R, X, K]
    optimum: Floats  # [R, X, K]
    features: Floats  # [R, X, K, D]
    flips: float

    @property
    def responses(self) -> int:
        return int(self.wins.shape[-1])


def draw_sample(case: Case, seeds: Iterable[Sequence[int]]) -> Sample:
    """One repetition per seed, and nothing of it depends on the other seeds."""
    drawn = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        truth, features = case.draw(rng)
        wins = draw_wins(truth, case.votes, rng, flips=case.flips)
        optimum = tilt(truth.reference, borda(truth.preference, truth.sampler), BETA)
        drawn.append((wins, truth.reference, truth.sampler, optimum, features))
    wins, reference, sampler, best, features = (np.stack(part) for part in zip(*drawn, strict=True))
    return Sample(wins, reference, sampler, best, features, case.flips)


def ipo(sample: Sample, ridge: Ridge) -> Floats:
    """IPO with a table, not regularised."""
    return ipo_scores(sample.wins)


def tabular_ipo(sample: Sample, ridge: Ridge) -> Floats:
    """IPO with a table: argmin_s Σ wins_ab·(s_a − s_b − ½)² + λ·|s|²."""
    a, b = pairs(sample.responses)
    return _least_squares(score_features(sample.responses), sample.wins[..., a, b], sample.wins[..., b, a], ridge[0])


def linear_ipo(sample: Sample, ridge: Ridge) -> Floats:
    """IPO with scores that are linear in the features, s = φ·θ, and a ridge on θ."""
    theta = _least_squares(_rows(sample), *votes_of(sample), ridge[0])
    return np.asarray((sample.features @ theta[:, None, :, None])[..., 0])


def amortized(
    sample: Sample, ridge: Ridge, *, everywhere: bool = False, cyclic: bool = False, noise_aware: bool = False
) -> Floats:
    """Amortized IPO with a table: targets σ(v) − ½ of a preference v that was fitted to the votes.

    `everywhere` uses them on all pairs instead of those voted on, `cyclic` adds a free number per pair to v (with a
    ridge of its own), `noise_aware` tells the likelihood how many votes are reversed.
    """
    rows = _rows(sample)
    penalty = np.full(rows.shape[-1], ridge[0])
    if cyclic:
        extra = np.broadcast_to(np.eye(rows.shape[1]), (len(rows), rows.shape[1], rows.shape[1]))
        rows, penalty = np.concatenate([rows, extra], -1), np.append(penalty, np.full(rows.shape[1], ridge[1]))
    theta = fit_many(rows, *votes_of(sample), penalty, sample.flips if noise_aware else 0.0)
    return follow(sample, times(rows, theta), everywhere=everywhere)


def follow(sample: Sample, logits: Floats, *, everywhere: bool) -> Floats:
    """The table that follows targets σ(logit v) − ½, logits `[R, X·M]`, on all pairs or on those voted on."""
    a, b = pairs(sample.responses)
    target = np.zeros(sample.wins.shape)
    target[..., a, b] = (expit(logits) - 0.5).reshape(*sample.wins.shape[:2], -1)
    target -= np.swapaxes(target, -1, -2)
    shown = sample.wins + np.swapaxes(sample.wins, -1, -2)
    drawn = sample.sampler[..., :, None] * sample.sampler[..., None, :]
    return project(target, drawn if everywhere else shown)


def reward(sample: Sample, ridge: Ridge) -> Floats:
    """RLHF: the Bradley–Terry reward φ·θ that the votes make likeliest is the score."""
    rows = _rows(sample)
    theta = fit_many(rows, *votes_of(sample), np.full(rows.shape[-1], ridge[0]))
    return np.asarray((sample.features @ theta[:, None, :, None])[..., 0])


def _rows(sample: Sample) -> Floats:
    """φ_a − φ_b of all pairs of all prompts, `[R, X·M, D]`."""
    a, b = pairs(sample.responses)
    rows = sample.features[..., a, :] - sample.features[..., b, :]
    return rows.reshape(len(rows), -1, rows.shape[-1])


def votes_of(sample: Sample) -> tuple[Floats, Floats]:
    """Wins of the first and of the second response of each row of `_rows`, `[R, X·M]` each."""
    a, b = pairs(sample.responses)
    first, second = sample.wins[..., a, b], sample.wins[..., b, a]
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def times(features: Floats, theta: Floats) -> Floats:
    """Scores of all responses, linear in their features."""
    return np.asarray((features @ theta[..., None])[..., 0])


def _least_squares(features: Floats, wins: Floats, losses: Floats, ridge: float) -> Floats:
    """argmin_θ Σ wins·(x·θ − ½)² + losses·(x·θ + ½)² + λ·|θ|²; of several minimisers the one of least norm."""
    across = np.swapaxes(features, -1, -2)
    normal = (across * (wins + losses)[..., None, :]) @ features + ridge * np.eye(features.shape[-1])
    inverse = np.asarray(np.linalg.pinv(normal, rcond=1e-12, hermitian=True))
    return times(inverse, times(across, (wins - losses) / 2))


def fit_many(features: Floats, wins: Floats, losses: Floats, penalty: Floats, flip_rate: float = 0.0) -> Floats:
    """What `preference.fit_preference` finds, for the votes of R repetitions side by side: θ `[R, D]`.

    `features` `[R, M, D]`; `wins` and `losses` `[R, M]`; `penalty` `[D]`, positive. Fisher scoring: each repetition
    halves its step until its loss does not rise, and all go on until no loss falls by more than rounding.
    """
    keep = 1 - 2 * flip_rate
    across = np.swapaxes(features, -1, -2)

    def state(theta: Floats) -> tuple[Floats, Floats, Floats]:
        right = expit(times(features, theta))
        won, lost = np.maximum(flip_rate + keep * right, 1e-99), np.maximum(flip_rate + keep * (1 - right), 1e-99)
        return right, won, (penalty * theta**2).sum(-1) / 2 - (wins * np.log(won) + losses * np.log(lost)).sum(-1)

    theta = np.zeros((len(wins), features.shape[-1]))
    right, won, loss = state(theta)
    for _ in range(200):
        rate = keep * right * (1 - right)
        lost = np.maximum(1 - won, 1e-99)
        slope = times(across, rate * (losses / lost - wins / won)) + penalty * theta
        weight = (wins + losses) * rate**2 / (won * lost)
        information = (across * weight[:, None, :]) @ features + np.diag(penalty)
        step = np.linalg.solve(information, slope[..., None])[..., 0]
        for _ in range(30):
            right, won, found = state(theta - step)
            worse = found > loss + 1e-12 * loss
            if not worse.any():
                break
            step[worse] /= 2
        theta, fallen, loss = theta - step, loss - found, found
        if (fallen <= 1e-12 * loss).all():
            break
    return theta
