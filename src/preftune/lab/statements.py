"""The theory as statements that run: each computes both sides of its equation, in random worlds.

A statement is judged by its `residual`, which must vanish. Where a form in circulation is wrong, or a hypothesis is
needed, `gap` is how far the other form is from the truth, and must not vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax

from . import worlds
from .optima import (
    amortized_ipo_scores,
    borda,
    dragged_target,
    ipo_scores,
    kl,
    most_likely,
    project,
    regret,
    tilt,
    value,
    winner_loser_scores,
)
from .preference import fit_preference, pair_features, pairs, score_features
from .worlds import Floats, World

TOLERANCE = 1e-6  # what a residual may be: optimisers stop, floating point rounds
CLEAR = 1e-2  # what a gap must be
BETAS = (0.1, 0.5, 1.0)

HOLDS = "holds"
CORRECTED = "wrong as written"  # the corrected form holds
NEEDED = "needs its hypothesis"
FAILS = "the method fails"  # it does not do what it is for; the residual is that of what it does instead


class Evidence(NamedTuple):
    """How far the right form is from an equality, and how far the wrong one is; None where there is no wrong one."""

    residual: float
    gap: float | None = None


@dataclass(frozen=True)
class Statement:
    """A claim in words and symbols, what became of it, and the function that computes its evidence."""

    name: str
    group: str
    claim: str
    verdict: str
    remark: str
    check: Callable[[np.random.Generator], Evidence]


@dataclass(frozen=True)
class Checked:
    """A statement with its evidence; `passed` if the residual vanished and the gap did not."""

    statement: Statement
    evidence: Evidence

    @property
    def passed(self) -> bool:
        gap = self.evidence.gap
        return self.evidence.residual < TOLERANCE and (gap is None or gap > CLEAR)


STATEMENTS: list[Statement] = []


def check_all(seed: int = 0) -> list[Checked]:
    """Every statement with its evidence, in the order of the theory."""
    return [Checked(s, s.check(np.random.default_rng(seed))) for s in STATEMENTS]


Check = Callable[[np.random.Generator], Evidence]


def states(group: str, name: str, claim: str, verdict: str = HOLDS, remark: str = "") -> Callable[[Check], Check]:
    """Enter the function below into `STATEMENTS`."""

    def enter(check: Check) -> Check:
        STATEMENTS.append(Statement(name, group, claim, verdict, remark, check))
        return check

    return enter


def _apart(*equations: tuple[Floats, ...]) -> float:
    return float(max(np.abs(left - right).max() for left, right in equations))


def _some(rng: np.random.Generator) -> World:
    return worlds.arbitrary(rng, prompts=3, responses=4)


def _product(first: Floats, second: Floats) -> Floats:
    """How likely each ordered pair is when its responses are drawn apart, `[X, K, K]`."""
    return first[:, :, None] * second[:, None, :]


def _any_policy(rng: np.random.Generator, like: Floats) -> Floats:
    return rng.dirichlet(np.ones(like.shape[1]), size=len(like))


# --- the objective ----------------------------------------------------------------------------------------------------

OBJECTIVE = "The objective"


@states(
    OBJECTIVE,
    "The objective is a distance from π*",
    "E_π[s] − β·KL(π‖π_ref) = −β·KL(π‖π*) + β·log Z",
    CORRECTED,
    "Written without the factor −β, the maximisation turns into a minimisation.",
)
def _rewriting(rng: np.random.Generator) -> Evidence:
    w, s, beta = _some(rng), rng.normal(size=(3, 4)), 0.5
    policy, best = _any_policy(rng, s), tilt(w.reference, s, beta)
    log_z = np.log((w.reference * np.exp(s / beta)).sum(-1))
    left, right = value(policy, w.reference, s, beta), -beta * kl(policy, best) + beta * log_z
    return Evidence(_apart((left, right)), _apart((left, kl(policy, best) + beta * log_z)))


@states(OBJECTIVE, "The optimal policy", "argmax_π E_π[s] − β·KL(π‖π_ref) = π_ref·e^{s/β} / Z")
def _optimum(rng: np.random.Generator) -> Evidence:
    reference, s, beta = rng.dirichlet(np.ones(4)), rng.normal(size=4), 0.5
    climbed = minimize(lambda theta: -value(softmax(theta), reference, s, beta), np.zeros(4), tol=1e-14)
    return Evidence(_apart((softmax(climbed.x), tilt(reference, s, beta))))


@states(
    OBJECTIVE,
    "Regret is β times a KL",
    "J(π*) − J(π) = β·KL(π‖π*)",
    remark="The yardstick of the simulations: no reward model is needed to say how good a policy is.",
)
def _regret(rng: np.random.Generator) -> Evidence:
    w, s, beta = _some(rng), rng.normal(size=(3, 4)), 0.3
    policy, best = _any_policy(rng, s), tilt(w.reference, s, beta)
    lost = value(best, w.reference, s, beta) - value(policy, w.reference, s, beta)
    return Evidence(_apart((lost, regret(policy, best, beta))))


@states(
    OBJECTIVE,
    "Margins of π* are differences of scores",
    "β·log π*(a)/π_ref(a) − β·log π*(b)/π_ref(b) = s(a) − s(b)",
    remark="Z cancels, so a policy whose margins are these is optimal whatever constant the scores have.",
)
def _margins(rng: np.random.Generator) -> Evidence:
    w, s, beta = _some(rng), rng.normal(size=(3, 4)), 0.7
    q = beta * np.log(tilt(w.reference, s, beta) / w.reference)
    shifted = tilt(w.reference, s + rng.normal(size=(3, 1)), beta)
    return Evidence(_apart((_differences(q), _differences(s)), (shifted, tilt(w.reference, s, beta))))


def _differences(s: Floats) -> Floats:
    return s[..., :, None] - s[..., None, :]


# --- DPO --------------------------------------------------------------------------------------------------------------

DPO = "Bradley–Terry and DPO"


@states(
    DPO,
    "DPO finds what RLHF looks for",
    "if p = σ(s_a − s_b), then argmin E[−log σ(h)] is π_ref·e^{s/β} / Z",
    remark="On infinitely many votes, the likeliest scores are the true ones.",
)
def _dpo(rng: np.random.Generator) -> Evidence:
    s, reference = rng.normal(size=4), rng.dirichlet(np.ones(4))
    w = worlds.bradley_terry(s, reference=reference)
    found = most_likely(worlds.expected_wins(w)[0]).score
    return Evidence(_apart(*((tilt(reference, found, b), tilt(reference, s, b)) for b in BETAS)))


@states(
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
    residual = max(_apart((tilt(uniform, runaway.score, beta), all_on_a)) for beta in BETAS)
    stops = max(abs(tilt(uniform, ipo_scores(wins)[0], beta)[0] - expit(0.5 / beta)) for beta in BETAS)
    return Evidence(np.inf if runaway.finite else max(residual, stops), float(1 - expit(0.5)))


@states(
    DPO,
    "Bradley–Terry recovers the Borda score",
    "E_{y'~μ} σ(r(y) − r(y')) = E_{y'~μ} p(y ≻ y') for the likeliest r",
    remark="For any preferences, circular ones too; pairs drawn from μ × μ. It does not recover logit p: see the gap.",
)
def _borda_of_bt(rng: np.random.Generator) -> Evidence:
    w = _some(rng)
    fitted = np.stack([most_likely(wins).score for wins in worlds.expected_wins(w)])
    shares = borda(expit(_differences(fitted)), w.sampler)
    not_logits = _apart((_differences(fitted), logit(np.clip(w.preference, 1e-9, 1 - 1e-9))))
    return Evidence(_apart((shares, borda(w.preference, w.sampler))), not_logits)


@states(
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


@states(
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


# --- IPO --------------------------------------------------------------------------------------------------------------

IPO = "IPO"


def _regression(w: World, target: Floats) -> Floats:
    """The policy that minimises E_{a,b~μ×μ} (h − target)², found by descent on its logits, β = 1."""
    weight = _product(w.sampler, w.sampler)

    def loss(theta: Floats) -> float:
        q = log_softmax(theta.reshape(w.reference.shape), -1) - np.log(w.reference)
        return float((weight * (_differences(q) - target) ** 2).sum())

    def slope(theta: Floats) -> Floats:
        q = log_softmax(theta.reshape(w.reference.shape), -1) - np.log(w.reference)
        pull = 2 * weight * (_differences(q) - target)
        return np.asarray((pull.sum(-1) - pull.sum(-2)).ravel())

    found = minimize(loss, np.zeros(w.reference.size), jac=slope, options={"gtol": 1e-11})
    return np.asarray(softmax(found.x.reshape(w.reference.shape), -1))


def _ipo(w: World, beta: float = 1.0) -> Floats:
    return tilt(w.reference, borda(w.preference, w.sampler), beta)


@states(
    IPO,
    "The label 2 − c is unbiased",
    "I = 2 − c: E[I | a, b] = p(a ≻ b), and argmin E(h − I)² is π_ref·exp(E_μ p/β) / Z",
    CORRECTED,
    "c is 1 if a was preferred, else 2. Written with I = c − 1, whose mean is 1 − p, the reversed policy is learned.",
)
def _labels(rng: np.random.Generator) -> Evidence:
    w = _some(rng)
    reversed_policy = tilt(w.reference, -borda(w.preference, w.sampler), 1.0)
    right, wrong = _regression(w, w.preference), _regression(w, 1 - w.preference)
    return Evidence(_apart((right, _ipo(w)), (wrong, reversed_policy)), _apart((wrong, _ipo(w))))


EQUIVALENCE = "argmin E(h − E_{y~μ}[p(a ≻ y) − p(b ≻ y)])² = argmin E(h − p(a ≻ b))²"


@states(IPO, "Two regressions are one", EQUIVALENCE, remark="a, b i.i.d. from μ, p antisymmetric, Supp μ = Supp π_ref.")
def _equivalence(rng: np.random.Generator) -> Evidence:
    w = _some(rng)
    return Evidence(
        _apart((_regression(w, _differences(borda(w.preference, w.sampler))), _regression(w, w.preference)))
    )


def _two_regressions(w: World, v: Floats, weight: Floats) -> float:
    """How far the policies of the two problems are apart, β = 1."""
    difference = _differences(borda(v, w.sampler))
    return _apart(tuple(tilt(w.reference, project(target, weight), 1.0) for target in (difference, v)))


@states(
    IPO,
    "… which needs a and b i.i.d.",
    "a ~ μ, b ~ μ' ≠ μ: the two minimisers differ",
    NEEDED,
    "The residual is that of the same world with μ' = μ.",
)
def _not_iid(rng: np.random.Generator) -> Evidence:
    w, other = _some(rng), rng.dirichlet(np.ones(4), size=3)
    return Evidence(
        _two_regressions(w, w.preference, _product(w.sampler, w.sampler)),
        _two_regressions(w, w.preference, _product(w.sampler, other)),
    )


@states(
    IPO,
    "… and an antisymmetric preference",
    "v(a, b) ≠ 1 − v(b, a): the two minimisers differ",
    NEEDED,
    "The residual is that of the antisymmetric part of the same v.",
)
def _not_antisymmetric(rng: np.random.Generator) -> Evidence:
    w = _some(rng)
    v, weight = rng.uniform(size=w.preference.shape), _product(w.sampler, w.sampler)
    antisymmetric = (v + 1 - np.swapaxes(v, -1, -2)) / 2
    return Evidence(_two_regressions(w, antisymmetric, weight), _two_regressions(w, v, weight))


@states(
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
    weight = _product(w.sampler, w.sampler)
    losses = [(weight * (_differences(s) - w.preference) ** 2).sum() for s in (score, elsewhere)]
    best = tilt(reference, score, 1.0)
    return Evidence(abs(losses[0] - losses[1]), float(regret(tilt(reference, elsewhere, 1.0), best, 1.0)[0]))


@states(
    IPO,
    "The symmetric form is exact",
    "(h − p)² + (−h − (1 − p))² = 2·(h − (p − ½))² + ½",
    remark="Each vote says something about (a, b) and about (b, a). So the target is p − ½, and is no approximation.",
)
def _symmetric(rng: np.random.Generator) -> Evidence:
    h, p = rng.normal(size=100), rng.uniform(size=100)
    return Evidence(_apart(((h - p) ** 2 + (-h - (1 - p)) ** 2, 2 * (h - (p - 0.5)) ** 2 + 0.5)))


@states(
    IPO,
    "On all pairs of K responses",
    "π*(a) ∝ π_ref(a)·exp(Σ_{b≠a} (p_ab − ½) / (Kβ))",
    remark="With unequal counts it is least squares on the graph of votes.",
)
def _all_pairs(rng: np.random.Generator) -> Evidence:
    p, beta = worlds.arbitrary(rng, 1, 5).preference[0], 0.2
    uniform = np.full(5, 0.2)
    closed = tilt(uniform, (p - 0.5).sum(1) / 5, beta)
    return Evidence(_apart((tilt(uniform, ipo_scores(p * (1 - np.eye(5))), beta), closed)))


@states(
    IPO,
    "The paper's loss is this one divided by β²",
    "(Δ − 1/(2β))² = (h − ½)²/β²,  h = β·Δ",
    remark="Same minimiser, other gradient: learning rates do not carry over.",
)
def _paper_form(rng: np.random.Generator) -> Evidence:
    delta, beta = rng.normal(size=100), 0.3
    return Evidence(_apart(((delta - 1 / (2 * beta)) ** 2, (beta * delta - 0.5) ** 2 / beta**2)))


@states(
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
    nearest = min(_apart((tilt(w.reference[0], dpo, 1.0), policy)) for policy in rescaled)
    return Evidence(_apart((ipo[0], ipo[1])), nearest)


@states(IPO, "The size of the target is β", "argmin (h − c·(t − ½))² at β = argmin (h − (t − ½))² at β/c")
def _target_size(rng: np.random.Generator) -> Evidence:
    w, c, beta = _some(rng), 2.5, 0.4
    weight, target = _product(w.sampler, w.sampler), w.preference - 0.5
    scaled = tilt(w.reference, project(c * target, weight), beta)
    return Evidence(_apart((scaled, tilt(w.reference, project(target, weight), beta / c))))


@states(
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
    right = _apart((ipo[0], uniform), (dpo[0], uniform), (ipo[1], wanted), (dpo[1], np.array([0.5, 0.5, 0.0])))
    return Evidence(right, _apart((ipo[0], ipo[1])))


# --- amortized IPO ----------------------------------------------------------------------------------------------------

AMORTIZED = "Amortized IPO"


@states(
    AMORTIZED,
    "With the true preference as target, it is IPO",
    "argmin Σ_ab μ(a)·μ(b)·(h − (σ(logit p_ab) − ½))² = π_ref·exp(E_μ p/β) / Z",
    remark="No label enters, so pairs without a vote count too.",
)
def _exact_target(rng: np.random.Generator) -> Evidence:
    w, beta = _some(rng), 0.2
    weight = _product(w.sampler, w.sampler)
    return Evidence(_apart((tilt(w.reference, amortized_ipo_scores(logit(w.preference), weight), beta), _ipo(w, beta))))


@states(
    AMORTIZED,
    "A Bradley–Terry target on all pairs is enough",
    "v = σ(r_a − r_b), likeliest r, all pairs from μ × μ: π* exactly, even for circular preferences",
)
def _bt_target(rng: np.random.Generator) -> Evidence:
    w, beta = worlds.world(worlds.cycle(4, 0.9), reference=rng.dirichlet(np.ones(4))), 0.2
    logits = _differences(most_likely(worlds.expected_wins(w)[0]).score)
    weight = w.sampler[0][:, None] * w.sampler[0]
    return Evidence(_apart((tilt(w.reference[0], amortized_ipo_scores(logits, weight), beta), _ipo(w, beta)[0])))


@states(
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
    return Evidence(_apart((scores[0], exact)), _apart((scores[1], exact)))


@states(
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
    return Evidence(_apart((amortized, plain)), _apart((other, plain)))


@states(
    AMORTIZED,
    "An unconstrained v learns nothing",
    "v(winner, loser) free: v → ∞, target 1, and the policy is IPO's at β/2",
    FAILS,
    "So v must be antisymmetric by construction.",
)
def _unconstrained(rng: np.random.Generator) -> Evidence:
    w, beta = _some(rng), 0.3
    wins = worlds.expected_wins(w)
    literal = tilt(w.reference, winner_loser_scores(wins, np.ones_like(wins)), beta)
    return Evidence(_apart((literal, _ipo(w, beta / 2))), _apart((literal, _ipo(w, beta))))


@states(
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


@states(
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
    return Evidence(_apart((np.array(found), np.array(roots))), min(0.8 - t for t in found))


@states(
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
    margins = _differences(found[:3])
    return Evidence(_apart((towards, np.full(3, wanted)), (margins, np.zeros((3, 3)))), 0.9 - wanted)
