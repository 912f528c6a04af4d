"""How often is an interval that may be looked at after every vote wrong anywhere on the way, and what does that cost?

    python -m bench.anytime [--repetitions 20000]

*Exact*: one vote a prompt, up to 1,000, for three mixes of wins, ties and losses; beside it Student's t, looked at from
the 20th vote on. Widths are means of 300 repetitions. *Large samples*: the interval from a standard error with 200
votes planned, up to 400: of people alone after every vote, and of people corrected by a judge (the world of
`bench.people`) after every tenth. Those take a fit each, so that there is one repetition for every ten.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bench.machine import show, write_results
from bench.people import TIE, TRUTH, WIN, Cell, draws
from preftune.console import track
from preftune.evidence import anytime_half_width, enough, exact_interval, log_wealth, ppi
from preftune.evidence.stats import Floats, student

OUTCOMES = np.array([0.0, 0.5, 1.0])
MIXES = [(0.5, 0.0, 0.5), (1 - WIN - TIE, TIE, WIN), (0.1, 0.0, 0.9)]  # losses, ties, wins
VOTES, SIZES, CHUNK = 1000, (50, 100, 200, 500), 200
PLANNED, LONGEST, EARLIEST = 200, 400, 20
JUDGES = [Cell(EARLIEST, rho, 1) for rho in (0.5, 0.8)]


def counts_of(rng: np.random.Generator, mix: Sequence[float], repetitions: int, votes: int) -> Floats:
    """How many losses, ties and wins there were after each vote, [repetitions, votes, 3]."""
    drawn = rng.choice(3, size=(repetitions, votes), p=mix)
    return np.cumsum(drawn[..., None] == np.arange(3), axis=1).astype(float)


def mean_and_error(counts: Floats) -> tuple[Floats, Floats]:
    """Of the votes so far, [repetitions, votes] each."""
    n = counts.sum(axis=-1)
    mean = counts @ OUTCOMES / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean, np.sqrt((counts @ OUTCOMES**2 / n - mean**2) / (n - 1))


def exact(mix: Sequence[float], repetitions: int) -> dict[str, Any]:
    """How often the exact interval and t are wrong anywhere; their mean widths."""
    rng = np.random.default_rng([int(100 * share) for share in mix])
    truth, quantiles = float(OUTCOMES @ mix), np.array([math.inf, *(student(0.975, df) for df in range(1, VOTES))])
    wrong = wrong_t = 0
    for _ in range(repetitions // CHUNK):
        counts = counts_of(rng, mix, CHUNK, VOTES)
        wrong += int((log_wealth(np.array([truth]), OUTCOMES, counts) >= math.log(20)).any(axis=(1, 2)).sum())
        mean, error = mean_and_error(counts)
        wrong_t += int((np.abs(mean - truth) > quantiles * error)[:, EARLIEST - 1 :].any(axis=1).sum())
    rates = {"exact": wrong / repetitions, "t": wrong_t / repetitions}
    return {"mix": mix, "repetitions": repetitions} | rates | {"widths": widths(rng, mix, 300)}


def widths(rng: np.random.Generator, mix: Sequence[float], repetitions: int) -> dict[str, Any]:
    """Mean widths after some numbers of votes, exact and of t."""
    found = {}
    for n in SIZES:
        drawn = OUTCOMES[rng.choice(3, size=(repetitions, n), p=mix)]
        ends = np.array([exact_interval(x) for x in drawn])
        of_t = 2 * student(0.975, n - 1) * drawn.std(axis=1, ddof=1).mean() / math.sqrt(n)
        found[str(n)] = {"exact": float((ends[:, 1] - ends[:, 0]).mean()), "t": float(of_t)}
    return found


def people_alone(repetitions: int) -> dict[str, Any]:
    """How often the interval for large samples is wrong anywhere, of votes alone."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(repetitions // CHUNK):
        counts = counts_of(rng, MIXES[1], CHUNK, LONGEST)
        mean, error = mean_and_error(counts)
        ready = np.vectorize(enough)(counts[..., 2], counts[..., 1], counts[..., 0])
        half = np.vectorize(anytime_half_width)(np.where(ready, error, 1.0), PLANNED)
        wrong += int((ready & (np.abs(mean - TRUTH) > half)).any(axis=1).sum())
    return {"of": "people alone, every vote", "repetitions": repetitions, "wrong": wrong / repetitions}


def corrected(cell: Cell, repetitions: int) -> dict[str, Any]:
    """The same of votes corrected by a judge."""
    wrong = 0
    for drawn in draws(cell, repetitions, np.random.default_rng([8, int(10 * cell.rho)])):
        wrong += any(
            abs(both.value - TRUTH) > anytime_half_width(both.se, PLANNED)
            for n in range(EARLIEST, LONGEST + 1, 10)
            for grown in [replace(drawn, cell=replace(cell, voted=n))]
            for h in [grown.voted(drawn.people)]
            if enough(int((h == 1).sum()), int((h == 0.5).sum()), int((h == 0).sum()))
            for both in [ppi(h, grown.voted(drawn.judge), drawn.judge.mean(axis=1)).both]
            if both.se
        )
    name = f"people and judge, rho {cell.rho}, every tenth vote"
    return {"of": name, "repetitions": repetitions, "wrong": wrong / repetitions} | asdict(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20_000)
    repetitions = parser.parse_args().repetitions
    exactly = [exact(mix, repetitions) for mix in track(MIXES, "exact")]
    large = [people_alone(repetitions), *(corrected(cell, repetitions // 10) for cell in track(JUDGES, "corrected"))]
    rows = [
        [", ".join(f"{share:.2f}" for share in row["mix"]), f"{row['exact']:.3f}", f"{row['t']:.3f}"]
        + [f"{width['exact']:.2f}, {width['t']:.2f}" for width in row["widths"].values()]
        for row in exactly
    ]
    show("exact", ["losses, ties, wins", "wrong", "t wrong", *(f"width at {n}, t" for n in SIZES)], rows)
    show("large samples", ["", "wrong"], [[row["of"], f"{row['wrong']:.3f}"] for row in large])
    write_results("anytime", {"exact": exactly, "large": large})


if __name__ == "__main__":
    main()
