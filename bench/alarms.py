"""How often does each alarm fire, in healthy training and in broken?

    python -m bench.alarms

Tiny Llamas that have learned how words follow each other learn from votes on such sentences. Every word has a value, a
response that of its words, and votes follow Bradley–Terry on the values, a share of them flipped. Each run is
`preftune train` with votes, an order and held-out votes of its own. *Healthy* runs have a learning rate at which their
method learns; some have labels without any information, some go over the same votes three times. *Broken*: the rate is
many times too high, from the start or at the end of a warm-up that never ends; the training votes are the wrong way
round, which only held-out votes can tell; the loss has the wrong sign. A tiny model often learns at a rate that is far
too high, so those runs are told apart by their loss over the second half: a tenth above the reference's, or not.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.machine import describe_machine, show, write_results
from bench.words import WordWorld, pretrained
from preftune.console import console, track
from preftune.data.ballots import Ballot
from preftune.evidence.alarms import (
    CERTAIN,
    above_chance,
    accuracy_below_half,
    below_half,
    gradient_grew,
    loss_above_reference,
    unmoved,
)
from preftune.evidence.stats import Estimate
from preftune.study.single import train

Counts = dict[str, dict[str, int]]  # by kind, by alarm

TRAINED, HELD_OUT = 320, 200  # ballots
FIRST_SEED = 50_000  # the thresholds were chosen with seeds below this one
BROKEN_SEED = FIRST_SEED + 1000
MODELS = 6
WRONG_SIGN = "preftune.methods.pairwise.target_of"  # what a loss is told in the place of a vote
# of each method and β; at the largest, the last quarter of one pass over clean votes is below the reference's loss
RATES: dict[tuple[str, float | None], tuple[float, ...]] = {
    ("dpo", 0.1): (3e-4, 1e-3, 3e-3),
    ("dpo", 0.5): (1e-4, 3e-4, 1e-3),
    ("ipo", 0.05): (1e-4, 3e-4, 1e-3),
    ("ipo", 0.2): (3e-5, 1e-4, 3e-4),
    ("gpo", 0.1): (3e-4, 1e-3, 3e-3),
    ("gpo", 0.5): (1e-4, 3e-4, 1e-3),
    ("sft", None): (3e-4, 1e-3, 3e-3),
}
LORA_TIMES = 3  # an adapter takes a higher rate
OPTIONS = {"gpo": (("convex", "hinge"),)}
TIMES = (30, 100, 300)  # the largest of these rates: too high


@dataclass(frozen=True)
class Case:
    """One run: how it is trained, on which votes, and what is wrong with it (nothing, if it is healthy)."""

    kind: str
    method: str
    lr: float
    beta: float | None
    seed: int
    noise: float = 0.0
    epochs: int = 1
    lora: int = 0
    warmup: float = 0.1
    options: tuple[tuple[str, Any], ...] = ()


def healthy_cases() -> list[Case]:
    """Every method at its rates and β, with labels from clean to worthless, once or three times over them."""
    cases = []
    grid = product(RATES.items(), (0.0, 0.2, 0.5), (1, 3), (0, 4))
    for ((method, beta), rates), noise, epochs, lora in grid:
        for lr in rates:
            rate = lr * (LORA_TIMES if lora else 1)
            known = {"noise": noise, "epochs": epochs, "lora": lora, "options": OPTIONS.get(method, ())}
            cases.append(Case("healthy", method, rate, beta, FIRST_SEED + len(cases), **known))
    return cases


def broken_cases(each: int = 2) -> list[Case]:
    """A rate far too high, votes the wrong way round, a loss with the wrong sign."""
    cases = []
    pairwise = [(method, beta, rates[-1]) for (method, beta), rates in RATES.items() if beta]
    for warmup, times, (method, beta, rate) in product((0.1, 1.0), TIMES, pairwise):
        kind = "rate too high" if warmup < 1 else "rate rises to far too high"
        known = {"noise": 0.4, "warmup": warmup, "options": OPTIONS.get(method, ())}
        cases += [Case(kind, method, rate * times, beta, BROKEN_SEED + len(cases) + i, **known) for i in range(each)]
    for kind, (method, beta, rate), _ in product(("votes flipped", "wrong sign"), pairwise, range(each)):
        cases.append(Case(kind, method, rate, beta, BROKEN_SEED + len(cases), options=OPTIONS.get(method, ())))
    return cases


# --- one run ----------------------------------------------------------------------------------------------------------


def ballots_of(case: Case) -> tuple[list[Ballot], list[Ballot]]:
    """Training and held-out ballots, of the same noise; where training votes are flipped, held-out ones are not."""
    noise = 1.0 if case.kind == "votes flipped" else case.noise
    world = WordWorld.of(case.seed, TRAINED + HELD_OUT)
    ballots = world.ballots([noise] * TRAINED + [case.noise] * HELD_OUT)
    return ballots[:TRAINED], ballots[TRAINED:]


def run_case(case: Case, model: str, folder: Path) -> dict[str, Any]:
    """Train it; its metrics and what was measured on held-out votes."""
    training, held_out = ballots_of(case)
    settings = {"epochs": float(case.epochs), "batch_size": 8 * case.epochs, "max_length": 32, "device": "cpu"}
    wrong = patch(WRONG_SIGN, lambda p, options: 1 - p) if case.kind == "wrong sign" else nullcontext()
    with wrong, patch.dict(os.environ, PREFTUNE_CACHE=str(folder.with_suffix(".store"))):
        run = train(
            case.method,
            training,
            model=model,
            out=folder,
            beta=case.beta,
            eval_ballots=held_out,
            seed=case.seed,
            lr=case.lr,
            lora=case.lora,
            warmup=case.warmup,
            **settings,
            **dict(case.options),
        )
    return {"metrics": run.metrics, "held_out": run.record["held_out"]}


# --- what fires ---------------------------------------------------------------------------------------------------


def fired(run: Mapping[str, Any]) -> dict[str, bool]:
    """Which alarms a run fires, and whether any."""
    metrics = run["metrics"]
    accuracy, log_loss = (
        Estimate(run["held_out"][name]["value"], run["held_out"][name]["se"]) for name in ("accuracy", "log_loss")
    )
    found = {
        "loss": loss_above_reference(metrics) is not None,
        "gradient": gradient_grew(metrics) is not None,
        "accuracy": accuracy_below_half(metrics) is not None,
        "held-out accuracy": below_half(accuracy, HELD_OUT),
        "held-out log-loss": above_chance(log_loss),
        "unmoved": unmoved(accuracy.value, accuracy.se),
    }
    return found | {"any": any(found.values())}


def told_kind(case: Case, metrics: Sequence[Mapping[str, float]]) -> str:
    """The kind of a run; where its rate was too high, with what came of it."""
    if "rate" not in case.kind:
        return case.kind
    half = metrics[len(metrics) // 2 :]
    loss, reference = (sum(row[name] for row in half) for name in ("loss", "reference_loss"))
    return f"{case.kind}, loss {'stays up' if loss > 1.1 * reference else 'comes down'}"


def measure(cases: Sequence[Case], work: Path, models: int = MODELS) -> Counts:
    """How many runs of each kind there are, and how many fire each alarm."""
    starts = [pretrained(work / f"model{i}", FIRST_SEED + i) for i in range(models)]
    counts: Counts = defaultdict(lambda: defaultdict(int))
    for i, case in enumerate(track(cases, "runs")):
        run = run_case(case, starts[case.seed % models], work / f"run{i}")
        row = counts[told_kind(case, run["metrics"])]
        row["runs"] += 1
        for name, is_on in fired(run).items():
            row[name] += is_on
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    console.quiet = True
    with tempfile.TemporaryDirectory() as work:
        counts = measure([*healthy_cases(), *broken_cases()], Path(work))
    names = list(counts["healthy"])
    rows = [[kind, *(str(row[name]) for name in names)] for kind, row in sorted(counts.items(), key=_healthy_first)]
    show("runs that fire an alarm", ["", *names], rows)
    write_results("alarms", {"machine": describe_machine(), "level": CERTAIN, "counts": counts}, given.out)


def _healthy_first(item: tuple[str, Any]) -> tuple[bool, str]:
    return item[0] != "healthy", item[0]


if __name__ == "__main__":
    main()
