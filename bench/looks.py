"""Studies that go on until their verdict, simulated: β found by KL, then looks at 3, 6 and 12 seeds on more prompts.

    python -m bench.looks [--studies 2000]

The worlds are those of `bench.calibration`; β is found at the first seed, on the prompts of the first look. A study
ends at the first look where every pair of arms is told apart at what that look may spend (`preftune.study.looks`), or
at the last. `false`: it ended with two equal arms told apart, or in a design with a lead the wrong way; `at .05`: the
same if every look judged at .05; `ended`: the share of studies at each look; `power`: how often a lead was found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.calibration import PLAIN, Design, Simulated, World
from bench.machine import RESULTS, show
from preftune.evidence import conclusion, frontiers
from preftune.evidence.comparisons import LEVEL, corrected
from preftune.evidence.frontiers import PerPrompt
from preftune.study.looks import Look, schedule

FIRST, ALL = 64, 256  # evaluation prompts of the first look, and of the last
LOOKS = schedule(FIRST, ALL)
BASE = replace(PLAIN, seeds=LOOKS[-1].seeds, prompts=ALL, reach=(1.0, 0.5), search=True)
DESIGNS = [
    replace(BASE, name="one arm as far at a fifth"),
    replace(BASE, name="run sd 0", run_sd=(0.0,)),
    replace(BASE, name="run sd .15", run_sd=(0.15,)),
    replace(BASE, name="run sd .25 and .02", run_sd=(0.25, 0.02)),
    replace(BASE, name="much luck in KL", luck=0.25),
    replace(BASE, name="80% shared", shared=0.8, run_sd=(0.1,)),
    replace(BASE, name="arm x prompt effect .8", prompt_sd=0.8),
    replace(BASE, name="saturating curves", curve="saturating"),
    replace(BASE, name="four arms", arms=4),
    replace(BASE, name="a lead of .15", lead=0.15),
    replace(BASE, name="a lead of .3", lead=0.3),
]


class Searched(World):
    """A world whose search for β knows the KL on the prompts of the first look alone."""

    def run(self, arm: int, seed: int, beta: float, start: float) -> float:
        super().run(arm, seed, beta, start)
        return float(self.kls[-1][:FIRST].mean())


def draw(design: Design, seed: int) -> Simulated:
    """A study with the runs of all looks."""
    world = Searched(design, np.random.default_rng([seed, *design.name.encode()]))
    world.search()
    return world.study()


def seen_at(study: Simulated, look: Look, alpha: float) -> list[tuple[bool, bool]]:
    """(told apart, told wrongly) of every pair, from the seeds and prompts that a look has."""
    rows = [i for i, point in enumerate(study.points) if point.seed < look.seeds]
    table = PerPrompt(study.table.kl[rows, : look.prompts], study.table.gain[rows, : look.prompts])
    means = zip(rows, table.kl.mean(1).tolist(), table.gain.mean(1).tolist(), strict=True)
    points = frontiers.with_units(replace(study.points[i], kl=kl, gain=gain) for i, kl, gain in means)
    arms = [str(arm) for arm in range(study.design.arms)]
    found = []
    for pair in corrected(conclusion.conclusions(points, table, arms)[1], alpha):
        truth = study.truth(pair)
        wrong = pair.distinct and pair.difference is not None and (truth == 0 or pair.difference.value * truth < 0)
        found.append((pair.distinct, bool(wrong)))
    return found


def ended(study: Simulated, alphas: Sequence[float]) -> tuple[int, list[tuple[bool, bool]]]:
    """The look at which a study ends, from 1, and what it says there."""
    *before, last = enumerate(zip(LOOKS, alphas, strict=True), start=1)
    for number, (look, alpha) in before:
        found = seen_at(study, look, alpha)
        if all(distinct for distinct, _ in found):
            return number, found
    return last[0], seen_at(study, *last[1])


def judge(design: Design, seed: int) -> tuple[int, bool, bool, bool]:
    """(the look at which it ended, ended wrongly, ended wrongly at .05 a look, the first arm told from all others)."""
    study = draw(design, seed)
    number, found = ended(study, [look.alpha for look in LOOKS])
    careless = ended(study, [LEVEL] * len(LOOKS))[1]
    first = found[: design.arms - 1]
    return number, any(w for _, w in found), any(w for _, w in careless), all(d and not w for d, w in first)


def measure(design: Design, studies: int) -> dict[str, Any]:
    """The rates of a design."""
    rows = [judge(design, seed) for seed in range(studies)]
    at, false, careless, power = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "design": asdict(design),
        "studies": studies,
        "false": float(false.mean()),
        "false_at_05": float(careless.mean()),
        "ended": [float((at == number).mean()) for number in range(1, len(LOOKS) + 1)],
        "power": float(power.mean()) if design.lead else None,
    }


def table_row(row: dict[str, Any]) -> list[str]:
    """A design's rates as text."""
    power = "" if row["power"] is None else f"{row['power']:.2f}"
    shares = " ".join(f"{share:.2f}" for share in row["ended"])
    return [row["design"]["name"], f"{row['false']:.3f}", f"{row['false_at_05']:.3f}", shares, power]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "looks.json")
    given = parser.parse_args()
    with ProcessPoolExecutor(given.workers) as pool:
        rows = list(pool.map(partial(measure, studies=given.studies), DESIGNS))
    given.out.write_text(json.dumps(rows, indent=1) + "\n")
    show(
        f"{given.studies} studies a row", ["", "false", "at .05", "ended at look", "power"], list(map(table_row, rows))
    )


if __name__ == "__main__":
    main()
