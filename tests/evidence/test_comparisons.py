"""Arms at the same KL: where, with which error, in which words; never where they cannot be compared."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from preftune.evidence.comparisons import Comparison, best_run, compare, corrected, place
from preftune.evidence.frontiers import PerPrompt, Point, fit_frontier, with_units
from preftune.evidence.stats import Estimate

TRUTH = {"dpo": (0.5, 0.06), "ipo": (0.42, 0.05)}
p_values = st.lists(st.floats(1e-9, 1), min_size=1, max_size=8)


def point(arm: str, kl: float, gain: float, *, beta: float = 0.1, seed: int = 0, se: float | None = 0.1) -> Point:
    return Point(f"{arm}-{beta}-{seed}", arm, beta, seed, 8, kl, se, gain, se)


def ends(arm: str, kls: Sequence[float], alpha: float = 0.5, gamma: float = 0.0) -> list[Point]:
    """Run ends on a frontier, each with a β of its own."""
    gains = [math.sqrt(kl) * (alpha - gamma * math.sqrt(kl)) for kl in kls]
    both = enumerate(zip(kls, gains, strict=True))
    return with_units(point(arm, kl, gain, beta=0.1 / (i + 1)) for i, (kl, gain) in both)


def simulated(seed: int, *, prompts: int = 40, run_sd: float = 0.05) -> tuple[list[Point], PerPrompt]:
    """Run ends of two arms of three seeds and two β, with effects of runs and of prompts."""
    rng = np.random.default_rng(seed)
    points, kls, gains = [], [], []
    for arm, (alpha, gamma) in TRUTH.items():
        taste = rng.normal(0, 0.15, prompts)
        for beta, kl, number in itertools.product((0.1, 0.5), (2.5,), range(3)):
            d = math.sqrt(kl if beta == 0.1 else kl / 4)
            kls.append(d**2 * rng.gamma(4, 0.25, prompts))
            gains.append(d * (alpha + rng.normal(0, run_sd) - gamma * d) + d * taste + rng.normal(0, 0.3, prompts))
            points.append(point(arm, kls[-1].mean(), gains[-1].mean(), beta=beta, seed=number))
    return with_units(points), PerPrompt(np.array(kls), np.array(gains))


def compared(points: list[Point], table: PerPrompt | None, arms: tuple[str, str] = ("dpo", "ipo")) -> Comparison:
    frontiers = [fit_frontier([p for p in points if p.arm == arm]) for arm in arms]
    (pair,) = corrected(compare([f for f in frontiers if f], points, table))
    return pair


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "d"),
    [
        ([1, 4, 9, 16], [1, 4, 9, 16], 2.5),  # between the second-smallest and the second-largest of both
        ([1, 4, 9, 16], [4, 9, 16, 25], 3.0),
        ([1, 1.1, 4], [1, 1.1, 9], math.sqrt(1.1)),  # one lucky run is no reach
        ([1, 100], [1, 100], 0.9),  # of two runs, the larger is no reach: the origin and the nearest hold it
        ([1, 4, 4], [64, 81, 100], None),
        ([1, 1, 1], [1.5, 1.5, 1.5], (1.0 + math.sqrt(1.5) / 1.25) / 2),  # the origin stands below d/1.25
        ([1, 1, 1], [1.6, 1.6, 1.6], None),
        ([2.25], [2.25], 1.5),
    ],
)
def test_arms_are_compared_where_two_runs_of_each_bracket(a: list[float], b: list[float], d: float | None) -> None:
    found = place(ends("dpo", a), ends("ipo", b))
    assert found == (None if d is None else pytest.approx(d))


@given(kls=st.lists(st.floats(0.05, 20), min_size=3, max_size=8), far=st.floats(1, 50))
def test_one_run_that_goes_anywhere_moves_the_place_no_farther_than_its_neighbours(
    kls: list[float], far: float
) -> None:
    other = ends("ipo", [0.01, 0.01, 100, 100])
    d = sorted(map(math.sqrt, kls))
    before, after = place(ends("dpo", kls), other), place(ends("dpo", [*sorted(kls)[:-1], max(kls) * far]), other)
    assert before == after  # the largest decides nothing
    assert before is not None and d[0] / 1.25 <= before <= d[-2]


@pytest.mark.parametrize(
    ("dpo", "ipo", "beta"),
    [
        ([2.0, 2.0, 2.0], [0.5, 0.5, 0.5], 0.1 * 0.5 / 1.6),  # log KL against log β at −1, into dpo's 1.28 to 2 nats
        ([200.0, 200.0, 200.0], [0.5, 0.5, 0.5], 0.025),  # at most a factor of four
    ],
)
def test_arms_that_never_were_at_the_same_distance_name_the_run_that_would_change_that(
    dpo: list[float], ipo: list[float], beta: float
) -> None:
    far, near = ends("dpo", dpo), [replace(p, beta=0.1) for p in ends("ipo", ipo)]
    pair = compared([*far, *near], None)
    assert pair.difference is None and pair.kl is None and not pair.distinct and pair.verdict == "not comparable"
    assert "dpo's run ends allow 1.3 to 2 nats" in pair.why or "dpo's run ends allow 1.3e+02 to 2e+02" in pair.why
    told = float(pair.next.split("β = ")[1].split()[0])
    assert pair.next.startswith("two runs or more of ipo at β") and told == pytest.approx(beta, rel=0.01)
    assert pair.next.endswith("would bring them closer" if beta == 0.025 else "would change that")


def test_the_proposed_runs_make_arms_comparable() -> None:
    """Where log KL falls by .8 with log β, and luck moves every run."""
    rng, made = np.random.default_rng(12), 0

    def run(arm: str, kl: float, beta: float, seed: int) -> Point:
        return point(arm, kl * math.exp(rng.normal(0, 0.2)), 0.5, beta=beta, seed=seed)

    for _ in range(200):
        far = [run("dpo", kl, 1 / kl, seed) for kl in (1.5, 3.0) for seed in range(3)]
        near = [run("ipo", 0.5, 0.1, seed) for seed in range(3)]
        if place(far, near) is None:
            told = float(compared(with_units([*far, *near]), None).next.split("β = ")[1].split()[0])
            near += [run("ipo", 0.5 * (told / 0.1) ** -0.8, told, seed) for seed in range(3)]
        made += place(far, near) is not None
    assert made > 180


def test_too_few_runs_are_not_judged_whatever_they_gained() -> None:
    """Two runs an arm, two coefficients: nothing is left over that would tell a method from a run."""
    points, table = simulated(0)
    rows = [i for i, p in enumerate(points) if p.seed == 0]
    pair = compared([replace(points[i], gain=5.0 * (points[i].arm == "dpo")) for i in rows], table.rows(rows))
    assert pair.verdict == "not comparable" and "too few finished runs" in pair.why and "more seeds" in pair.next


def test_one_run_is_not_judged_by_what_the_runs_of_another_arm_say() -> None:
    points, table = simulated(1)
    rows = [i for i, p in enumerate(points) if p.arm == "dpo" or (p.beta, p.seed) == (0.1, 0)]
    pair = compared([points[i] for i in rows], table.rows(rows))
    assert pair.verdict == "not comparable" and "too few finished runs" in pair.why


# --- with which error -------------------------------------------------------------------------------------------------


def test_an_arm_equals_itself() -> None:
    points, table = simulated(2)
    mine = [p for p in points if p.arm == "dpo"]
    twins = [*mine, *with_units(replace(p, arm="twin") for p in mine)]
    kl, gain = table.kl[: len(mine)], table.gain[: len(mine)]
    pair = compared(twins, PerPrompt(np.vstack([kl, kl]), np.vstack([gain, gain])), ("dpo", "twin"))
    assert pair.difference and pair.difference.value == 0 and pair.p_value == 1 and pair.verdict == "no difference"
    low, high = pair.interval()
    assert low <= 0 <= high


def test_a_comparison_follows_scale_and_changes_sign_with_its_sides() -> None:
    points, table = simulated(3)
    plain = compared(points, table)
    swapped = compared(points, table, ("ipo", "dpo"))
    tenfold = compared([replace(p, gain=10 * p.gain) for p in points], PerPrompt(table.kl, 10 * table.gain))
    assert plain.difference and swapped.difference and tenfold.difference and plain.detectable
    assert swapped.difference.value == pytest.approx(-plain.difference.value)
    assert swapped.difference.se == pytest.approx(plain.difference.se)
    assert tenfold.difference.value == pytest.approx(10 * plain.difference.value)
    assert tenfold.difference.df == pytest.approx(plain.difference.df)
    assert tenfold.p_value == pytest.approx(plain.p_value)
    assert tenfold.detectable == pytest.approx(10 * plain.detectable)


def test_a_comparison_does_not_care_for_the_order_of_runs_or_prompts() -> None:
    points, table = simulated(4)
    rng = np.random.default_rng(5)
    rows, prompts = rng.permutation(len(points)), rng.permutation(table.kl.shape[1])
    plain = compared(points, table)
    moved = compared([points[i] for i in rows], PerPrompt(table.kl[rows][:, prompts], table.gain[rows][:, prompts]))
    assert plain.difference and moved.difference and moved.kl == pytest.approx(plain.kl)
    assert (moved.difference.value, moved.difference.se) == pytest.approx((plain.difference.value, plain.difference.se))


def test_prompts_that_both_arms_find_easy_do_not_widen_the_interval() -> None:
    points, table = simulated(6)
    easy = np.random.default_rng(6).normal(0, 5, table.gain.shape[1])
    distances = np.sqrt([p.kl for p in points])[:, None]
    shifted = PerPrompt(table.kl, table.gain + distances * (easy - easy.mean()))
    plain, shared = compared(points, table).difference, compared(points, shifted).difference
    assert plain and shared and shared.se == pytest.approx(plain.se, rel=0.5)
    own = table.gain + (np.array([p.arm == "dpo" for p in points])[:, None] * distances) * (easy - easy.mean())
    apart = compared(points, PerPrompt(table.kl, own)).difference
    assert apart and apart.se and plain.se and apart.se > 5 * plain.se


def test_runs_that_differ_more_widen_the_interval() -> None:
    calm, wild = compared(*simulated(9, run_sd=0.0)).difference, compared(*simulated(9, run_sd=0.4)).difference
    assert calm and wild and wild.half_width() > 2 * calm.half_width()


def test_without_means_of_each_prompt_the_interval_is_wider() -> None:
    points, table = simulated(8, prompts=60)
    means = [replace(p, gain_se=float(g.std(ddof=1)) / math.sqrt(60)) for p, g in zip(points, table.gain, strict=True)]
    paired, summed = compared(means, table).difference, compared(means, None).difference
    assert paired and summed and summed.value == pytest.approx(paired.value)
    assert (summed.se or 0) > (paired.se or 0) > 0
    unknown = compared([replace(p, gain_se=None) for p in points], None)
    assert unknown.verdict == "not comparable" and "errors" in unknown.why


def test_the_scope_says_over_what_an_interval_is() -> None:
    points, table = simulated(10)
    assert compared(points, table).scope == "over prompts and 12 runs"
    of_seeds = with_units(replace(p, shares=True) for p in points)
    assert compared(of_seeds, table).scope == "over prompts and 3 seeds"
    one_seed = [replace(p, beta=(p.beta or 0) + p.seed, seed=0, shares=True, run=f"{p.run}x") for p in points]
    assert compared(with_units(one_seed), table).scope == "over prompts and runs, conditional on one seed"
    one_of_two = [one if one.arm == "dpo" else p for one, p in zip(one_seed, points, strict=True)]
    assert compared(with_units(one_of_two), table).scope == "over prompts and runs, conditional on one seed"


def test_a_seed_of_which_there_is_a_checkpoint_alone_is_no_second_seed() -> None:
    mine = [replace(point("ppo", 1.0, 0.5, beta=beta), shares=True) for beta in (0.1, 0.2, 0.3)]
    other = replace(point("ppo", 1.0, 0.5, seed=1), shares=True, end=False)
    assert [p.unit for p in with_units([*mine, other])][:3] == [p.run for p in mine]


# --- all comparisons of a study ---------------------------------------------------------------------------------------


def pairs_of(raw: Sequence[float]) -> list[Comparison]:
    """Comparisons with these p-values, of known errors."""
    z = [float(ndtri(1 - p / 2)) for p in raw]
    return [Comparison("a", f"b{i}", 1.0, Estimate(value, 1.0)) for i, value in enumerate(z)]


def test_holm_on_a_worked_example() -> None:
    assert [pair.p_value for pair in corrected(pairs_of([0.01, 0.04, 0.03, 0.005]))] == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )


@given(raw=p_values)
def test_holm_lies_between_the_raw_values_and_bonferroni_and_keeps_their_order(raw: list[float]) -> None:
    pairs = pairs_of(raw)
    for before, after in zip(pairs, corrected(pairs), strict=True):
        assert before.difference
        own = before.difference.p_value
        assert own <= after.p_value + 1e-12 and after.p_value <= min(1.0, len(raw) * own) + 1e-12
    ranked = [pair.p_value for _, pair in sorted(zip(raw, corrected(pairs), strict=True), key=lambda both: both[0])]
    assert ranked == sorted(ranked)


@given(raw=p_values, order=st.randoms(use_true_random=False))
def test_the_correction_does_not_care_for_order(raw: list[float], order: Random) -> None:
    shuffled = list(range(len(raw)))
    order.shuffle(shuffled)
    alone, moved = corrected(pairs_of(raw)), corrected(pairs_of([raw[i] for i in shuffled]))
    assert [pair.p_value for pair in moved] == pytest.approx([alone[i].p_value for i in shuffled])


@given(raw=p_values)
def test_an_interval_excludes_0_exactly_where_the_pair_is_told_apart(raw: list[float]) -> None:
    for pair in corrected(pairs_of(raw)):
        low, high = pair.interval()
        assert (low > 0) == (pair.verdict == "better") and high > 0
        assert pair.distinct or pair.verdict == "no difference"


def test_what_is_not_comparable_costs_the_others_nothing() -> None:
    (known,) = pairs_of([0.04])
    both = corrected([known, Comparison("a", "c", why="apart")])
    assert both[0].p_value == pytest.approx(0.04) and both[0].distinct and both[1].p_value == 1
    assert math.isnan(both[1].interval()[0]) and both[1].detectable is None


@pytest.mark.parametrize(("df", "others"), [(math.inf, 0), (6, 0), (6, 2)])
def test_the_detectable_difference_is_told_apart_in_four_of_five_studies(df: float, others: int) -> None:
    rng = np.random.default_rng(11)
    (like, *_) = corrected([Comparison("a", "b", 1.0, Estimate(0.0, 1.0, df)) for _ in range(1 + others)])
    assert like.detectable
    told = []
    for _ in range(4000):
        se = 1.0 if math.isinf(df) else math.sqrt(rng.chisquare(df) / df)
        mine = Comparison("a", "b", 1.0, Estimate(like.detectable + rng.normal(), se, df))
        told.append(corrected([mine, *(Comparison("a", "c", 1.0, Estimate(0.0, 1.0, df)) for _ in range(others))])[0])
    assert np.mean([pair.distinct for pair in told]) == pytest.approx(0.8, abs=0.035)


# --- best runs --------------------------------------------------------------------------------------------------------


def test_the_best_run_is_chosen_on_one_half_of_the_prompts_and_told_by_the_other() -> None:
    lucky, steady = np.tile([1.0, 0.0], 20), np.full(40, 0.9)  # the lucky one shines on the even prompts only
    points = [point("dpo", 1.0, 0.5, seed=0), point("dpo", 1.0, 0.9, seed=1)]
    best = best_run("dpo", points, PerPrompt(np.ones((2, 40)), np.array([lucky, steady])))
    assert (best.seed, best.among, best.prompts) == (0, 2, 20)
    assert best.gain.value == 0.0


def test_the_best_of_many_equal_runs_is_told_without_flattery() -> None:
    rng = np.random.default_rng(10)
    points = [point("dpo", 1.0, 0.0, seed=seed) for seed in range(20)]
    tables = [PerPrompt(np.ones((20, 60)), rng.normal(size=(20, 60))) for _ in range(150)]
    gains = [best_run("dpo", points, table).gain.value for table in tables]
    assert abs(np.mean(gains)) < 3 * np.std(gains) / math.sqrt(150)


def test_a_run_alone_is_told_by_all_prompts() -> None:
    best = best_run("dpo", [point("dpo", 2.0, 0.4)], PerPrompt(np.ones((1, 40)), np.full((1, 40), 0.4)))
    assert (best.step, best.among, best.prompts) == (8, 1, 40)
    assert best.gain.value == pytest.approx(0.4)
