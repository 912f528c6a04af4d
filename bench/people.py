"""Does an interval from few votes of people, corrected by a judge of everything, hold the truth as often as it says?

    python -m bench.people [--repetitions 20000]

Of 512 prompts n are voted on, at random. A policy answers each prompt three times and meets the reference: people
would say win of 52% of the pairs, tie of 20%, loss of 28%, so that the truth is .62; the pairs of a prompt are alike.
The judge says F in {0, ¼, ½, ¾, 1} of every pair, .09 too high, with a correlation ρ to a person's vote on the pair.
One pair of a voted prompt has a vote, or each of its three. *Width* is the mean half-width of the 95% interval over
that of people alone, *saved* what it means in votes (the median), *judge alone* how often the judge's own interval
holds the truth. Where all votes agree the error is unknown and the interval unbounded, which counts as holding.

Then ways of doing it wrong, each beside what is right on the same data, and the difference of two arms of two runs each
as a study has it, from influence values (`ppi_points`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.special import ndtr

from bench.machine import show, write_results
from preftune.console import track
from preftune.evidence import Estimate, Powered, ppi, ppi_points
from preftune.evidence.stats import Floats

PROMPTS, PAIRS = 512, 3
WIN, TIE = 0.52, 0.2
TRUTH = WIN + TIE / 2
BIAS = 0.09
RAISED = 4 * BIAS / (1 - WIN)  # of verdicts below 1, by ¼
ALIKE = 0.4  # the share of what decides a vote that the pairs of a prompt have in common
CHUNK = 500
SKIPPED = 0.3


@dataclass(frozen=True)
class Cell:
    """`voted` prompts with so many `votes` each, and a judge with correlation `rho` to a vote."""

    voted: int
    rho: float
    votes: int


CELLS = [Cell(n, rho, votes) for votes, n, rho in product((1, 3), (15, 60, 240), (0.0, 0.5, 0.8))]


@dataclass(frozen=True)
class Drawn:
    """What people would say of every pair and what the judge says, [prompts, pairs]. Their order is random: the first
    prompts are voted on, and of each its first pairs."""

    cell: Cell
    people: Floats
    judge: Floats

    def voted(self, values: Floats) -> Floats:
        """Means over the voted pairs of each voted prompt, not a number elsewhere; [prompts]. A pair that is not a
        number has no vote."""
        of_voted = values[: self.cell.voted, : self.cell.votes]
        count = (~np.isnan(of_voted)).sum(axis=1)
        means = np.full(len(values), math.nan)
        means[: self.cell.voted] = np.where(count > 0, np.nansum(of_voted, axis=1) / np.maximum(count, 1), math.nan)
        return means


# --- the world --------------------------------------------------------------------------------------------------------


def votes(rng: np.random.Generator, count: int, better: float = 0.0, shared: Floats | None = None) -> Floats:
    """1, ½ or 0 of pairs alike within a prompt, [count, prompts, pairs]; `better`: by how much they win more often."""
    if shared is None:
        shared = rng.normal(size=(count, PROMPTS, 1))
    u = ndtr(math.sqrt(ALIKE) * shared + math.sqrt(1 - ALIKE) * rng.normal(size=(count, PROMPTS, PAIRS)))
    return np.asarray((u < WIN + better) * 0.5 + (u < WIN + TIE + better) * 0.5)


def judged(rng: np.random.Generator, of: Floats, rho: float, own: Floats) -> Floats:
    """F of pairs with these votes: the vote, or an opinion of its own, and raised, such that ρ is what it should be."""
    followed = np.where(rng.random(of.shape) < rho / _correlation(), of, own)
    return np.asarray(followed + 0.25 * (rng.random(of.shape) < RAISED) * (followed < 1))


def _correlation() -> float:
    """Of a vote and F, where F is the vote, raised or not."""
    vote, chance = np.array([0, 0.5, 1]), np.array([1 - WIN - TIE, TIE, WIN])
    raised = RAISED * (vote < 1)
    mean = chance @ (vote + raised / 4)
    square = chance @ (vote**2 + raised * (vote / 2 + 1 / 16))
    covariance = chance @ (vote * (vote + raised / 4)) - TRUTH * mean
    return float(covariance / math.sqrt((square - mean**2) * (chance @ vote**2 - TRUTH**2)))


def draws(cell: Cell, repetitions: int, rng: np.random.Generator) -> Iterator[Drawn]:
    """Repetitions of the world."""
    for start in range(0, repetitions, CHUNK):
        count = min(CHUNK, repetitions - start)
        people = votes(rng, count)
        judge = judged(rng, people, cell.rho, votes(rng, count))
        yield from (Drawn(cell, *one) for one in zip(people, judge, strict=True))


def holds(estimate: Estimate, truth: float = TRUTH) -> bool:
    """Whether the truth is in the 95% interval."""
    low, high = estimate.interval()
    return low <= truth <= high


def measure(cell: Cell, repetitions: int) -> dict[str, Any]:
    """Coverage of people and judge together and of each alone, widths, votes saved, the judge's mean weight."""
    rng = np.random.default_rng([cell.voted, cell.votes, int(10 * cell.rho)])
    rows = []
    for drawn in draws(cell, repetitions, rng):
        found = right(drawn)
        halves = found.both.half_width(), found.people.half_width()
        alone = holds(found.people), holds(found.judge)
        rows.append((holds(found.both), *alone, *halves, found.weight, found.saved or math.nan))
    table = np.array(rows, dtype=float)
    known = np.isfinite(table[:, 3])  # not where all votes agree
    both, people, judge, weight = (float(table[:, i].mean()) for i in (0, 1, 2, 5))
    half, half_people = (float(table[known, i].mean()) for i in (3, 4))
    numbers = {
        "coverage": both,
        "people_alone": people,
        "judge_alone": judge,
        "half": half,
        "known": float(known.mean()),
    }
    numbers |= {"width": half / half_people}
    numbers |= {"weight": weight, "saved": float(np.nanmedian(table[:, 6]))}
    return asdict(cell) | {"repetitions": repetitions} | numbers


def right(drawn: Drawn) -> Powered:
    """`ppi` of a repetition."""
    return ppi(drawn.voted(drawn.people), drawn.voted(drawn.judge), drawn.judge.mean(axis=1))


# --- ways of doing it wrong -------------------------------------------------------------------------------------------

Rng = np.random.Generator


def another_runs_pairs(drawn: Drawn, rng: Rng) -> Estimate:
    """l is what the judge says of another run's pairs on the voted prompts: a run that wins .2 less often."""
    worse = np.where(rng.random(drawn.judge.shape) < 0.2 / TRUTH, 0.0, drawn.judge)
    return ppi(drawn.voted(drawn.people), drawn.voted(worse), drawn.judge.mean(axis=1)).both


def z_for_t(drawn: Drawn, rng: Rng) -> Estimate:
    """The published formula: the normal distribution, and no degree of freedom for λ."""
    both, n = right(drawn).both, drawn.cell.voted
    return Estimate(both.value, both.se and both.se * math.sqrt((n - 2) / (n - 1)))


def clusters_ignored(drawn: Drawn, rng: Rng) -> Estimate:
    """Every pair counts as a prompt of its own."""
    h = np.full(drawn.people.shape, math.nan)
    at = np.s_[: drawn.cell.voted, : drawn.cell.votes]
    h[at] = drawn.people[at]
    return ppi(h.ravel(), np.where(np.isnan(h), math.nan, drawn.judge).ravel(), drawn.judge.ravel()).both


def swap_not_undone(drawn: Drawn, rng: Rng) -> Estimate:
    """Half of the pairs were shown in the other order, and the vote is taken for the side it was on."""
    turned = rng.random(drawn.people.shape) < 0.5
    h = drawn.voted(np.where(turned, 1 - drawn.people, drawn.people))
    return ppi(h, drawn.voted(drawn.judge), drawn.judge.mean(axis=1)).both


def skipped_is_no_vote(drawn: Drawn, rng: Rng, instead: float = math.nan) -> Estimate:
    """A part of the pairs is skipped: what they were is not known, and their prompts are not voted on."""
    skipped = rng.random(drawn.people.shape) < SKIPPED
    h = drawn.voted(np.where(skipped, instead, drawn.people))
    same = drawn.voted(np.where(skipped & math.isnan(instead), math.nan, drawn.judge))
    return ppi(h, same, drawn.judge.mean(axis=1)).both


def skipped_is_a_tie(drawn: Drawn, rng: Rng) -> Estimate:
    """A skipped pair counts ½."""
    return skipped_is_no_vote(drawn, rng, instead=0.5)


def unjudged_is_half_in_both(drawn: Drawn, rng: Rng, left_out: bool = False) -> Estimate:
    """The judge has no verdict on half of what people call lost, which is ½ in l and in f."""
    failed = (rng.random(drawn.people.shape) < 0.5) & (drawn.people == 0)
    judge = np.where(failed, 0.5, drawn.judge)
    some = np.where(failed, math.nan, drawn.judge) if left_out else judge
    same = drawn.voted(some)
    h = np.where(np.isnan(same), math.nan, drawn.voted(drawn.people))
    return ppi(h, same, judge.mean(axis=1)).both


def unjudged_is_half_in_f_alone(drawn: Drawn, rng: Rng) -> Estimate:
    """It is ½ in f, and such a pair is left out of what people voted on."""
    return unjudged_is_half_in_both(drawn, rng, left_out=True)


def as_it_is(drawn: Drawn, rng: Rng) -> Estimate:
    """Nothing done wrong."""
    return right(drawn).both


Way = Callable[[Drawn, Rng], Estimate]
WRONG: Mapping[Way, tuple[Cell, Way]] = {  # in which cell, and what is right on the same data
    another_runs_pairs: (Cell(240, 0.8, 1), as_it_is),
    z_for_t: (Cell(15, 0.5, 1), as_it_is),
    clusters_ignored: (Cell(60, 0.5, 3), as_it_is),
    swap_not_undone: (Cell(240, 0.0, 1), as_it_is),
    skipped_is_a_tie: (Cell(240, 0.5, 1), skipped_is_no_vote),
    unjudged_is_half_in_f_alone: (Cell(60, 0.5, 1), unjudged_is_half_in_both),
}


def coverage(way: Way, cell: Cell, repetitions: int) -> float:
    """How often a way of doing it holds the truth."""
    rng, own = np.random.default_rng([cell.voted, 1]), np.random.default_rng(2)
    return float(np.mean([holds(way(drawn, own)) for drawn in draws(cell, repetitions, rng)]))


def measure_wrong(way: Way, repetitions: int) -> dict[str, Any]:
    """Coverage of what is wrong, and of what is right on the same data."""
    cell, instead = WRONG[way]
    rates = {"coverage": coverage(way, cell, repetitions), "right": coverage(instead, cell, repetitions)}
    return {"way": way.__name__.replace("_", " "), "repetitions": repetitions} | rates


# --- a study ----------------------------------------------------------------------------------------------------------

LEAD = 0.1  # of the first of two arms
ARMS = np.array([0.5, 0.5, -0.5, -0.5])


def measure_study(cell: Cell, repetitions: int) -> dict[str, Any]:
    """Coverage of the difference of two arms with two runs each, which share what is easy in a prompt; its width."""
    rng = np.random.default_rng([cell.voted, 3])
    rows = []
    for _ in range(repetitions):
        shared = rng.normal(size=(1, PROMPTS, 1))
        people = np.concatenate([votes(rng, 1, LEAD * (arm > 0), shared) for arm in ARMS])
        judge = judged(rng, people, cell.rho, votes(rng, len(ARMS), 0.0, shared))
        h, same = (np.stack([Drawn(cell, one, one).voted(one) for one in of]) for of in (people, judge))
        difference = ppi_points(h, same, judge.mean(axis=2)).estimates.contrast(ARMS)
        alone = ppi_points(h, 0.0 * same, np.zeros(h.shape)).estimates.contrast(ARMS)
        halves = difference.half_width(), alone.half_width()
        rows.append((holds(difference, LEAD), *halves))
    both, half, alone_half = (float(of) for of in np.array(rows, dtype=float).mean(axis=0))
    return asdict(cell) | {"repetitions": repetitions, "coverage": both, "half": half, "width": half / alone_half}


STUDIES = [Cell(n, rho, 1) for n, rho in product((15, 60), (0.0, 0.5, 0.8))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20_000)
    repetitions = parser.parse_args().repetitions
    cells = [measure(cell, repetitions) for cell in track(CELLS, "cells")]
    wrong = [asdict(cell) | measure_wrong(way, repetitions) for way, (cell, _) in track(WRONG.items(), "done wrong")]
    studies = [measure_study(cell, repetitions) for cell in track(STUDIES, "studies")]
    show_cells(cells)
    show_wrong(wrong)
    show_studies(studies)
    write_results("people", {"cells": cells, "wrong": wrong, "studies": studies})


def show_cells(cells: list[dict[str, Any]]) -> None:
    head = ["votes, prompts, rho", "coverage", "people alone", "judge alone", "half-width", "width", "saved", "weight"]
    numbers = [
        [f"{row[name]:.3f}" for name in ("coverage", "people_alone", "judge_alone", "half")]
        + [f"{row[name]:.2f}" for name in ("width", "saved", "weight")]
        for row in cells
    ]
    show("people and judge", head, [[place(row), *of] for row, of in zip(cells, numbers, strict=True)])


def show_wrong(wrong: list[dict[str, Any]]) -> None:
    rows = [[row["way"], place(row), f"{row['coverage']:.3f}", f"{row['right']:.3f}"] for row in wrong]
    show("wrong", ["", "votes, prompts, rho", "coverage", "if done right"], rows)


def show_studies(studies: list[dict[str, Any]]) -> None:
    rows = [[place(row), *(f"{row[name]:.3f}" for name in ("coverage", "half", "width"))] for row in studies]
    show("difference of two arms", ["votes, prompts, rho", "coverage", "half-width", "width"], rows)


def place(row: Mapping[str, Any]) -> str:
    """A cell in a table."""
    return f"{row['votes']}, {row['voted']}, {row['rho']}"


if __name__ == "__main__":
    main()
