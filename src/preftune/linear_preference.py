"""A preference that is linear in features: its three heads, fitted to votes, its layer and penalty chosen on them.

    score           logit v(a, b) = w·(f_a − f_b)                       Bradley–Terry
    general         logit v(a, b) = w·(f_a − f_b) + u_aᵀ R u_b          R skew; u = P(f − c)
    unconstrained   logit v(a, b) = w·f_a + w'·f_b + w₀                 an ablation: not antisymmetric

Both antisymmetric heads are linear in their parameters, the entries of w and R, so a fit to votes is a logistic
regression. A skew R is a rotation of 2 × 2 skew blocks (Zhang et al., arXiv 2410.02197, have those and learn the
rotation in u): together with w it can express every preference between responses that u tells apart, cycles too.

Shapes: V votes, L layers, B responses, D features of a response, d directions of u, F parameters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from .ballots import Vote
from .branches import vote_offsets
from .console import track
from .evaluate import VoteTable, reference_table
from .tokens import TokenBallot

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

HEADS = ("score", "general", "unconstrained")
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4)  # on squared weights of standardised features, in nats
UNCHOSEN = 1e-3  # the penalty where there is one prompt, and nothing to choose by
FOLDS = 5
ROUGHLY = 1e-7  # fits that only compare penalties: a quarter of the time, and held-out losses to 1e-4 nats
DIRECTIONS = 16  # of u at most: 120 numbers in R
FIRST_RATE = 0.1  # where the search for an unknown flip rate starts


# --- the likelihood ---------------------------------------------------------------------------------------------------


def noisy_loss(z: Floats, target: Floats, flip_rate: float) -> Floats:
    """−t·log k(z) − (1 − t)·log k(−z) of every vote, in nats, `[V]`, with k(z) = ε + (1 − 2ε)·σ(z) and ε `flip_rate`.

    Without flips this is Bradley–Terry's; it is finite for every z.
    """
    return np.asarray(-target * _log_kept(z, flip_rate) - (1 - target) * _log_kept(-z, flip_rate))


def _log_kept(z: Floats, flip_rate: float) -> Floats:
    """log k(z): preferred and kept, or not preferred and flipped."""
    with np.errstate(divide="ignore"):
        kept, flipped = np.log([1 - flip_rate, flip_rate])
    return np.asarray(np.logaddexp(kept + log_expit(z), flipped + log_expit(-z)))


def fit_linear(
    features: Any,
    target: Floats,
    weight: Floats,
    *,
    penalty: float,
    start: Floats | None = None,
    flip_rate: float | None = 0.0,
    tolerance: float = 1e-12,
) -> tuple[Floats, float]:
    """(w `[F]`, ε) that minimise mean `noisy_loss` + penalty/2·|w|² at z = features·w; rows `[V, F]`, dense or sparse.

    With a `flip_rate` ε is that, and with 0 the problem is convex for every target, one outside [0, 1] too. With None
    ε is fitted, between 0 and ½: a search from `FIRST_RATE`, since this problem is not convex. The search ends when a
    step lowers the objective by less than `tolerance` of it.
    """
    share = weight / weight.sum()
    width = features.shape[1]

    def objective(x: Floats) -> tuple[float, Floats]:
        w, rate = x[:width], flip_rate if flip_rate is not None else 0.5 * float(expit(x[width]))
        z = features @ w
        log_a, log_b, bend = _log_kept(z, rate), _log_kept(-z, rate), log_expit(z) + log_expit(-z)
        by_z = (1 - 2 * rate) * ((1 - target) * np.exp(bend - log_b) - target * np.exp(bend - log_a))
        value = float(share @ (-target * log_a - (1 - target) * log_b) + penalty / 2 * w @ w)
        slope = np.asarray(features.T @ (share * by_z) + penalty * w)
        if flip_rate is not None:
            return value, slope
        won, lost = target * np.exp(np.log(rate) - log_a), (1 - target) * np.exp(np.log(rate) - log_b)
        by_rate = float(share @ ((lost - won) * (1 - 2 * expit(z)))) * (1 - 2 * rate)
        return value, np.append(slope, by_rate)

    first = np.zeros(width) if start is None else start
    if flip_rate is None:
        first = np.append(first, np.log(2 * FIRST_RATE / (1 - 2 * FIRST_RATE)))
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-7, "ftol": tolerance}
    x = np.asarray(minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x)
    return x[:width], flip_rate if flip_rate is not None else 0.5 * float(expit(x[width]))


# --- heads ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """How a preference depends on the features of two responses: u = P(f − c), P `[d, D]`, c `[D]` (d = 0: no u)."""

    name: str
    directions: Floats
    center: Floats

    def rows(self, a: Features, b: Features) -> Floats:
        """What the logits of pairs are linear in, `[V, F]`, from the features of both responses, `[V, D]` each."""
        f, g = a.astype(np.float64), b.astype(np.float64)
        if self.name == "unconstrained":
            return np.hstack([f, g, np.ones((len(f), 1))])
        u, v = ((x - self.center) @ self.directions.T for x in (f, g))
        i, j = np.triu_indices(len(self.directions), 1)
        return np.hstack([f - g, u[:, i] * v[:, j] - u[:, j] * v[:, i]])


def find_head(name: str, features_BD: Features, a: Indices, b: Indices) -> Head:
    """The head of that name; u of the general one are the principal directions in which compared responses differ."""
    center = features_BD.mean(0, dtype=np.float64)
    if name != "general":
        return Head(name, np.zeros((0, len(center))), center)
    differences = features_BD[a].astype(np.float64) - features_BD[b]
    _, sizes, directions = np.linalg.svd(differences, full_matrices=False)
    told = int((sizes > 1e-6 * sizes[0]).sum()) if len(sizes) else 0
    return Head(name, directions[: min(told, DIRECTIONS)], center)


def winner_first(ballot: TokenBallot) -> TokenBallot:
    """The same votes with the winner as the first response of each: a soft vote becomes two, each with its share."""
    sides = (side for vote in ballot.votes for side in (vote, vote.swap()))
    votes = tuple(Vote(v.a, v.b, 1.0, v.weight * v.p) for v in sides if v.p > 0)
    return replace(ballot, votes=votes)


# --- choosing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearFit:
    """What `fit_frozen` chose: the number of the candidate layer, the penalty, its cross-validated log-loss (None:
    fewer than two prompts, nothing to choose by), the flip rate, the head, and weights `[F]` on its rows as they
    are."""

    candidate: int
    penalty: float
    log_loss: float | None
    flip_rate: float
    head: Head
    weight: Floats


def fit_frozen(
    features_LBD: Features,
    ballots: Sequence[TokenBallot],
    target: Floats,
    *,
    seed: int,
    head: str = "score",
    flip_rate: float | None = 0.0,
) -> LinearFit:
    """Fit a preference to the features of some layers, the layer and the penalty chosen by cross-validation.

    `target` is the preference of every vote after smoothing; `flip_rate` as in `fit_linear`. Folds are of prompts;
    within each the rows are standardised by those that are trained on. The penalty is what stops the fit: the held-out
    votes that it is chosen by are taken out of the training ones.
    """
    a, b = vote_pairs(ballots).T
    table = reference_table(ballots)
    fold = _folds(table.prompt, seed)
    heads = [find_head(head, features_BD, a, b) for features_BD in features_LBD]
    losses = np.zeros((len(features_LBD), len(PENALTIES)))
    if len(set(table.prompt)) > 1:
        for layer, left_out in track([(i, k) for i in range(len(losses)) for k in np.unique(fold)], "cross-validation"):
            rows = heads[layer].rows(features_LBD[layer][a], features_LBD[layer][b])
            losses[layer] += _path_losses(rows, target, table, fold == left_out, flip_rate)
        losses /= table.weight.sum()
        layer, choice = map(int, np.unravel_index(losses.argmin(), losses.shape))
        found: float | None = float(losses[layer, choice])
    else:
        layer, choice, found = len(losses) // 2, PENALTIES.index(UNCHOSEN), None
    rows = heads[layer].rows(features_LBD[layer][a], features_LBD[layer][b])
    scale = _spread(rows, table.weight)
    weight, rate = fit_linear(rows / scale, target, table.weight, penalty=PENALTIES[choice], flip_rate=flip_rate)
    return LinearFit(layer, PENALTIES[choice], found, rate, heads[layer], weight / scale)


def vote_pairs(ballots: Sequence[TokenBallot]) -> Indices:
    """(a, b) of every vote as indices into all responses of the ballots, `[V, 2]`."""
    offsets = vote_offsets(ballots)
    pairs = [(i + v.a, i + v.b) for i, ballot in zip(offsets, ballots, strict=True) for v in ballot.votes]
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


def _folds(prompts: Sequence[tuple[int, ...]], seed: int) -> Indices:
    """The fold of every vote; all votes of a prompt are in one."""
    distinct = sorted(set(prompts))
    random.Random(seed).shuffle(distinct)
    number_of = {prompt: i % FOLDS for i, prompt in enumerate(distinct)}
    return np.array([number_of[prompt] for prompt in prompts], dtype=np.intp)


def _path_losses(
    rows: Floats, target: Floats, table: VoteTable, test: npt.NDArray[np.bool_], flip_rate: float | None
) -> Floats:
    """Summed loss on the votes of `test` of a fit to all others, for every penalty, from the strongest down."""
    scale = _spread(rows[~test], table.weight[~test])
    rows = rows / scale
    found: list[float] = []
    w: Floats | None = None
    for penalty in PENALTIES:
        w, rate = fit_linear(
            rows[~test],
            target[~test],
            table.weight[~test],
            penalty=penalty,
            start=w,
            flip_rate=flip_rate,
            tolerance=ROUGHLY,
        )
        found.append(float(table.weight[test] @ noisy_loss(rows[test] @ w, table.p[test], rate)))
    return np.array(found)


def _spread(rows: Floats, weight: Floats) -> Floats:
    """Root mean square of every column over the votes, 1 where all are 0."""
    spread = np.sqrt(weight @ rows**2 / weight.sum())
    return np.where(spread > 0, spread, 1.0)
