"""`preftune rounds`: sample, have the samples compared, train on that, judge, and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UserError
from ..methods import METHODS
from .command import Command
from .flags import Parsed
from .serving import SERVING, address_of, who_of
from .train import hides

if TYPE_CHECKING:
    from ..rounds import Told

JUDGING = ("judge-template", "judge-model", "judge-budget")
CAPTION = "wins on held-out prompts, ties one half, with 95% intervals over prompts"


def run(given: Parsed) -> None:
    from ..rounds import Pages, run_rounds

    names = [flag.replace("-", "_") for flag in (*JUDGING, *SERVING, "enough")]
    options = {name: value for name, value in given.items() if name not in names}
    judging = {name: given[name] for name in names[: len(JUDGING)] if name in given}
    for flag in (*SERVING, "enough") if given["voter"] != "people" else ():
        if flag in given:
            raise UserError(f"--{flag}: is for people, and --voter {given['voter']} votes; leave it out")
    pages = Pages(address_of(given), who_of(given), given.get("enough", False))
    told, said = run_rounds(**options, judging=judging, pages=pages)
    _print(told)
    print("\n".join(said))


def _print(told: Sequence[Told]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("round", "votes", "KL (nats)", "against", "wins, %", "interval", "prompts", box=box.SIMPLE)
    table.caption = CAPTION
    for row in told:
        kl = "–" if row.kl is None else f"{row.kl:.3f}"
        wins = "–" if row.wins is None else f"{100 * row.wins:.1f}"
        interval = f"{100 * row.low:.1f} to {100 * row.high:.1f}"
        table.add_row(str(row.round), f"{row.votes:,}", kl, row.against, wins, interval, str(row.prompts))
    Console(highlight=False).print(table)


COMMAND = Command(
    run,
    "rounds: sample from the policy, have people or a judge vote, train on that, judge, and again",
    "preftune rounds ipo --model MODEL --prompts FILE --voter people --beta 0.1 --out DIR",
    ["model", "prompts", "voter", "out"],
    [
        "rounds",
        "beta",
        "reference",
        "kind",
        "samples",
        "max-new-tokens",
        "eval-fraction",
        "allow-overlap",
        *JUDGING,
        *SERVING,
        "enough",
        "seed",
    ],
    {"method": ", ".join(name for name in METHODS if name not in ("best-of-n", "reward"))},
    of_method=True,
    hides=hides,
)
