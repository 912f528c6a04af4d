"""How many votes does it take to predict held-out ones, asked at random or where the preference is least sure?

    python -m bench.unsure [--model MODEL --ballots DEMO/ballots.jsonl] [--repetitions 40]

*Simulated*: pairs of responses with 32 features; people vote by Bradley–Terry on a score that is linear in them. In
`alike` every pair is as telling as the next one; in `few tell` one pair in ten differs ten times as much as the others,
as where most samples of a policy are near copies of each other. *Real*: the ballots of `preftune demo`, four
continuations of each prompt, in the features that `preftune label --next unsure` reads of the model; the demo's gold
votes, noisily, and a pair whose rewards differ by more than .1 says who is right.

Each way begins with ten random votes and asks ten at a time, as the page does: `unsure` as it is there (a fifth and a
quarter of the rest at random), `unsure alone` without those, `entropy` where v is nearest to ½, alone. After so many
votes a fit to all of them, its penalty chosen by cross-validation, is asked held-out pairs: how often it says which of
two responses is better. ± is one standard error over repetitions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from bench.machine import show, write_results
from preftune.console import track
from preftune.data import read_ballots
from preftune.demo.assets import fit_gold, hold_out, read_ratings, review
from preftune.demo.downloads import fetch_assets
from preftune.demo.experiment import TEMPERATURE
from preftune.evidence import VoteTable
from preftune.evidence.stats import Floats
from preftune.model import cache_folder
from preftune.people.desk import AT_RANDOM, SHARE
from preftune.preference.unsure import fit_rows, least_sure
from preftune.study import open_chooser

FEATURES, POOL, HELD_OUT, FIRST, AT_ONCE = 32, 600, 2000, 10, 10
SIZES = (20, 40, 80, 160, 320)
RANDOM = SHARE + (1 - SHARE) * AT_RANDOM  # of what is asked on the page


@dataclass(frozen=True)
class World:
    """Rows of pairs that may be voted on, `[C, F]`, their prompts and Pr(first is better); held-out rows, and whether
    the first is better."""

    rows: Floats
    prompts: Sequence[int]
    p: Floats
    held_out: Floats
    better: Floats


def simulated(rng: np.random.Generator, few: bool) -> World:
    """Pairs of which all are as telling, or few are."""
    weight = rng.normal(size=FEATURES)

    def draw(count: int) -> Floats:
        size = np.where(rng.random(count) < 0.1, 3.0, 0.3) if few else np.ones(count)
        return np.asarray(rng.normal(size=(count, FEATURES)) * size[:, None])

    rows, held_out = draw(POOL), draw(HELD_OUT)
    scale = 1.5 / np.std(held_out @ weight)
    return World(rows, range(POOL), expit(scale * rows @ weight), held_out, held_out @ weight > 0)


def real_worlds(model: str, path: Path) -> Callable[[np.random.Generator], World]:
    """The demo's ballots in the features of a model; in each world a random quarter of the prompts is held out."""
    ballots = read_ballots(path).ballots
    fitting, prompting = hold_out(read_ratings(fetch_assets(cache_folder() / "demo").ratings).snippets, 0.2, seed=0)
    score = fit_gold(fitting, prompting)
    gold = [score([review(str(one.prompt), text) for text in one.responses]) for one in ballots]
    chooser = open_chooser(ballots, model)
    places = [(k, a, b) for k, one in enumerate(ballots) for a, b in combinations(range(len(one.responses)), 2)]
    places = [place for place in places if place[0] in chooser.first]
    rows, lead = chooser.rows(places), np.array([gold[k][a] - gold[k][b] for k, a, b in places])
    prompts = np.array([k for k, _, _ in places])

    def world(rng: np.random.Generator) -> World:
        out = np.isin(prompts, rng.permutation(len(gold))[: len(gold) // 4])
        mine = rng.permutation(np.flatnonzero(~out))[:POOL]
        kept = out & (np.abs(lead) > 0.1)
        return World(rows[mine], prompts[mine].tolist(), expit(lead[mine] / TEMPERATURE), rows[kept], lead[kept] > 0)

    return world


Way = Callable[[World, VoteTable, Sequence[int], Sequence[int]], list[int]]


def at_random(world: World, table: VoteTable, asked: Sequence[int], left: Sequence[int]) -> list[int]:
    """The next ones in a random order."""
    return list(left[:AT_ONCE])


def unsure_alone(world: World, table: VoteTable, asked: Sequence[int], left: Sequence[int]) -> list[int]:
    """Where the fit is least sure."""
    order = least_sure(world.rows[list(asked)], table, world.rows[list(left)], AT_ONCE)
    return [left[k] for k in order]


def unsure(world: World, table: VoteTable, asked: Sequence[int], left: Sequence[int]) -> list[int]:
    """The same with the page's share of random ones."""
    chosen = unsure_alone(world, table, asked, left)[: round((1 - RANDOM) * AT_ONCE)]
    return (chosen + [one for one in left if one not in chosen])[:AT_ONCE]


def entropy(world: World, table: VoteTable, asked: Sequence[int], left: Sequence[int]) -> list[int]:
    """Where v is nearest to one half."""
    weight, _, _ = fit_rows(world.rows[list(asked)], table)
    near = np.abs(world.rows[list(left)] @ weight)
    return [left[k] for k in np.argsort(near)[:AT_ONCE]]


WAYS: dict[str, Way] = {"random": at_random, "unsure": unsure, "unsure alone": unsure_alone, "entropy": entropy}


def learned(world: World, way: Way, rng: np.random.Generator) -> Iterator[float]:
    """How often the fit is right about held-out pairs, after each of the sizes."""
    said = (rng.random(len(world.p)) < world.p).astype(float)
    asked = list(range(FIRST))
    while len(asked) <= SIZES[-1]:
        prompts = tuple((world.prompts[k],) for k in asked)
        table = VoteTable(np.zeros(len(asked)), said[asked], np.ones(len(asked)), prompts)
        if len(asked) in SIZES:
            weight, _, _ = fit_rows(world.rows[asked], table)
            logits = world.held_out @ weight
            yield float(np.mean(np.where(logits == 0, 0.5, (logits > 0) == world.better)))
        there = set(asked)
        asked += way(world, table, asked, [k for k in range(len(world.p)) if k not in there])


def measured(name: str, make: Callable[[np.random.Generator], World], repetitions: int) -> list[dict[str, Any]]:
    """A row for each way: the mean and the standard error after each of the sizes."""
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for k in track(range(repetitions), name):
        for way, asks in WAYS.items():
            rng = np.random.default_rng(k)
            found[way].append(list(learned(make(rng), asks, rng)))
    rows = []
    for way, values in found.items():
        mean, error = np.mean(values, axis=0), np.std(values, axis=0, ddof=1) / np.sqrt(repetitions)
        rows.append({"world": name, "way": way, "right": mean.round(4).tolist(), "se": error.round(4).tolist()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="the model whose features are read; without it, simulated worlds alone")
    parser.add_argument("--ballots", type=Path, help="what preftune demo left with that model")
    parser.add_argument("--repetitions", type=int, default=40)
    given = parser.parse_args()
    rows = measured("alike", lambda rng: simulated(rng, few=False), given.repetitions)
    rows += measured("few tell", lambda rng: simulated(rng, few=True), given.repetitions)
    if given.model:
        rows += measured("real", real_worlds(given.model, given.ballots), given.repetitions)
    told = [
        [row["world"], row["way"], *(f"{a:.3f} ± {b:.3f}" for a, b in zip(row["right"], row["se"], strict=True))]
        for row in rows
    ]
    show("right about held-out pairs", ["world", "pairs", *(f"{n} votes" for n in SIZES)], told)
    write_results("unsure", {"sizes": SIZES, "repetitions": given.repetitions, "rows": rows})


if __name__ == "__main__":
    main()
