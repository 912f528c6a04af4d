"""Finite worlds: a few prompts with a few responses each, and everything about them known.

Shapes: X prompts, K responses to each. `preference[x, a, b]` is Pr(a ≻ b | x).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Prompts, responses, what people prefer, where the policy starts and where the responses to vote on come from.

    Attributes:
        preference: p(a ≻ b | x), `[X, K, K]`; p(a ≻ b) + p(b ≻ a) = 1, so the diagonal is ½.
        reference: π_ref(y|x), `[X, K]`, every entry positive.
        sampler: μ(y|x), the policy that both responses of a vote are drawn from, `[X, K]`.
        score: a true Bradley–Terry score s(x, y) in nats, `[X, K]`, where one explains the preferences.

    Raises ValueError for preferences that are not antisymmetric or distributions that do not sum to 1.
    """

    preference: Floats
    reference: Floats
    sampler: Floats
    score: Floats | None = None

    def __post_init__(self) -> None:
        mirrored = 1 - np.swapaxes(self.preference, -1, -2)
        if self.preference.ndim != 3 or not np.allclose(self.preference, mirrored, rtol=0, atol=1e-12):
            raise ValueError("preferences must be [X, K, K] with p(a ≻ b) + p(b ≻ a) = 1")
        for name, policy in (("reference", self.reference), ("sampler", self.sampler)):
            if policy.shape != self.preference.shape[:2] or not np.allclose(policy.sum(-1), 1):
                raise ValueError(f"{name} must be [X, K] with rows that sum to 1")
        if (self.reference <= 0).any() or (self.sampler < 0).any():
            raise ValueError("every response needs a positive reference probability, and none a negative one")


def world(
    preference: npt.ArrayLike,
    *,
    reference: npt.ArrayLike | None = None,
    sampler: npt.ArrayLike | None = None,
    score: Floats | None = None,
) -> World:
    """A world from preferences `[K, K]` or `[X, K, K]`.

    The reference is uniform and the sampler is the reference unless they are given, `[K]` or `[X, K]`.
    """
    p = np.atleast_3d(np.asarray(preference, dtype=np.float64))
    p = p.reshape(-1, p.shape[1], p.shape[1]) if np.ndim(preference) == 2 else p
    uniform = np.full(p.shape[:2], 1 / p.shape[1])
    start = uniform if reference is None else np.broadcast_to(np.asarray(reference, np.float64), p.shape[:2])
    drawn = start if sampler is None else np.broadcast_to(np.asarray(sampler, np.float64), p.shape[:2])
    return World(p, start, drawn, score)


def bradley_terry(
    score: npt.ArrayLike, *, reference: npt.ArrayLike | None = None, sampler: npt.ArrayLike | None = None
) -> World:
    """Preferences that a score explains: p(a ≻ b) = σ(s_a − s_b). `score` is `[K]` or `[X, K]`, in nats."""
    s = np.atleast_2d(np.asarray(score, dtype=np.float64))
    return world(expit(s[..., :, None] - s[..., None, :]), reference=reference, sampler=sampler, score=s)


def order(responses: int = 2, strength: float = 1.0) -> Floats:
    """An earlier response beats a later one with probability `strength`, `[K, K]`; at 1 it always does."""
    return pairwise(responses, {(a, b): strength for a in range(responses) for b in range(a + 1, responses)})


def cycle(responses: int = 3, strength: float = 1.0) -> Floats:
    """Rock, paper, scissors: each response beats the next one around a circle with probability `strength`, `[K, K]`.

    Pairs that are not neighbours on the circle are ties. No score explains it.
    """
    return pairwise(responses, {(a, (a + 1) % responses): strength for a in range(responses)})


def pairwise(responses: int, given: dict[tuple[int, int], float]) -> Floats:
    """Preferences from p(a ≻ b) of some pairs, the other pairs being ties, `[K, K]`."""
    p = np.full((responses, responses), 0.5)
    for (a, b), value in given.items():
        p[a, b], p[b, a] = value, 1 - value
    return p


def arbitrary(rng: np.random.Generator, prompts: int = 1, responses: int = 4) -> World:
    """Everything at random: preferences uniform on [0, 1] (no score explains them), reference and sampler Dirichlet."""
    upper = np.triu(rng.uniform(size=(prompts, responses, responses)), 1)
    p = upper + np.tril(1 - np.swapaxes(upper, -1, -2), -1) + np.eye(responses) / 2
    reference, sampler = rng.dirichlet(np.full(responses, 2.0), size=(2, prompts))
    return world(p, reference=reference, sampler=sampler)


# --- votes ------------------------------------------------------------------------------------------------------------


def draw_wins(
    truth: World,
    votes: int,
    rng: np.random.Generator,
    *,
    flips: float = 0.0,
    ties: float = 0.0,
    annotators: int = 1,
) -> Floats:
    """How often each response was preferred to each other one, `[X, K, K]`, in drawn votes.

    `votes` pairs a prompt: both responses from μ, drawn again while they are the same; each of `annotators` people
    votes once on the pair. A person says "tie" (half a win for each) with probability `ties`, and otherwise the
    preferred response by p(a ≻ b), reversed with probability `flips`.
    """
    X, K = truth.reference.shape
    chances = truth.sampler[:, :, None] * truth.sampler[:, None, :] * (1 - np.eye(K))
    chances /= chances.sum((-1, -2), keepdims=True)
    shown = rng.multinomial(votes, chances.reshape(X, K * K)).reshape(X, K, K) * annotators
    tied = rng.binomial(shown, ties)
    won = rng.binomial(shown - tied, flips + (1 - 2 * flips) * truth.preference)
    lost = shown - tied - won
    return won + tied / 2 + np.swapaxes(lost + tied / 2, -1, -2)


def expected_wins(truth: World) -> Floats:
    """What `draw_wins` tends to for infinitely many pairs from μ × μ, `[X, K, K]`: μ(a)·μ(b)·p(a ≻ b).

    A response against itself is left in: it says nothing, and the shares of the other pairs are those of μ × μ.
    """
    return truth.sampler[:, :, None] * truth.sampler[:, None, :] * truth.preference


def wins_of(votes: Iterable[tuple[int, int, float, float]], responses: int) -> Floats:
    """The wins `[K, K]` in votes (a, b, p, weight): weight·p for a over b, weight·(1 − p) for b over a."""
    wins = np.zeros((responses, responses))
    for a, b, p, weight in votes:
        wins[a, b] += weight * p
        wins[b, a] += weight * (1 - p)
    return wins
