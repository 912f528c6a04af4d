"""`preftune train`: one run."""

from __future__ import annotations

from ..methods import METHODS
from .command import Command
from .flags import Parsed
from .reading import READING, read_ballots, reading_of


def run(given: Parsed) -> None:
    """Settle the run, read the ballots, and only then load what trains."""
    from ..study import settle_run

    options = {name: value for name, value in given.items() if name not in reading_of(given)}
    files = {name: options.pop(name) for name in ("data", "eval_data") if name in options}
    settle_run(**{name: value for name, value in options.items() if name not in ("model", "seed", "allow_overlap")})
    ballots = read_ballots(files["data"], given)
    if "eval_data" in files:
        options["eval_ballots"] = read_ballots(files["eval_data"], given)
    _report(options.pop("method"), ballots, options)


def _report(method: str, ballots: object, options: dict[str, object]) -> None:
    from ..study import train

    run = train(method, ballots, **options)  # type: ignore[arg-type]
    if run.record["method"] == "reward":
        from ..preference import quality_table

        print(f"{quality_table(run.record['reward'])}\n\nreward: {run.folder / 'reward'}")
    else:
        print(f"policy: {run.folder / 'policy'}")


def hides(flag: str, method: str) -> bool:
    """Flags that a method has no use for: they are read, so that it can say why, and not shown."""
    if not method:
        return False
    needs = METHODS[method].needs
    unused = {
        "beta": not METHODS[method].uses_reference,
        "reference": method == "reward",
        "reward": not needs,
        "kind": not needs and method != "reward",
    }
    return unused.get(flag, False)


COMMAND = Command(
    run,
    "train one policy with one method, or a reward model",
    "preftune train ipo --model MODEL --data FILE --beta 0.1 --out DIR",
    ["model", "data", "out"],
    ["beta", "reference", "reward", "kind", "eval-data", "eval-fraction", "allow-overlap", *READING, "seed", "resume"],
    {"method": ", ".join(name for name in METHODS if name != "best-of-n")},
    of_method=True,
    hides=hides,
)
