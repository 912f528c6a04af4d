"""Which way of learning from few votes comes closest to the optimum: a simulation with known worlds.

Every repetition draws a world and votes in it, and gives the same votes to every method. What a method learns is
judged by its regret J(π*) − J(π) = β·KL(π ‖ π*), where π* is what IPO reaches with infinitely many votes. Two tables:

    finite bandits     one prompt, every response has parameters of its own; the policy is a table
    contextual         100 prompts × 4 responses with 3 votes each; preferences depend on 8 features of a response

Amortized IPO fits a preference v to the votes first and takes its targets σ(v) − ½ from there, on the pairs that were
voted on ("same pairs") or on all pairs, weighted by μ × μ ("all pairs"). A regularised method gets the ridge that is
best for it on average over repetitions, which nobody knows in practice: such columns are optimistic.

In the contextual table every method also gets the best scale c of its scores, by the same rule. It is a change of β to
β/c, and without it that table compares scales: a reward in logits is no Borda score, votes flipped at rate ε shrink
IPO's target by 1 − 2ε, and least squares on features that do not explain Borda scores shrinks it, too.

Shapes: R repetitions, X prompts, K responses, M = K(K−1)/2 pairs, D parameters of a preference. Scores in nats.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from .learners import (
    BETA,
    CASES,
    CONTEXTUAL,
    FINITE,
    Case,
    Ridge,
    Sample,
    amortized,
    draw_sample,
    ipo,
    linear_ipo,
    reward,
    tabular_ipo,
)
from .optima import regret, tilt
from .worlds import Floats

REPETITIONS, QUICK = 300, 10
CHUNK = 10  # repetitions computed in one array; fixed, so that rounding does not depend on the number of workers


# --- the columns ------------------------------------------------------------------------------------------------------

# Half a decade apart. Beyond the last ridge of v its targets only shrink, and the scale undoes that.
AS_IT_IS = (1.0,)
STRETCH = (0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)
REWARD_STRETCH = (0.05, 0.065, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25, 0.32, 0.4, 0.5, 0.65, 0.8, 1.0)
SQUARES: tuple[Ridge, ...] = tuple((ridge,) for ridge in (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0))
LIKELIHOOD: tuple[Ridge, ...] = tuple((ridge,) for ridge in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0))
GENERAL: tuple[Ridge, ...] = tuple(product((0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0), (0.3, 1.0, 3.0, 10.0, 30.0)))


@dataclass(frozen=True)
class Column:
    """A method under its name in the table, and the ridges and scales that it may choose from."""

    name: str
    scores: Callable[[Sample, Ridge], Floats]
    ridges: tuple[Ridge, ...] = LIKELIHOOD
    scales: tuple[float, ...] = AS_IT_IS


NOISE_AWARE = "noise-aware v"
COLUMNS: dict[str, tuple[Column, ...]] = {
    FINITE: (
        Column("IPO", ipo, ((0.0,),)),
        Column("IPO + ridge", tabular_ipo, SQUARES),
        Column("BT-v, same pairs", amortized),
        Column("BT-v, all pairs", partial(amortized, everywhere=True)),
        Column("general v, all pairs", partial(amortized, everywhere=True, cyclic=True), GENERAL),
        Column(NOISE_AWARE, partial(amortized, everywhere=True, noise_aware=True)),
    ),
    CONTEXTUAL: (
        Column("tabular IPO + ridge", tabular_ipo, SQUARES, STRETCH),
        Column("linear IPO", linear_ipo, SQUARES, STRETCH),
        Column("BT-v same → tabular", amortized, scales=STRETCH),
        Column("BT-v all → tabular", partial(amortized, everywhere=True), scales=STRETCH),
        Column(NOISE_AWARE, partial(amortized, everywhere=True, noise_aware=True), scales=STRETCH),
        Column("BT reward", reward, scales=REWARD_STRETCH),
    ),
}

# The earlier table: regret × 1000 of a run of this study, whose worlds were not recorded in full. Those
# above were chosen, among worlds described by a few round numbers, for coming close to it. In the order of `columns`.
EARLIER: dict[str, tuple[float, ...]] = {
    "3-cycle, n=30": (16.3, 11.2, 10.8, 10.8, 11.6),
    "3-cycle, n=1000": (0.88, 0.83, 0.82, 0.83, 0.62),
    "K=10, strong BT, n=200": (6.49, 6.24, 6.39, 5.15, 5.17),
    "K=10, strong BT, n=200, flips .2": (32.7, 32.7, 32.8, 32.9, 32.9, 21.0),
    "K=10, non-transitive, n=1000": (2.91, 2.85, 2.85, 2.84, 2.57),
    "strong, ε=0": (83.7, 6.43, 41.7, 3.48, 5.53),
    "strong, ε=.2": (140, 19.7, 46.3, 18.9, 13.4, 19.8),
    "strong, misspecified, ε=.2": (141, 34.8, 60.4, 34.4, 30.3, 35.6),
    "weak, ε=0": (68.9, 6.24, 22.2, 5.80, 6.26),
}
EARLIER_REPETITIONS = 250  # it says 200–300


def regrets(case: Case, column: Column, sample: Sample) -> Floats:
    """Regret × 1000 of a method, the mean over prompts, `[R, ridges, scales]`."""
    table = np.empty((len(sample.wins), len(column.ridges), len(column.scales)))
    for i, ridge in enumerate(column.ridges):
        scores = column.scores(sample, ridge)
        for j, scale in enumerate(column.scales):
            policy = tilt(sample.reference, scale * scores, BETA)
            table[:, i, j] = 1000 * regret(policy, sample.optimum, BETA).mean(-1)
    return table


def columns(case: Case) -> list[Column]:
    """The methods of a case; one that knows how many votes are reversed is another one only if some are."""
    return [column for column in COLUMNS[case.table] if case.flips or column.name != NOISE_AWARE]


# --- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    `regret` is β·KL(π ‖ π*) × 1000 with its standard error over `repetitions`; `ridge` and `scale` are those chosen;
    `earlier` is the earlier run's number, and `z` how far apart the two are in standard errors of their difference,
    taking a repetition to vary as much there as here.
    """

    table: str
    row: str
    column: str
    regret: float
    error: float
    repetitions: int
    ridge: Ridge
    scale: float
    earlier: float

    @property
    def z(self) -> float:
        spread = self.error * math.sqrt(1 + self.repetitions / EARLIER_REPETITIONS)
        return (self.regret - self.earlier) / spread


def run_study(
    quick: bool = False,
    seed: int = 0,
    workers: int | None = None,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Cell]:
    """Every cell of both tables, from 300 repetitions (`quick`: 10).

    `workers` processes share the work (by default one per core, 1 for none); the result does not depend on it. `track`
    wraps the pieces of work, to show progress.
    """
    repetitions = QUICK if quick else REPETITIONS
    tasks = [(i, seed, start) for i in range(len(CASES)) for start in range(0, repetitions, CHUNK)]
    parts: list[list[list[Floats]]] = [[] for _ in CASES]
    with _mapper(workers) as mapper:
        for step, part in zip(track(range(len(tasks))), mapper(_work, tasks), strict=True):
            parts[tasks[step][0]].append(part)
    cells = []
    for case, chunks in zip(CASES, parts, strict=True):
        for column, tables in zip(columns(case), zip(*chunks, strict=True), strict=True):
            cells.append(choose(case, column, np.concatenate(tables)))
    return cells


def _work(task: tuple[int, int, int]) -> list[Floats]:
    number, seed, start = task
    case = CASES[number]
    sample = draw_sample(case, [(seed, number, start + i) for i in range(CHUNK)])
    return [regrets(case, column, sample) for column in columns(case)]


@contextmanager
def _mapper(workers: int | None) -> Iterator[Callable[..., Iterable[list[Floats]]]]:
    if workers == 1:
        yield map
        return
    # fresh processes: a forked one may inherit the locks of other threads
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield pool.map


def choose(case: Case, column: Column, table: Floats) -> Cell:
    """The cell of the ridge and scale with the least mean regret, from `regrets` `[R, ridges, scales]`."""
    mean = table.mean(0)
    i, j = np.unravel_index(mean.argmin(), mean.shape)
    error = float(table[:, i, j].std(ddof=1)) / len(table) ** 0.5
    earlier = dict(zip((known.name for known in columns(case)), EARLIER[case.name], strict=True))[column.name]
    ridge, scale = column.ridges[i], column.scales[j]
    return Cell(case.table, case.name, column.name, float(mean[i, j]), error, len(table), ridge, scale, earlier)


# --- what it looks like -----------------------------------------------------------------------------------------------


def as_rows(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The cells as JSON objects."""
    return [asdict(cell) | {"z": cell.z} for cell in cells]


def as_text(cells: Sequence[Cell]) -> str:
    """Both tables, a line per cell, the earlier number and its z beside ours; the best of a row is marked *."""
    lines = []
    for table in dict.fromkeys(cell.table for cell in cells):
        lines += [f"{table}: regret × 1000", ""]
        for row in dict.fromkeys(cell.row for cell in cells if cell.table == table):
            here = [cell for cell in cells if (cell.table, cell.row) == (table, row)]
            best = min(here, key=lambda cell: cell.regret)
            lines.append(f"{row:<34}  ours  ±      earlier        z   ridge (scale)")
            lines += [_line(cell, "*" if cell is best else " ") for cell in here] + [""]
    return "\n".join(lines)


def _line(cell: Cell, mark: str) -> str:
    ours = f"{_digits(cell.regret):>6}{mark} {_digits(cell.error):<7}"
    chosen = ", ".join(f"{value:g}" for value in cell.ridge) + (f" ({cell.scale:g})" if cell.scale != 1 else "")
    return f"  {cell.column:<32}{ours}{cell.earlier:>8g}{cell.z:>+7.1f}   {chosen}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
