"""The error rates of the verdict on made-up studies whose truth is known: coverage, false verdicts, width, silence.

    python -m bench.calibration [--studies 1000] [--designs "win rate"] [--forms]

A study is runs of some arms. Each ends at a distance d = √KL that luck moves, with a gain f(d) plus a random slope of
its run, an effect of each prompt that the arm's runs share, and the noise of samples. Half-way it has a checkpoint,
which lies below the frontier in the first arm and on it in the others. In designs called "win rate" gain is what a
judge says of a pair, F in {0, ¼, ½, ¾, 1}, minus ½: it saturates below ½, and its noise is that of verdicts. The
verdict's own code fits and compares. Truth is the difference of the curves at the place where it compares (conditional
on what the runs of one seed share, where there is one seed).

A design's rates are over the pairs that were compared; `speaks` is how often they were, `false` how often a study told
any two arms apart that are equal (or, in a design with a lead, the wrong way), `half / sd` the median half-width of the
95% interval over the standard deviation of its error (1.96 would be ideal). Of several pairs, `coverage` and
`half / sd` are those of the pair that has the worst. Finished designs are kept in the JSON and not done again.

`--designs` takes those whose name holds a text. `--forms` compares forms that might be fitted, on curves that are of
none of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.special import betaincinv, ndtr

from bench.machine import RESULTS, show
from preftune.evidence import conclusion, frontiers, regression
from preftune.evidence.comparisons import Comparison, corrected
from preftune.evidence.frontiers import PerPrompt, Point
from preftune.evidence.stats import Floats
from preftune.study.beta_search import START, search_betas

HEAD = ["", "speaks", "coverage", "(99%)", "false", "power", "half / sd", "bias"]
FARTHEST = 2.2  # d of the smallest β: there a run's slope has its standard deviation
SAMPLE_NOISE, SAMPLES = 0.8, 2
WIN_RATES: Mapping[str, Callable[[Floats], Floats]] = {
    "win rate": lambda d: 0.3 * np.tanh(d / 1.2),
    "win rate, early": lambda d: 0.4 * (1 - np.exp(-d / 0.6)),
}
CURVES: Mapping[str, Callable[[Floats], Floats]] = {
    "fitted": lambda d: d * (0.5 - 0.08 * d),
    "saturating": lambda d: 0.9 * (1 - np.exp(-d / 1.2)),
    "logarithmic": lambda d: d * (0.45 - 0.15 * np.log(np.maximum(d, 1e-9))),
    **WIN_RATES,
}


@dataclass(frozen=True)
class Design:
    """A kind of study. `run_sd`: of a run's gain at the far end, arm by arm; `shared`: the share of its variance that
    the runs of a seed have in common (as where they learn from one fitted reward model); `prompt_sd`: of the effect of
    an arm on a prompt, of a win rate p as a part of √(p(1 − p)); `reach`: how far the arms go, of d from `nearest` to
    the far end; `luck`: of log d; `lead`: by how much the first arm is better at the far end; `search`: β is found by
    KL."""

    name: str
    seeds: int = 3
    betas: int = 2
    run_sd: tuple[float, ...] = (0.05,)
    shared: float = 0.0
    prompts: int = 64
    prompt_sd: float = 0.4
    reach: tuple[float, ...] = (1.0,)
    curve: str = "fitted"
    luck: float = 0.1
    nearest: float = 0.55
    search: bool = False
    arms: int = 2
    lead: float = 0.0


PLAIN = Design("")
JUDGED = replace(PLAIN, curve="win rate")
EARLY = replace(PLAIN, curve="win rate, early")
DESIGNS = [
    *(
        replace(PLAIN, name=f"{seeds} x {betas}, run sd {sd}", seeds=seeds, betas=betas, run_sd=(sd,))
        for seeds, betas in ((1, 5), (2, 2), (3, 2), (5, 2))
        for sd in (0.0, 0.05, 0.15)
    ),
    *(
        replace(
            PLAIN,
            name=f"{seeds} x {betas}, {shared:.0%} shared",
            seeds=seeds,
            betas=betas,
            shared=shared,
            run_sd=(0.1,),
        )
        for seeds, betas in ((1, 5), (3, 2), (5, 2))
        for shared in (0.5, 0.8)
    ),
    replace(PLAIN, name="5 x 5, 80% shared, 256 prompts", seeds=5, betas=5, shared=0.8, run_sd=(0.15,), prompts=256),
    replace(PLAIN, name="2 x 2, run sd .3, 256 prompts", seeds=2, run_sd=(0.3,), prompts=256),
    replace(PLAIN, name="unequal run sd, .25 and .02", run_sd=(0.25, 0.02)),
    replace(PLAIN, name="unequal run sd, 5 x 2", run_sd=(0.25, 0.02), seeds=5),
    replace(PLAIN, name="12 x 2, unequal run sd, much luck in KL", run_sd=(0.25, 0.02), seeds=12, luck=0.2),
    replace(PLAIN, name="no arm x prompt effect", prompt_sd=0.0),
    replace(PLAIN, name="arm x prompt effect .8", prompt_sd=0.8),
    replace(PLAIN, name="256 prompts", prompts=256),
    replace(PLAIN, name="256 prompts, 2 x 2", prompts=256, seeds=2),
    replace(PLAIN, name="arms that reach different KL", reach=(1.0, 0.75)),
    replace(PLAIN, name="arms that reach different KL, 1 x 5", reach=(1.0, 0.75), seeds=1, betas=5),
    replace(PLAIN, name="saturating curves", curve="saturating"),
    replace(PLAIN, name="saturating, different KL", curve="saturating", reach=(1.0, 0.8)),
    replace(PLAIN, name="logarithmic curves, 1 x 5", curve="logarithmic", seeds=1, betas=5),
    replace(PLAIN, name="much luck in KL", luck=0.25),
    replace(PLAIN, name="beta found by KL, one arm as far at a fifth", reach=(1.0, 0.5), search=True, seeds=2),
    replace(PLAIN, name="beta found by KL, much luck", reach=(1.0, 0.5), search=True, seeds=2, luck=0.2),
    replace(PLAIN, name="beta found by KL, one seed", reach=(1.0, 0.5), search=True, seeds=1),
    replace(PLAIN, name="beta found by KL, run sd .15", reach=(1.0, 0.5), search=True, seeds=3, run_sd=(0.15,)),
    replace(PLAIN, name="ends at d 1.4 and 2.2", nearest=1.4),
    replace(PLAIN, name="ends at d 1.8 and 2.2", nearest=1.8),
    replace(PLAIN, name="ends at d 2.1 and 2.2", nearest=2.1),
    replace(PLAIN, name="saturating, ends at d 1.8 and 2.2", curve="saturating", nearest=1.8),
    replace(PLAIN, name="5 x 6, as many runs as half of the prompts", seeds=5, betas=6),
    replace(PLAIN, name="four arms", arms=4),
    replace(PLAIN, name="four arms, one with run sd .25", arms=4, run_sd=(0.25, 0.02, 0.02, 0.02), prompts=256),
    replace(PLAIN, name="four arms, 1 x 5", arms=4, seeds=1, betas=5),
    replace(PLAIN, name="four arms, a lead of .3", arms=4, lead=0.3, run_sd=(0.05,)),
    replace(PLAIN, name="a lead of .3", lead=0.3),
    replace(PLAIN, name="a lead of .3, 5 x 2, 256 prompts", lead=0.3, seeds=5, prompts=256),
    replace(JUDGED, name="win rate"),
    replace(JUDGED, name="win rate, run sd 0", run_sd=(0.0,)),
    replace(JUDGED, name="win rate, 2 x 2, run sd .1", seeds=2, run_sd=(0.1,)),
    replace(JUDGED, name="win rate, 1 x 5", seeds=1, betas=5),
    replace(JUDGED, name="win rate, 5 x 2, 256 prompts", seeds=5, prompts=256),
    replace(JUDGED, name="win rate, 80% shared", shared=0.8),
    replace(JUDGED, name="win rate, unequal run sd, .15 and .02", run_sd=(0.15, 0.02)),
    replace(JUDGED, name="win rate, arm x prompt effect .8", prompt_sd=0.8),
    replace(JUDGED, name="win rate, different KL", reach=(1.0, 0.75)),
    replace(JUDGED, name="win rate, beta found by KL", reach=(1.0, 0.5), search=True, seeds=2),
    replace(JUDGED, name="win rate, four arms", arms=4),
    replace(EARLY, name="win rate, early", run_sd=(0.02,)),
    replace(EARLY, name="win rate, early, 1 x 5, different KL", seeds=1, betas=5, reach=(1.0, 0.75), run_sd=(0.02,)),
    replace(EARLY, name="win rate, early, different KL, 256 prompts", reach=(1.0, 0.75), prompts=256, run_sd=(0.02,)),
    replace(EARLY, name="win rate, early, ends at d 1.8 and 2.2", nearest=1.8, run_sd=(0.02,)),
    replace(JUDGED, name="win rate, a lead of .1, 5 x 2, 256 prompts", lead=0.1, seeds=5, prompts=256),
]


@dataclass(frozen=True)
class Simulated:
    """The points of a study, their means per prompt, and what the runs of the only seed share, by arm."""

    design: Design
    points: list[Point]
    table: PerPrompt
    common: Mapping[str, float]

    def truth(self, pair: Comparison) -> float:
        """The true difference of two frontiers where they were compared."""
        lead = self.design.lead / FARTHEST * ((pair.a == "0") - (pair.b == "0"))
        return math.sqrt(pair.kl or 0.0) * (lead + self.common.get(pair.a, 0.0) - self.common.get(pair.b, 0.0))


FORMS: Mapping[str, Callable[[Floats], Floats]] = {
    "d, d^2": lambda d: -(d**2),
    "d, d^1.5": lambda d: -(d**1.5),
    "d, d log d": lambda d: -d * np.log(np.maximum(d, 1e-9)),
    "d, d^3": lambda d: -(d**3),
}
OTHER_CURVES = [
    replace(PLAIN, name=f"{curve}, {seeds} x {betas}", curve=curve, seeds=seeds, betas=betas, reach=reach, prompts=256)
    for curve in ("saturating", "logarithmic")
    for seeds, betas, reach in ((3, 2, (1.0, 0.7)), (1, 5, (1.0, 0.7)))
]


class World:
    """Draws runs one by one: the points of each, their means per prompt, and what the runs of an only seed share."""

    def __init__(self, design: Design, rng: np.random.Generator) -> None:
        self.design, self.rng = design, rng
        self.points: list[Point] = []
        self.kls: list[Floats] = []
        self.gains: list[Floats] = []
        self.tastes: dict[int, Floats] = {}
        self.of_seed: dict[tuple[int, int], float] = {}

    def run(self, arm: int, seed: int, beta: float, start: float) -> float:
        """A run that ends near d = `start`; its KL."""
        design, rng = self.design, self.rng
        if arm not in self.tastes:
            self.tastes[arm] = rng.normal(0, design.prompt_sd, design.prompts)
        if (arm, seed) not in self.of_seed:
            self.of_seed[arm, seed] = float(rng.normal())
        slope_sd = design.run_sd[arm % len(design.run_sd)] / FARTHEST
        reach, lead = design.reach[arm % len(design.reach)], design.lead * (arm == 0) / FARTHEST
        own = math.sqrt(design.shared) * self.of_seed[arm, seed] + math.sqrt(1 - design.shared) * rng.normal()
        end = start * reach * math.exp(design.luck * (0.9 * own + math.sqrt(0.19) * rng.normal()))
        for step, d in ((1, end / 2), (2, end)):
            gain = float(CURVES[design.curve](np.array(d))) + (lead + slope_sd * own) * d
            gain *= 0.6 if step == 1 and arm == 0 else 1.0
            self.kls.append(d**2 * rng.gamma(4, 0.25, design.prompts))
            self.gains.append(self.gains_of(gain, arm, d / FARTHEST))
            where = Point(f"{arm}-{seed}-{beta:.4g}", str(arm), beta, seed, step, 0.0, None, 0.0, None)
            mean = replace(where, kl=float(self.kls[-1].mean()), gain=float(self.gains[-1].mean()))
            self.points.append(replace(mean, end=step == 2, shares=design.shared > 0))
        return float(self.kls[-1].mean())

    def gains_of(self, gain: float, arm: int, far: float) -> Floats:
        """The mean gain of a run's samples on each prompt."""
        if self.design.curve in WIN_RATES:
            return self.verdicts(min(max(0.5 + gain, 0.02), 0.98), self.tastes[arm]) - 0.5
        noise = self.rng.normal(0, SAMPLE_NOISE / math.sqrt(SAMPLES), self.design.prompts)
        return np.asarray(gain + self.tastes[arm] * far + noise)

    def verdicts(self, rate: float, taste: Floats) -> Floats:
        """F on each prompt: its chance is a quantile of a Beta distribution, so that the mean is `rate` and what an arm
        does to a prompt is common to its runs; half of the pairs are clear, half take each of four parts of F anew."""
        size = 1 / self.design.prompt_sd**2 - 1
        chance = betaincinv(rate * size, (1 - rate) * size, ndtr(taste / self.design.prompt_sd))
        shape = (SAMPLES, self.design.prompts)
        clear = self.rng.random(shape) < 0.5
        of_pairs = np.where(clear, self.rng.random(shape) < chance, self.rng.binomial(4, chance, shape) / 4)
        return np.asarray(of_pairs.mean(axis=0))

    def search(self) -> None:
        """β found by KL at the first seed (`beta_search`), then every other seed at what was found."""
        found = search_betas(
            [str(arm) for arm in range(self.design.arms)],
            lambda some: [self.run(int(arm), 0, beta, (beta / START) ** -0.4) for arm, beta in some],
            alone=self.design.seeds == 1,
        )
        for arm, betas in found.chosen.items():
            for seed, beta in itertools.product(range(1, self.design.seeds), betas):
                self.run(int(arm), seed, beta, (beta / START) ** -0.4)

    def study(self) -> Simulated:
        """What was drawn."""
        sd = [self.design.run_sd[arm % len(self.design.run_sd)] / FARTHEST for arm in range(self.design.arms)]
        common = {str(arm): sd[arm] * math.sqrt(self.design.shared) * of for (arm, _), of in self.of_seed.items()}
        table = PerPrompt(np.array(self.kls), np.array(self.gains))
        return Simulated(
            self.design, frontiers.with_units(self.points), table, common if self.design.seeds == 1 else {}
        )


def draw(design: Design, rng: np.random.Generator) -> Simulated:
    """A study of this design."""
    world = World(design, rng)
    if design.search:
        world.search()
        return world.study()
    for arm, seed in itertools.product(range(design.arms), range(design.seeds)):
        for start in np.geomspace(design.nearest, FARTHEST, design.betas).tolist():
            world.run(arm, seed, start, start)
    return world.study()


def judge(design: Design, seed: int) -> list[list[float]]:
    """(estimate − truth, half-width at 95%, truth is in the 95% interval, told apart, told the wrong way) of each
    pair of arms, in one order; not a number where it is not compared."""
    study = draw(design, np.random.default_rng([seed, *design.name.encode()]))
    rows = []
    arms = [str(arm) for arm in range(design.arms)]
    for pair in corrected(conclusion.conclusions(study.points, study.table, arms)[1]):
        if pair.difference is None:
            rows.append([math.nan] * 5)
            continue
        truth = study.truth(pair)
        error, half = pair.difference.value - truth, pair.difference.half_width()
        wrong = pair.distinct and (truth == 0 or pair.difference.value * truth < 0)
        rows.append([error, half, float(abs(error) <= half), float(pair.distinct), float(wrong)])
    return rows


def measure(design: Design, studies: int) -> dict[str, Any]:
    """The rates of a design, with the 99% interval of its coverage."""
    found = np.array([judge(design, seed) for seed in range(studies)])  # [studies, pairs, 5]
    pairs = [found[~np.isnan(found[:, i, 0]), i] for i in range(found.shape[1])]
    coverages = [float(rows[:, 2].mean()) for rows in pairs]
    coverage, count = min(coverages), min(map(len, pairs))
    half = 2.576 * math.sqrt(coverage * (1 - coverage) / count)
    known = (design.lead == 0 and (design.seeds > 1 or not design.shared)) or design.lead > 0
    return {
        "design": asdict(design),
        "studies": studies,
        "speaks": count / studies,
        "coverage": coverage,
        "coverage_99": [coverage - half, coverage + half],
        "false": float((found[:, :, 4] == 1).any(axis=1).mean()) if known else None,
        "power": float(np.nanmean(found[:, : design.arms - 1, 3])) if design.lead else None,
        "half_over_sd": max(float(np.median(rows[:, 1]) / rows[:, 0].std()) for rows in pairs),
        "bias": max((float(rows[:, 0].mean()) for rows in pairs), key=abs),
    }


def measure_form(form: str, design: Design, studies: int) -> dict[str, Any]:
    """The rates of a design if gain were fitted as linear in d and in another term."""

    def terms(d: Floats, curved: bool) -> Floats:
        return np.stack([d, FORMS[form](d)], axis=-1) if curved else d[..., None]

    with mock.patch.object(regression, "terms", terms):
        return {"form": form} | measure(design, studies)


def compare_forms(studies: int, workers: int, out: Path) -> None:
    """A table of forms on curves that are not of them."""
    cases = list(itertools.product(FORMS, OTHER_CURVES))
    with ProcessPoolExecutor(workers) as pool:
        rows = list(pool.map(partial(measure_form, studies=studies), *zip(*cases, strict=True)))
    out.write_text(json.dumps(rows, indent=1) + "\n")
    show(f"{studies} studies a row", ["form", *HEAD], [[row["form"], *table_row(row)] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "calibration.json")
    parser.add_argument("--designs", default="", help="those whose name holds this")
    parser.add_argument("--forms", action="store_true")
    given = parser.parse_args()
    if given.forms:
        compare_forms(given.studies, given.workers, given.out.with_stem(given.out.stem + "-forms"))
        return
    kept = json.loads(given.out.read_text()) if given.out.exists() else []
    done = {json.dumps(row["design"]): row for row in kept if row["studies"] == given.studies}
    chosen = [design for design in DESIGNS if given.designs in design.name]
    left = [design for design in chosen if json.dumps(asdict(design)) not in done]
    with ProcessPoolExecutor(given.workers) as pool:
        for design, row in zip(left, pool.map(partial(measure, studies=given.studies), left), strict=True):
            print(design.name, file=sys.stderr)
            done[json.dumps(asdict(design))] = row
            ordered = [done[key] for d in DESIGNS if (key := json.dumps(asdict(d))) in done]
            given.out.write_text(json.dumps(ordered, indent=1) + "\n")
    show(f"{given.studies} studies a row", HEAD, [table_row(done[json.dumps(asdict(design))]) for design in chosen])


def table_row(row: Mapping[str, Any]) -> list[str]:
    """A design's rates as text."""
    low, high = row["coverage_99"]
    power = "" if row["power"] is None else f"{row['power']:.2f}"
    shown = "" if row["false"] is None else f"{row['false']:.3f}"
    return [
        row["design"]["name"],
        f"{row['speaks']:.2f}",
        f"{row['coverage']:.3f}",
        f"{low:.3f}-{high:.3f}",
        shown,
        power,
        f"{row['half_over_sd']:.2f}",
        f"{row['bias']:+.3f}",
    ]


if __name__ == "__main__":
    main()
