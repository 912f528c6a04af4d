"""Statements about IPO."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from . import worlds
from .optima import borda, ipo_scores, most_likely, project, regret, tilt
from .statement import CORRECTED, NEEDED, Chapter, Evidence, apart, differences, ipo_policy, product, some_world
from .worlds import Floats, World

STATEMENTS = Chapter()

IPO = "IPO"


def _regression(w: World, target: Floats) -> Floats:
    """The policy that minimises E_{a,b~μ×μ} (h − target)², found by descent on its logits, β = 1."""
    weight = product(w.sampler, w.sampler)

    def loss(theta: Floats) -> float:
        q = log_softmax(theta.reshape(w.reference.shape), -1) - np.log(w.reference)
        return float((weight * (differences(q) - target) ** 2).sum())

    def slope(theta: Floats) -> Floats:
        q = log_softmax(theta.reshape(w.reference.shape), -1) - np.log(w.reference)
        pull = 2 * weight * (differences(q) - target)
        return np.asarray((pull.sum(-1) - pull.sum(-2)).ravel())

    found = minimize(loss, np.zeros(w.reference.size), jac=slope, options={"gtol": 1e-11})
    return np.asarray(softmax(found.x.reshape(w.reference.shape), -1))


@STATEMENTS.states(
    IPO,
    "The label 2 − c is unbiased",
    "I = 2 − c: E[I | a, b] = p(a ≻ b), and argmin E(h − I)² is π_ref·exp(E_μ p/β) / Z",
    CORRECTED,
    "c is 1 if a was preferred, else 2. Written with I = c − 1, whose mean is 1 − p, the reversed policy is learned.",
)
def _labels(rng: np.random.Generator) -> Evidence:
    w = some_world(rng)
    reversed_policy = tilt(w.reference, -borda(w.preference, w.sampler), 1.0)
    right, wrong = _regression(w, w.preference), _regression(w, 1 - w.preference)
    return Evidence(apart((right, ipo_policy(w)), (wrong, reversed_policy)), apart((wrong, ipo_policy(w))))


EQUIVALENCE = "argmin E(h − E_{y~μ}[p(a ≻ y) − p(b ≻ y)])² = argmin E(h − p(a ≻ b))²"


@STATEMENTS.states(
    IPO, "Two regressions are one", EQUIVALENCE, remark="a, b i.i.d. from μ, p antisymmetric, Supp μ = Supp π_ref."
)
def _equivalence(rng: np.random.Generator) -> Evidence:
    w = some_world(rng)
    return Evidence(apart((_regression(w, differences(borda(w.preference, w.sampler))), _regression(w, w.preference))))


def _two_regressions(w: World, v: Floats, weight: Floats) -> float:
    """How far the policies of the two problems are apart, β = 1."""
    difference = differences(borda(v, w.sampler))
    return apart(tuple(tilt(w.reference, project(target, weight), 1.0) for target in (difference, v)))


@STATEMENTS.states(
    IPO,
    "… which needs a and b i.i.d.",
    "a ~ μ, b ~ μ' ≠ μ: the two minimisers differ",
    NEEDED,
    "The residual is that of the same world with μ' = μ.",
)
def _not_iid(rng: np.random.Generator) -> Evidence:
    w, other = some_world(rng), rng.dirichlet(np.ones(4), size=3)
    return Evidence(
        _two_regressions(w, w.preference, product(w.sampler, w.sampler)),
        _two_regressions(w, w.preference, product(w.sampler, other)),
    )


@STATEMENTS.states(
    IPO,
    "… and an antisymmetric preference",
    "v(a, b) ≠ 1 − v(b, a): the two minimisers differ",
    NEEDED,
    "The residual is that of the antisymmetric part of the same v.",
)
def _not_antisymmetric(rng: np.random.Generator) -> Evidence:
    w = some_world(rng)
    v, weight = rng.uniform(size=w.preference.shape), product(w.sampler, w.sampler)
    antisymmetric = (v + 1 - np.swapaxes(v, -1, -2)) / 2
    return Evidence(_two_regressions(w, antisymmetric, weight), _two_regressions(w, v, weight))


@STATEMENTS.states(
    IPO,
    "… and μ wherever π_ref is",
    "Supp μ ≠ Supp π_ref: the minimiser of the regression is not unique",
    NEEDED,
    "Residual: two policies with the same loss. Gap: what the worse of them loses in the objective, in nats.",
)
def _supports(rng: np.random.Generator) -> Evidence:
    p, reference = worlds.arbitrary(rng, 1, 3).preference, np.full((1, 3), 1 / 3)
    w = worlds.world(p[0], reference=reference, sampler=[0.5, 0.5, 0.0])
    score = borda(w.preference, w.sampler)
    elsewhere = score + np.array([0.0, 0.0, 3.0])  # never drawn, so its score is free
    weight = product(w.sampler, w.sampler)
    losses = [(weight * (differences(s) - w.preference) ** 2).sum() for s in (score, elsewhere)]
    best = tilt(reference, score, 1.0)
    return Evidence(abs(losses[0] - losses[1]), float(regret(tilt(reference, elsewhere, 1.0), best, 1.0)[0]))


@STATEMENTS.states(
    IPO,
    "The symmetric form is exact",
    "(h − p)² + (−h − (1 − p))² = 2·(h − (p − ½))² + ½",
    remark="Each vote says something about (a, b) and about (b, a). So the target is p − ½, and is no approximation.",
)
def _symmetric(rng: np.random.Generator) -> Evidence:
    h, p = rng.normal(size=100), rng.uniform(size=100)
    return Evidence(apart(((h - p) ** 2 + (-h - (1 - p)) ** 2, 2 * (h - (p - 0.5)) ** 2 + 0.5)))


@STATEMENTS.states(
    IPO,
    "On all pairs of K responses",
    "π*(a) ∝ π_ref(a)·exp(Σ_{b≠a} (p_ab − ½) / (Kβ))",
    remark="With unequal counts it is least squares on the graph of votes.",
)
def _all_pairs(rng: np.random.Generator) -> Evidence:
    p, beta = worlds.arbitrary(rng, 1, 5).preference[0], 0.2
    uniform = np.full(5, 0.2)
    closed = tilt(uniform, (p - 0.5).sum(1) / 5, beta)
    return Evidence(apart((tilt(uniform, ipo_scores(p * (1 - np.eye(5))), beta), closed)))


@STATEMENTS.states(
    IPO,
    "The paper's loss is this one divided by β²",
    "(Δ − 1/(2β))² = (h − ½)²/β²,  h = β·Δ",
    remark="Same minimiser, other gradient: learning rates do not carry over.",
)
def _paper_form(rng: np.random.Generator) -> Evidence:
    delta, beta = rng.normal(size=100), 0.3
    return Evidence(apart(((delta - 1 / (2 * beta)) ** 2, (beta * delta - 0.5) ** 2 / beta**2)))


@STATEMENTS.states(
    IPO,
    "Flipped labels only rescale β",
    "flips at rate ε: IPO's optimum at β becomes that at β/(1 − 2ε)",
    remark="DPO's does not: the gap is its distance to the nearest of its own optima. "
    "At matched KL, flips show as variance.",
)
def _flips(rng: np.random.Generator) -> Evidence:
    rate, beta = 0.2, 0.2
    w = worlds.bradley_terry([0, 1, 8])
    noisy = worlds.world(rate + (1 - 2 * rate) * w.preference[0])
    wins = [worlds.expected_wins(world)[0] for world in (noisy, w)]
    ipo = [tilt(w.reference[0], ipo_scores(x), b) for x, b in zip(wins, (beta, beta / (1 - 2 * rate)), strict=True)]
    dpo, clean = (most_likely(x).score for x in wins)
    rescaled = (tilt(w.reference[0], clean, b) for b in np.geomspace(0.3, 30, 400))
    nearest = min(apart((tilt(w.reference[0], dpo, 1.0), policy)) for policy in rescaled)
    return Evidence(apart((ipo[0], ipo[1])), nearest)


@STATEMENTS.states(IPO, "The size of the target is β", "argmin (h − c·(t − ½))² at β = argmin (h − (t − ½))² at β/c")
def _target_size(rng: np.random.Generator) -> Evidence:
    w, c, beta = some_world(rng), 2.5, 0.4
    weight, target = product(w.sampler, w.sampler), w.preference - 0.5
    scaled = tilt(w.reference, project(c * target, weight), beta)
    return Evidence(apart((scaled, tilt(w.reference, project(target, weight), beta / c))))


@STATEMENTS.states(
    IPO,
    "The third bandit, as printed, leaves c alone",
    "votes {ab, ba}: π(c) = ⅓ for every method; {ab, ba, ac}: IPO softmax([⅙, ⅙, −⅓]/β), DPO π(c) = 0",
    CORRECTED,
    "The text of the paper fits the second set. It also cites its equation 13 for the loss, and means 17.",
)
def _third_bandit(rng: np.random.Generator) -> Evidence:
    uniform, beta = np.full(3, 1 / 3), 0.5
    printed = worlds.wins_of([(0, 1, 1, 1), (1, 0, 1, 1)], 3)
    meant = printed + worlds.wins_of([(0, 2, 1, 1)], 3)
    ipo = [tilt(uniform, ipo_scores(wins), beta) for wins in (printed, meant)]
    dpo = [tilt(uniform, most_likely(wins).score, beta) for wins in (printed, meant)]
    wanted = softmax(np.array([1 / 6, 1 / 6, -1 / 3]) / beta)
    right = apart((ipo[0], uniform), (dpo[0], uniform), (ipo[1], wanted), (dpo[1], np.array([0.5, 0.5, 0.0])))
    return Evidence(right, apart((ipo[0], ipo[1])))
