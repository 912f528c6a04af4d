"""What a study may say: a frontier for every arm, arms compared at the same KL, best runs, alarms, one sentence.

d = √KL is the distance from the reference; a frontier is the fit gain = d(α − γ·d) over all points of an arm (Gao
et al. 2022, arXiv 2210.10760), never the best of its points, which would reward having more of them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from preftune.results import REFERENCE, Result, Sample, Study
from preftune.stats import Estimate, Floats, Indices, clustered_mean, holm, over_seeds, paired_bootstrap, with_seeds

REWARD = "reward"
ACCURACY = "accuracy"
CHANCE = 0.5  # held-out accuracy of the reference itself: every margin is 0, and ties count half
LEVEL = 0.05  # how small a corrected p-value must be before a difference is called one
ROUNDING = 1e-3  # a KL above −ROUNDING nats is 0 but for rounding


@dataclass(frozen=True)
class Point:
    """A run at a checkpoint: where it stands. `gain` is over the reference, in the units of the vertical axis.

    `kl_of` and `gain_of` hold the means of each prompt, in the order of `Verdict.prompts`; empty without samples.
    """

    run: str
    arm: str
    beta: float | None
    seed: int
    step: int
    kl: float
    kl_se: float | None
    gain: float
    gain_se: float | None
    kl_of: tuple[float, ...] = ()
    gain_of: tuple[float, ...] = ()


@dataclass(frozen=True)
class Frontier:
    """gain = d(alpha − gamma·d) at d = √KL, fitted over `points` points whose KL lies in [low, high] nats.

    With fewer than three distinct d, only the linear term is fitted (`curved` is False, gamma 0).
    """

    arm: str
    alpha: float
    gamma: float
    curved: bool
    points: int
    low: float
    high: float

    def at(self, kl: float) -> float:
        """The fitted gain at a KL in nats."""
        d = math.sqrt(kl)
        return d * (self.alpha - self.gamma * d)

    @property
    def form(self) -> str:
        """The fit in words."""
        terms = "d(α − γ·d)" if self.curved else "α·d (fewer than three distinct points: linear term only)"
        return f"least squares of gain = {terms}, d = √KL, over all {self.points} points of the arm"


@dataclass(frozen=True)
class Comparison:
    """The frontier of arm `a` minus that of arm `b` at one `kl` (nats) that both have reached.

    `difference` is None and `why_not` says why where they cannot be compared. `p_value` is corrected (Holm) for all
    comparisons of the study; `seeds` is the number of seeds that the two arms share.
    """

    a: str
    b: str
    kl: float | None
    difference: Estimate | None
    p_value: float
    seeds: int
    why_not: str = ""

    @property
    def distinct(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Best:
    """The best run of an arm at its last checkpoint, with its gain over the reference.

    Chosen among `among` runs on one half of the prompts; the gain is that of the other half, `prompts` in number. With
    one run nothing is chosen and all prompts count.
    """

    arm: str
    run: str
    beta: float | None
    seed: int
    step: int
    gain: Estimate
    among: int
    prompts: int


@dataclass(frozen=True)
class Verdict:
    """The answer of a study: `sentence` has it in words with its uncertainty, the rest are the numbers behind it.

    `axis` is "reward", or "accuracy" where nothing scored the samples: then no quality is claimed. `alarms` are what a
    reader should worry about, `caveats` what limits the sentence.
    """

    sentence: str
    axis: str
    axis_label: str
    points: tuple[Point, ...]
    frontiers: tuple[Frontier, ...]
    comparisons: tuple[Comparison, ...]
    best: tuple[Best, ...]
    alarms: tuple[str, ...]
    caveats: tuple[str, ...]
    prompts: tuple[int, ...]


def verdict(study: Study) -> Verdict:
    """Everything that the study's numbers support, and no more."""
    axis = REWARD if any(row.gain is not None for row in study.trained()) else ACCURACY
    prompts, points, notes = _points(study, axis)
    frontiers = tuple(f for arm in _arms(points) if (f := fit_frontier([p for p in points if p.arm == arm])))
    comparisons = compare(points, frontiers)
    best = tuple(b for arm in _arms(points) if (b := best_run([p for p in points if p.arm == arm], prompts)))
    return Verdict(
        sentence=_sentence(study, axis, frontiers, comparisons, best),
        axis=axis,
        axis_label=_axis_label(study, axis),
        points=points,
        frontiers=frontiers,
        comparisons=comparisons,
        best=best,
        alarms=alarms(study),
        caveats=(*study.notes, *notes, *_caveats(study, axis, prompts, comparisons)),
        prompts=prompts,
    )


# --- points -----------------------------------------------------------------------------------------------------------


def _points(study: Study, axis: str) -> tuple[tuple[int, ...], tuple[Point, ...], tuple[str, ...]]:
    """(prompts, points, notes): one point per run and checkpoint that has a place on both axes."""
    places = [row for row in study.trained() if _place(row, axis) is not None]
    notes = []
    if len(places) < len(study.trained()):
        count = len(study.trained()) - len(places)
        notes.append(f"{count} of {len(study.trained())} checkpoints have no usable KL or {axis} and are not drawn.")
    prompts, kl_of, gain_of = _by_prompt(study.samples, places) if axis == REWARD else ((), {}, {})
    if axis == REWARD and not prompts:
        notes.append("Samples of the same prompts are missing, so errors of different checkpoints are not paired.")
    points = []
    for row in places:
        place = _place(row, axis)
        assert place is not None
        key = (row.run, row.step)
        points.append(
            Point(
                *(row.run, row.arm, row.beta, row.seed, row.step),
                *(place[0], row.kl_se, place[1], row.gain_se if axis == REWARD else row.accuracy_se),
                kl_of=kl_of.get(key, ()),
                gain_of=gain_of.get(key, ()),
            )
        )
    return prompts, tuple(points), tuple(notes)
