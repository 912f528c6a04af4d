"""`preftune train`: one run."""

from __future__ import annotations

from .command import Command
from .flags import TRAINING, Parsed


def run(given: Parsed) -> None:
    from ..data import read_ballots
    from ..study import train

    options = dict(given)
    ballots = read_ballots(options.pop("data"))
    if "eval_data" in options:
        options["eval_ballots"] = read_ballots(options.pop("eval_data"))
    run = train(options.pop("method"), ballots, **options)
    if run.record["method"] == "reward":
        from ..preference import quality_table

        print(f"{quality_table(run.record['reward'])}\n\nreward: {run.folder / 'reward'}")
    else:
        print(f"policy: {run.folder / 'policy'}")


COMMAND = Command(
    run,
    "train one policy with one method, or a reward model",
    "preftune train ipo --model MODEL --data FILE --beta 0.1 --out DIR",
    ["model", "data", "out"],
    ["beta", "reference", "reward", "kind", "eval-data", "eval-fraction", "seed", "resume", *TRAINING],
    {"method": "dpo, ipo, amortized-ipo, sft, ppo, rloo or reward"},
)
