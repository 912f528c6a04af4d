"""When does a learned target pay? Every method × label noise × votes a prompt, in worlds whose optimum is known.

    python -m bench.noise_grid

The worlds are the contextual ones of `preftune lab study`: 100 prompts × 4 responses, preferences that depend on 8
features of a response. `score`: by Bradley–Terry on them. `unexplained`: a part of the score that they do not show.
`cyclic`: beside the score a skew part φ_aᵀ R φ_b, which no score explains. In every repetition all methods get the same
votes, and are judged by their regret β·KL(π ‖ π*) against what IPO reaches with infinitely many true votes.

    IPO                      scores linear in the features, least squares on the labels
    DPO                      scores linear in the features, Bradley–Terry; as RLHF is with such a reward
    cDPO, rDPO               the same on labels smoothed by, or freed of, the true rate of flips
    amortized IPO            a table that follows a Bradley–Terry v on all pairs
    …, noise-aware           the same; the likelihood of v knows the rate of flips
    …, general               the same; v has a skew part too

Each gets the ridge and the scale of its scores (a change of β) that are best for it on average, which nobody knows in
practice. Figures are regret × 1000; differences to IPO are paired over repetitions.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from bench.machine import show, write_results
from preftune.console import track
from preftune.lab.learners import (
    STRONG,
    Case,
    Drawn,
    Ridge,
    Sample,
    amortized,
    contextual,
    draw_sample,
    fit_many,
    follow,
    linear_ipo,
    reward,
    votes_of,
)
from preftune.lab.preference import pairs
from preftune.lab.study import CHUNK, LIKELIHOOD, REWARD_STRETCH, SQUARES, STRETCH, Column, regrets
from preftune.lab.worlds import Floats, world
from preftune.objectives import smooth, unbias

NOISES = (0.0, 0.1, 0.2, 0.3)
VOTES = (1, 3)
GENERAL: tuple[Ridge, ...] = tuple(product((0.3, 1.0, 3.0, 10.0), (1.0, 3.0, 10.0, 30.0)))


def cyclic(rng: np.random.Generator) -> Drawn:
    """logit p(a ≻ b) = s_a − s_b + 3·φ_aᵀ R φ_b/8, s as in `contextual`, R skew with entries from N(0, 1)."""
    truth, features = contextual(rng, strength=3.0)
    upper = np.triu(rng.normal(size=(8, 8)), 1)
    assert truth.score is not None
    logits = truth.score[:, :, None] - truth.score[:, None, :]
    circle = features @ (upper - upper.T) @ np.swapaxes(features, -1, -2)
    return world(expit(logits + 3 * circle / 8)), features


WORLDS: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "score": STRONG,
    "unexplained": partial(STRONG, unexplained=0.3),
    "cyclic": cyclic,
}
CASES = [
    Case(name, f"{name}, {votes} vote{'s' * (votes > 1)}, ε={noise:g}", draw, votes, noise)
    for (name, draw), votes, noise in product(WORLDS.items(), VOTES, NOISES)
]


def relabelled(sample: Sample, ridge: Ridge, *, change: Callable[[float, float], float]) -> Floats:
    """DPO on labels that a map of the preference changes at the true rate of flips."""
    own, other = change(1.0, sample.flips), change(0.0, sample.flips)
    return reward(replace(sample, wins=own * sample.wins + other * np.swapaxes(sample.wins, -1, -2)), ridge)


def general(sample: Sample, ridge: Ridge) -> Floats:
    """Amortized IPO on all pairs with logit v = w·(φ_a − φ_b) + φ_aᵀ R φ_b, a ridge on w and one on R."""
    a, b = pairs(sample.responses)
    f, g = sample.features[..., a, :], sample.features[..., b, :]
    i, j = np.triu_indices(f.shape[-1], 1)
    rows = np.concatenate([f - g, f[..., i] * g[..., j] - f[..., j] * g[..., i]], -1)
    rows = rows.reshape(len(rows), -1, rows.shape[-1])
    penalty = np.concatenate([np.full(f.shape[-1], ridge[0]), np.full(len(i), ridge[1])])
    theta = fit_many(rows, *votes_of(sample), penalty)
    return follow(sample, (rows @ theta[..., None])[..., 0], everywhere=True)


COLUMNS = (
    Column("IPO", linear_ipo, SQUARES, STRETCH),
    Column("DPO", reward, scales=REWARD_STRETCH),
    Column("cDPO", partial(relabelled, change=smooth), scales=REWARD_STRETCH),
    Column("rDPO", partial(relabelled, change=unbias), scales=REWARD_STRETCH),
    Column("amortized", partial(amortized, everywhere=True), LIKELIHOOD, STRETCH),
    Column("noise-aware", partial(amortized, everywhere=True, noise_aware=True), LIKELIHOOD, STRETCH),
    Column("general", general, GENERAL, STRETCH),
)


def work(task: tuple[int, int]) -> list[Floats]:
    """Regrets of all methods in some repetitions of a case."""
    number, start = task
    case = CASES[number]
    sample = draw_sample(case, [(1, number, start + i) for i in range(CHUNK)])
    return [regrets(case, column, sample) for column in COLUMNS]


def cell(column: Column, table: Floats, base: Floats | None) -> tuple[dict[str, Any], Floats]:
    """The method at its best ridge and scale, and its regrets there; `base` are IPO's in the same repetitions."""
    mean = table.mean(0)
    i, j = np.unravel_index(mean.argmin(), mean.shape)
    own = table[:, i, j]
    found = {"method": column.name, "regret": own.mean(), "error": _error(own)}
    found |= {"ridge": column.ridges[i], "scale": column.scales[j]}
    if base is not None:
        found |= {"difference": (own - base).mean(), "difference_error": _error(own - base)}
    return found, own


def _error(values: Floats) -> float:
    return float(values.std(ddof=1)) / len(values) ** 0.5


def measure(repetitions: int) -> list[dict[str, Any]]:
    """A record per case: the world, votes, noise, and a cell per method."""
    starts = range(0, repetitions, CHUNK)
    tasks = [(number, start) for number in range(len(CASES)) for start in starts]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [part for part, _ in zip(pool.map(work, tasks), track(tasks, "repetitions"), strict=True)]
    records = []
    for number, case in enumerate(CASES):
        own = parts[number * len(starts) : (number + 1) * len(starts)]
        cells: list[dict[str, Any]] = []
        base = None
        for column, tables in zip(COLUMNS, zip(*own, strict=True), strict=True):
            found, values = cell(column, np.concatenate(tables), base)
            base = values if base is None else base
            cells.append(found)
        records.append(
            {"case": case.name, "world": case.table, "votes": case.votes, "noise": case.flips, "methods": cells}
        )
    return records


def line(record: dict[str, Any]) -> list[str]:
    """A case in the table, the least regret marked."""
    best = min(found["regret"] for found in record["methods"])
    marks = ["*" if found["regret"] == best else " " for found in record["methods"]]
    words = [f"{found['regret']:.1f} ± {found['error']:.1f}" for found in record["methods"]]
    return [record["case"], *(word + mark for word, mark in zip(words, marks, strict=True))]


def clearly_better(records: Sequence[dict[str, Any]], method: str) -> str:
    """In how many cases a method is more than 3 standard errors better, or worse, than IPO."""
    cells = [found for record in records for found in record["methods"] if found["method"] == method]
    z = [found["difference"] / found["difference_error"] for found in cells]
    better, worse = sum(v < -3 for v in z), sum(v > 3 for v in z)
    return f"{method}: better than IPO in {better}, worse in {worse} of {len(z)} cases, by 3 standard errors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    records = measure(given.repetitions)
    show("regret × 1000", ["", *(column.name for column in COLUMNS)], list(map(line, records)))
    for column in COLUMNS[1:]:
        print(clearly_better(records, column.name))
    write_results("noise_grid", {"repetitions": given.repetitions, "cases": records}, given.out)


if __name__ == "__main__":
    main()
