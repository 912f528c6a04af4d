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

import numpy as np
import numpy.typing as npt

from ..console import track
from ..data import TokenBallot, Vote, fit_linear, noisy_loss, reference_table, vote_pairs
from ..evidence import Floats, Indices, VoteTable

Features = npt.NDArray[np.float32]

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3, 1e-4)  # on squared weights of standardised features, in nats
UNCHOSEN = 1e-3  # the penalty where there is one prompt, and nothing to choose by
FOLDS = 5
ROUGHLY = 1e-7  # fits that only compare penalties: a quarter of the time, and held-out losses to 1e-4 nats
DIRECTIONS = 16  # of u at most: 120 numbers in R


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
    fold = folds_of(table.prompt, seed)
    heads = [find_head(head, features_BD, a, b) for features_BD in features_LBD]
    losses = np.zeros((len(features_LBD), len(PENALTIES)))
    if len(set(table.prompt)) > 1:
        for layer, left_out in track([(i, k) for i in range(len(losses)) for k in np.unique(fold)], "cross-validation"):
            rows = heads[layer].rows(features_LBD[layer][a], features_LBD[layer][b])
            losses[layer] += path_losses(rows, target, table, fold == left_out, flip_rate)
        losses /= table.weight.sum()
        layer, choice = map(int, np.unravel_index(losses.argmin(), losses.shape))
        found: float | None = float(losses[layer, choice])
    else:
        layer, choice, found = len(losses) // 2, PENALTIES.index(UNCHOSEN), None
    rows = heads[layer].rows(features_LBD[layer][a], features_LBD[layer][b])
    scale = spread_of(rows, table.weight)
    weight, rate = fit_linear(rows / scale, target, table.weight, penalty=PENALTIES[choice], flip_rate=flip_rate)
    return LinearFit(layer, PENALTIES[choice], found, rate, heads[layer], weight / scale)


def folds_of(prompts: Sequence[tuple[int, ...]], seed: int) -> Indices:
    """The fold of every vote; all votes of a prompt are in one."""
    distinct = sorted(set(prompts))
    random.Random(seed).shuffle(distinct)
    number_of = {prompt: i % FOLDS for i, prompt in enumerate(distinct)}
    return np.array([number_of[prompt] for prompt in prompts], dtype=np.intp)


def path_losses(
    rows: Floats, target: Floats, table: VoteTable, test: npt.NDArray[np.bool_], flip_rate: float | None
) -> Floats:
    """Summed loss on the votes of `test` of a fit to all others, for every penalty, from the strongest down."""
    scale = spread_of(rows[~test], table.weight[~test])
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


def spread_of(rows: Floats, weight: Floats) -> Floats:
    """Root mean square of every column over the votes, 1 where all are 0."""
    spread = np.sqrt(weight @ rows**2 / weight.sum())
    return np.where(spread > 0, spread, 1.0)
