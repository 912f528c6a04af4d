"""Statements about the objective, Bradley–Terry and DPO."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax

from . import worlds
from .optima import borda, ipo_scores, kl, most_likely, regret, tilt, value
from .statement import BETAS, CORRECTED, FAILS, Chapter, Evidence, any_policy, apart, differences, some_world

STATEMENTS = Chapter()

OBJECTIVE = "The objective"


@STATEMENTS.states(
    OBJECTIVE,
    "The objective is a distance from π*",
    "E_π[s] − β·KL(π‖π_ref) = −β·KL(π‖π*) + β·log Z",
    CORRECTED,
    "Written without the factor −β, the maximisation turns into a minimisation.",
)
def _rewriting(rng: np.random.Generator) -> Evidence:
    w, s, beta = some_world(rng), rng.normal(size=(3, 4)), 0.5
    policy, best = any_policy(rng, s), tilt(w.reference, s, beta)
    log_z = np.log((w.reference * np.exp(s / beta)).sum(-1))
    left, right = value(policy, w.reference, s, beta), -beta * kl(policy, best) + beta * log_z
    return Evidence(apart((left, right)), apart((left, kl(policy, best) + beta * log_z)))


@STATEMENTS.states(OBJECTIVE, "The optimal policy", "argmax_π E_π[s] − β·KL(π‖π_ref) = π_ref·e^{s/β} / Z")
def _optimum(rng: np.random.Generator) -> Evidence:
    reference, s, beta = rng.dirichlet(np.ones(4)), rng.normal(size=4), 0.5
    climbed = minimize(lambda theta: -value(softmax(theta), reference, s, beta), np.zeros(4), tol=1e-14)
    return Evidence(apart((softmax(climbed.x), tilt(reference, s, beta))))


@STATEMENTS.states(
    OBJECTIVE,
    "Regret is β times a KL",
    "J(π*) − J(π) = β·KL(π‖π*)",
    remark="The yardstick of the simulations: no reward model is needed to say how good a policy is.",
)
def _regret(rng: np.random.Generator) -> Evidence:
    w, s, beta = some_world(rng), rng.normal(size=(3, 4)), 0.3
    policy, best = any_policy(rng, s), tilt(w.reference, s, beta)
    lost = value(best, w.reference, s, beta) - value(policy, w.reference, s, beta)
    return Evidence(apart((lost, regret(policy, best, beta))))


@STATEMENTS.states(
    OBJECTIVE,
    "Margins of π* are differences of scores",
    "β·log π*(a)/π_ref(a) − β·log π*(b)/π_ref(b) = s(a) − s(b)",
    remark="Z cancels, so a policy whose margins are these is optimal whatever constant the scores have.",
)
def _margins(rng: np.random.Generator) -> Evidence:
    w, s, beta = some_world(rng), rng.normal(size=(3, 4)), 0.7
    q = beta * np.log(tilt(w.reference, s, beta) / w.reference)
    shifted = tilt(w.reference, s + rng.normal(size=(3, 1)), beta)
    return Evidence(apart((differences(q), differences(s)), (shifted, tilt(w.reference, s, beta))))


DPO = "Bradley–Terry and DPO"


@STATEMENTS.states(
    DPO,
    "DPO finds what RLHF looks for",
    "if p = σ(s_a − s_b), then argmin E[−log σ(h)] is π_ref·e^{s/β} / Z",
    remark="On infinitely many votes, the likeliest scores are the true ones.",
)
def _dpo(rng: np.random.Generator) -> Evidence:
    s, reference = rng.normal(size=4), rng.dirichlet(np.ones(4))
    w = worlds.bradley_terry(s, reference=reference)
    found = most_likely(worlds.expected_wins(w)[0]).score
    return Evidence(apart(*((tilt(reference, found, b), tilt(reference, s, b)) for b in BETAS)))


@STATEMENTS.states(
    DPO,
    "DPO has no optimum when one response always wins",
    "p(a ≻ b) = 1 ⇒ π(a) → 1 for every β",
    FAILS,
    "The likelihood has no finite maximiser; β cannot hold the policy near the reference. IPO stops at σ(½/β).",
)
def _runaway(rng: np.random.Generator) -> Evidence:
    wins = worlds.expected_wins(worlds.world(worlds.order()))
    runaway = most_likely(wins[0])
    uniform, all_on_a = np.full(2, 0.5), np.array([1.0, 0.0])
    residual = max(apart((tilt(uniform, runaway.score, beta), all_on_a)) for beta in BETAS)
    stops = max(abs(tilt(uniform, ipo_scores(wins)[0], beta)[0] - expit(0.5 / beta)) for beta in BETAS)
    return Evidence(np.inf if runaway.finite else max(residual, stops), float(1 - expit(0.5)))


@STATEMENTS.states(
    DPO,
    "Bradley–Terry recovers the Borda score",
    "E_{y'~μ} σ(r(y) − r(y')) = E_{y'~μ} p(y ≻ y') for the likeliest r",
    remark="For any preferences, circular ones too; pairs drawn from μ × μ. It does not recover logit p: see the gap.",
)
def _borda_of_bt(rng: np.random.Generator) -> Evidence:
    w = some_world(rng)
    fitted = np.stack([most_likely(wins).score for wins in worlds.expected_wins(w)])
    shares = borda(expit(differences(fitted)), w.sampler)
    not_logits = apart((differences(fitted), logit(np.clip(w.preference, 1e-9, 1 - 1e-9))))
    return Evidence(apart((shares, borda(w.preference, w.sampler))), not_logits)


@STATEMENTS.states(
    DPO,
    "At the reference, DPO's loss is ln 2 and its slope ½ − p",
    "d/dh [−p·log σ(h) − (1−p)·log σ(−h)] at h = 0",
)
def _start(rng: np.random.Generator) -> Evidence:
    p, step = float(rng.uniform()), 1e-5

    def loss(h: float) -> float:
        return float(p * np.logaddexp(0, -h) + (1 - p) * np.logaddexp(0, h))

    slope = (loss(step) - loss(-step)) / (2 * step)
    return Evidence(max(abs(loss(0) - np.log(2)), abs(slope - (0.5 - p))))


@STATEMENTS.states(
    DPO,
    "Label smoothing is a map of the preference",
    "cDPO's slope vanishes at σ(h) = 1 − ε; rDPO's loss is that of p ← (p − ε)/(1 − 2ε), unbiased",
)
def _smoothing(rng: np.random.Generator) -> Evidence:
    rate, h = 0.2, float(rng.normal())
    wins = np.array([[0, 1 - rate], [rate, 0.0]])
    found = most_likely(wins).score
    win, lose = np.logaddexp(0, -h), np.logaddexp(0, h)
    robust = ((1 - rate) * win - rate * lose) / (1 - 2 * rate)
    mapped = (1 - rate) / (1 - 2 * rate)
    expected = (1 - rate) * robust + rate * ((1 - rate) * lose - rate * win) / (1 - 2 * rate)
    residuals = (expit(found[0] - found[1]) - (1 - rate), robust - (mapped * win + (1 - mapped) * lose), expected - win)
    return Evidence(float(np.abs(residuals).max()))
