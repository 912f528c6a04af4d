"""Exact optima: what each method's loss is minimised by, when the policy is a free table of probabilities.

Every method is two steps here. Its loss turns preferences into scores, one per response and known up to a constant;
the objective E_π[s] − β·KL(π ‖ π_ref) turns scores into a policy (`tilt`). The methods differ in the first step only:

    RLHF, DPO       scores that make the votes likeliest under Pr(a ≻ b) = σ(s_a − s_b)      `most_likely`
    IPO             scores whose differences are closest to p(a ≻ b) − ½                     `project`
    amortized IPO   the same, with a fitted preference in the place of the vote              `amortized_ipo`

Votes enter as wins `[..., K, K]`: the weight with which a was preferred to b (`lab.worlds`). Policies and scores are
`[..., K]`; scores and KL in nats, β without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, rel_entr, xlogy

from .worlds import Floats

# --- the objective ----------------------------------------------------------------------------------------------------


def tilt(reference: Floats, score: Floats, beta: float) -> Floats:
    """The maximiser of E_π[s] − β·KL(π ‖ π_ref): π* = π_ref·e^{s/β}/Z.

    A score of −∞ gives probability 0. Source: Rafailov et al., arXiv 2305.18290, eq. 4.
    """
    weights = reference * np.exp((score - score.max(-1, keepdims=True)) / beta)
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def kl(policy: Floats, other: Floats) -> Floats:
    """KL(policy ‖ other) = Σ_y π(y)·log(π(y)/π'(y)) in nats; +∞ where the other gives no probability to what π does."""
    return np.asarray(rel_entr(policy, other).sum(-1))


def value(policy: Floats, reference: Floats, score: Floats, beta: float) -> Floats:
    """The objective J(π) = E_π[s] − β·KL(π ‖ π_ref)."""
    return np.asarray((policy * score).sum(-1) - beta * kl(policy, reference))


def regret(policy: Floats, optimum: Floats, beta: float) -> Floats:
    """J(π*) − J(π) = β·KL(π ‖ π*), exactly, whatever the score that π* is optimal for."""
    return beta * kl(policy, optimum)


def borda(preference: Floats, sampler: Floats) -> Floats:
    """The Borda score E_{y'~μ} p(y ≻ y'): how often a response beats one drawn from μ."""
    return np.asarray((preference * sampler[..., None, :]).sum(-1))


# --- IPO: least squares -----------------------------------------------------------------------------------------------


def project(target: Floats, weight: Floats) -> Floats:
    """Scores whose differences are closest to `target`: argmin_s Σ_ab weight_ab·(s_a − s_b − target_ab)².

    Of the minimisers this is the one of least norm: scores sum to 0 within each set of responses that pairs connect,
    which is where gradient descent on logits, started at the reference, arrives too.
    """
    pull = weight * target
    pairs = weight + np.swapaxes(weight, -1, -2)
    laplacian = pairs.sum(-1)[..., None] * np.eye(weight.shape[-1]) - pairs
    inverse = np.linalg.pinv(laplacian, rcond=1e-12, hermitian=True)
    return np.asarray((inverse @ (pull.sum(-1) - pull.sum(-2))[..., None])[..., 0])


def ipo_scores(wins: Floats) -> Floats:
    """Scores of the IPO optimum: argmin_s Σ wins_ab·(s_a − s_b − ½)², the loss (h − ½)² of every vote, h = s_a − s_b.

    A soft vote or a tie counts as a win for each side, so this is Σ n_ab·(s_a − s_b − (p_ab − ½))² + constant. On all
    pairs drawn from μ × μ it is the Borda score, up to a constant. Source: Azar et al., arXiv 2310.12036, eq. 17.
    """
    return project(np.full_like(wins, 0.5), wins)


# --- DPO and RLHF: the Bradley–Terry likelihood -----------------------------------------------------------------------


@dataclass(frozen=True)
class Likeliest:
    """Bradley–Terry scores that make votes likeliest, `[K]`.

    `finite` says whether there are such scores. If not, some responses win against others without ever losing, the
    likelihood rises for ever as their scores part, and `score` is the limit: −∞ for those that are left behind. It
    is NaN if votes alone do not say which of several undefeated groups comes first.
    """

    score: Floats
    finite: bool


def most_likely(wins: Floats) -> Likeliest:
    """Maximise Σ wins_ab·log σ(s_a − s_b), the likelihood that reward models and DPO share.

    A finite maximiser exists if and only if, within each set of responses that votes connect, every response beats
    every other one along some chain of wins (Ford 1957). Scores sum to 0 within each such set. `wins` is `[K, K]`.
    """
    beats = wins > 0
    sets, of_set = connected_components(beats, connection="weak")
    _, of_group = connected_components(beats, connection="strong")
    score = np.zeros(len(wins))
    finite, undecided = True, False
    for part in range(sets):
        members = np.flatnonzero(of_set == part)
        groups = np.unique(of_group[members])
        # a group is undefeated if nobody outside of it ever beats one of it
        top = [g for g in groups if not beats[np.ix_(of_group != g, of_group == g)].any()]
        if len(groups) == 1:
            score[members] = _newton(wins[np.ix_(members, members)])
            continue
        finite, undecided = False, undecided or len(top) > 1
        leaders = np.flatnonzero(of_group == top[0])
        score[members] = -np.inf
        score[leaders] = _newton(wins[np.ix_(leaders, leaders)])
    if not finite:
        # what nobody voted on keeps its score while the leaders of a divided set go to +∞
        divided = np.isin(of_set, of_set[np.isneginf(score)])
        score = np.where(divided, score, -np.inf)
        undecided = undecided or len(np.unique(of_set[divided])) > 1
    return Likeliest(np.full(len(wins), np.nan) if undecided else score, finite)


def _newton(wins: Floats) -> Floats:
    K = len(wins)
    if K == 1:
        return np.zeros(1)

    def loss(s: Floats) -> float:
        return float((wins * np.logaddexp(0, s[None, :] - s[:, None])).sum() + s.sum() ** 2 / 2)

    def slope(s: Floats) -> Floats:
        missed = wins * expit(s[None, :] - s[:, None])
        return np.asarray(missed.sum(0) - missed.sum(1) + s.sum())

    def curvature(s: Floats) -> Floats:
        both = expit(s[:, None] - s[None, :])
        pairs = (wins + wins.T) * both * both.T
        return np.asarray(np.diag(pairs.sum(1)) - pairs + np.ones((K, K)))

    start = project(np.full_like(wins, 0.5), wins)
    found = minimize(loss, start, jac=slope, hess=curvature, method="trust-exact", options={"gtol": 1e-12})
    return np.asarray(found.x - found.x.mean())


# --- amortized IPO ----------------------------------------------------------------------------------------------------


def amortized_ipo_scores(logit: Floats, weight: Floats) -> Floats:
    """Scores of the amortized IPO optimum: argmin_s Σ weight_ab·(s_a − s_b − (σ(logit_ab) − ½))².

    `logit` is that of a fitted preference, antisymmetric; `weight` says how often each pair is used, voted on or not.
    """
    return project(expit(logit) - 0.5, weight)


def winner_loser_scores(wins: Floats, target: Floats) -> Floats:
    """Scores of the literal form, argmin_s Σ wins_ab·(s_a − s_b − target_ab)²: a target without its −½.

    With target = the true preference of two responses it gives h = 2p − 1: IPO's direction, at β/2.
    """
    return project(target, wins)


def dragged_target(p: float, gamma: float, *, margin: float = 0.0) -> float:
    """The preference t that minimises (margin − (t − ½))² − γ·(p·log t + (1 − p)·log(1 − t)).

    What the joint loss makes of the true preference p while the policy's margin is still where it started, when no
    stop-gradient keeps the policy from pulling its own target.
    """

    def loss(logit: Floats) -> float:
        t = float(expit(logit[0]))
        return (margin - (t - 0.5)) ** 2 - gamma * float(xlogy(p, t) + xlogy(1 - p, 1 - t))

    return float(expit(minimize(loss, np.zeros(1), tol=1e-14).x[0]))
