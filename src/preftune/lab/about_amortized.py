"""Statements about amortized IPO."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from . import worlds
from .optima import amortized_ipo_scores, dragged_target, most_likely, project, tilt, winner_loser_scores
from .preference import fit_preference, pair_features, pairs, score_features
from .statement import FAILS, NEEDED, Chapter, Evidence, apart, differences, ipo_policy, product, some_world
from .worlds import Floats

STATEMENTS = Chapter()

AMORTIZED = "Amortized IPO"


@STATEMENTS.states(
    AMORTIZED,
    "With the true preference as target, it is IPO",
    "argmin Σ_ab μ(a)·μ(b)·(h − (σ(logit p_ab) − ½))² = π_ref·exp(E_μ p/β) / Z",
    remark="No label enters, so pairs without a vote count too.",
)
def _exact_target(rng: np.random.Generator) -> Evidence:
    w, beta = some_world(rng), 0.2
    weight = product(w.sampler, w.sampler)
    return Evidence(
        apart((tilt(w.reference, amortized_ipo_scores(logit(w.preference), weight), beta), ipo_policy(w, beta)))
    )


@STATEMENTS.states(
    AMORTIZED,
    "A Bradley–Terry target on all pairs is enough",
    "v = σ(r_a − r_b), likeliest r, all pairs from μ × μ: π* exactly, even for circular preferences",
)
def _bt_target(rng: np.random.Generator) -> Evidence:
    w, beta = worlds.world(worlds.cycle(4, 0.9), reference=rng.dirichlet(np.ones(4))), 0.2
    logits = differences(most_likely(worlds.expected_wins(w)[0]).score)
    weight = w.sampler[0][:, None] * w.sampler[0]
    return Evidence(apart((tilt(w.reference[0], amortized_ipo_scores(logits, weight), beta), ipo_policy(w, beta)[0])))


@STATEMENTS.states(
    AMORTIZED,
    "… and a general head is needed when pairs fitted and used differ",
    "votes on some pairs, targets on others: a general v is exact, a Bradley–Terry v is not",
    NEEDED,
    "A general head is r_a − r_b + u_aᵀRu_b, R skew.",
)
def _general_head(rng: np.random.Generator) -> Evidence:
    p, (a, b) = worlds.cycle(3, 0.9), pairs(3)
    seen = np.array([10.0, 1.0, 1.0])  # the pairs voted on; the pairs used are all alike

    def learned(features: Floats, penalty: float) -> Floats:
        return features @ fit_preference(features, seen * p[a, b], seen * p[b, a], penalty=penalty)

    exact = project(p - 0.5, 1 - np.eye(3))
    scores = []
    for features, penalty in ((pair_features(3), 1e-10), (score_features(3), 0.0)):
        target = np.full((3, 3), 0.5)
        target[a, b] = expit(learned(features, penalty))
        target[b, a] = 1 - target[a, b]
        scores.append(project(target - 0.5, 1 - np.eye(3)))
    return Evidence(apart((scores[0], exact)), apart((scores[1], exact)))


@STATEMENTS.states(
    AMORTIZED,
    "It changes nothing on its own",
    "logit v in the policy's own features, unregularised, same pairs: the minimiser is plain IPO's",
    remark="The score equation Σ(1 − t_k)·x_k = 0 makes them equal; the gap is that of a v with other features. "
    "A gain must come from more pairs, other features, or a noise model.",
)
def _no_op(rng: np.random.Generator) -> Evidence:
    x = rng.normal(size=(60, 5))
    flipped = rng.uniform(size=60) < expit(-x @ rng.normal(size=5))
    x[flipped] *= -1  # every row is winner − loser
    theta = fit_preference(x, np.ones(60), np.zeros(60))
    both, targets = np.vstack([x, -x]), expit(np.concatenate([x @ theta, -x @ theta])) - 0.5
    hard = np.repeat([0.5, -0.5], 60)
    amortized, plain = (np.linalg.lstsq(both, t, rcond=None)[0] for t in (targets, hard))
    fewer = x[:, :2] @ fit_preference(x[:, :2], np.ones(60), np.zeros(60))
    other = np.linalg.lstsq(both, expit(np.concatenate([fewer, -fewer])) - 0.5, rcond=None)[0]
    return Evidence(apart((amortized, plain)), apart((other, plain)))


@STATEMENTS.states(
    AMORTIZED,
    "An unconstrained v learns nothing",
    "v(winner, loser) free: v → ∞, target 1, and the policy is IPO's at β/2",
    FAILS,
    "So v must be antisymmetric by construction.",
)
def _unconstrained(rng: np.random.Generator) -> Evidence:
    w, beta = some_world(rng), 0.3
    wins = worlds.expected_wins(w)
    literal = tilt(w.reference, winner_loser_scores(wins, np.ones_like(wins)), beta)
    return Evidence(apart((literal, ipo_policy(w, beta / 2))), apart((literal, ipo_policy(w, beta))))


@STATEMENTS.states(
    AMORTIZED,
    "The target needs its −½",
    "winner–loser pairs, target t = p: h = 2p − 1, which is IPO's at β/2",
    FAILS,
    "Two responses. The symmetric form (h − (t − ½))² has the right size, and no need of the label.",
)
def _winner_loser(rng: np.random.Generator) -> Evidence:
    p = float(rng.uniform(0.6, 0.9))
    wins = np.array([[0, p], [1 - p, 0]])
    found = winner_loser_scores(wins, np.array([[0.5, p], [1 - p, 0.5]]))
    h, right = found[0] - found[1], p - 0.5
    return Evidence(abs(h - (2 * p - 1)), abs(h - right))


@STATEMENTS.states(
    AMORTIZED,
    "The target must not be dragged",
    "no stop-gradient, h still 0: p = .8 is learned as .713, .550, .506 at γ = 1, .1, .01",
    FAILS,
    "Once h is free it meets t and t returns to p. Until then, and wherever the policy cannot follow, t is too small.",
)
def _dragged(rng: np.random.Generator) -> Evidence:
    found = [dragged_target(0.8, gamma) for gamma in (1.0, 0.1, 0.01)]
    # where the slope of (t − ½)² − γ·(.8·log t + .2·log(1 − t)) is zero
    roots = [
        min((r.real for r in np.roots([-2, 3, g - 1, -0.8 * g]) if abs(r.imag) < 1e-9), key=lambda r: abs(r - t))
        for g, t in zip((1.0, 0.1, 0.01), found, strict=True)
    ]
    return Evidence(apart((np.array(found), np.array(roots))), min(0.8 - t for t in found))


@STATEMENTS.states(
    AMORTIZED,
    "Joint training irons out circles",
    "3-cycle, p = .9, joint loss: the policy stays at π_ref and v falls from .9 to the dragged target",
    FAILS,
    "Margins are additive, so they cannot follow the circular part of v, and pull it towards ½ for ever.",
)
def _circles(rng: np.random.Generator) -> Evidence:
    p, gamma, (a, b) = worlds.cycle(3, 0.9), 0.1, pairs(3)

    def joint(x: Floats) -> tuple[float, Floats]:
        s, z = x[:3], x[3:]
        t, off = expit(z), s[a] - s[b] - (expit(z) - 0.5)
        likelihood = p[a, b] * np.logaddexp(0, -z) + p[b, a] * np.logaddexp(0, z)
        by_score = np.bincount(a, 2 * off, 3) - np.bincount(b, 2 * off, 3)
        return float((off**2 + gamma * likelihood).sum()), np.concatenate(
            [by_score, -2 * off * t * (1 - t) + gamma * (t - p[a, b])]
        )

    start = np.concatenate([rng.normal(size=3), np.zeros(3)])
    found = minimize(joint, start, jac=True, options={"gtol": 1e-10}).x
    target, wanted = expit(found[3:]), dragged_target(0.9, gamma)
    towards = np.where(p[a, b] > 0.5, target, 1 - target)
    margins = differences(found[:3])
    return Evidence(apart((towards, np.full(3, wanted)), (margins, np.zeros((3, 3)))), 0.9 - wanted)
