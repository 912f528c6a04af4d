"""Every flag, declared once: it means the same wherever it occurs.

Settings and the options of methods are declared where they are read (`training.Settings`, one file a method); here they
become flags. What else a command takes is declared below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from ..errors import UserError
from ..methods import METHODS, flag, help_of, is_switch, kind_of, listed, names_of, whose
from ..training import Settings

Parsed = Mapping[str, Any]


@dataclass(frozen=True)
class Flag:
    """A flag: the type of its value, what it is for; a switch has no value, one of `many` may be given repeatedly."""

    kind: Any
    text: str
    switch: bool = False
    many: bool = False


def numbers(kind: type) -> Callable[[Any], list[Any]]:
    """A list of numbers from `0.05,0.1`, a YAML list or a single number."""

    def parse(value: Any) -> list[Any]:
        parts = value if isinstance(value, list) else str(value).split(",")
        return [kind(part) for part in parts]

    parse.__name__ = f"{kind.__name__},..."
    return parse


def betas(value: Any) -> Any:
    """Strengths of the KL term, or `auto`."""
    return value if value == "auto" else numbers(float)(value)


betas.__name__ = "float,...|auto"


def rate(value: Any) -> float | str:
    """A learning rate, or `auto`, which `compare` takes. Raises UserError for anything else."""
    try:
        return "auto" if value == "auto" else float(value)
    except (TypeError, ValueError):
        raise UserError(f"--lr {value}: must be a number, or auto for compare") from None


def arms(value: Any) -> str:
    """Arms as one text, from `dpo,ipo` or a YAML list."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# A flag that is left out takes the default of the library, which the help states.
OWN: dict[str, Flag] = {
    "model": Flag(str, "folder, GGUF file or hub name to start from"),
    "reference": Flag(str, "model to stay close to (default: --model)"),
    "data": Flag(str, "JSONL, JSON, CSV, Parquet, Arrow (.gz), a folder of them, or hub data set"),
    "eval-data": Flag(str, "ballots to evaluate on (compare: part of --data)"),
    "eval-fraction": Flag(float, "share held out (default 0.1; train 0; rounds 0.2)"),
    "prompts": Flag(str, "file of prompts to sample from (default: held-out prompts)"),
    "eval-prompts": Flag(int, "hold out, and sample from, at most so many prompts (default: 64)"),
    "out": Flag(str, "folder to write (lab, report --compare: file)"),
    "methods": Flag(arms, "arms to compare, such as dpo,ipo,ipo[reduction=mean]"),
    "beta": Flag(float, "strength of the KL term"),
    "betas": Flag(betas, "strengths of the KL term, such as 0.05,0.1 (default: auto, found for each arm by KL)"),
    "seeds": Flag(numbers(int), "seeds, such as 0,1,2: one run of every arm and beta each (default: 0)"),
    "label-noise": Flag(numbers(float), "rates at which training votes are flipped, such as 0,0.2 (default: 0)"),
    "votes-per-prompt": Flag(int, "train on at most so many votes of each prompt (default: all)"),
    "validation-fraction": Flag(float, "share of the training prompts that only measures a log-loss (default: 0)"),
    "seed": Flag(int, "seed of data order, adapters, samples (default: 0)"),
    "max-new-tokens": Flag(int, "tokens of a sampled response (default: 64)"),
    "samples": Flag(int, "sampled responses per prompt (default: 1; label, arena, rounds: 2)"),
    "checkpoints": Flag(int, "evaluations per run, evenly spaced (default: 3)"),
    "until": Flag(str, "verdict: look after 3, 6 and 12 seeds, until all arms are told apart"),
    "hours": Flag(float, "with --until: begin no look that would end later than this"),
    "kind": Flag(
        str,
        "reward model: full, lora, or frozen for small machines (default: full, with --lora lora; "
        "amortized-ipo: frozen)",
    ),
    "judge": Flag(
        str,
        "who says which of two responses is better: reward, reward:DIR, model:DIR, or the address of an endpoint; "
        "several --judge: the first one answers",
        many=True,
    ),
    "judge-fraction": Flag(float, "--judge reward: share of training prompts that only it learns from (default: 0.3)"),
    "judge-template": Flag(str, "file with $prompt, $first and $second: what a judge that reads is asked"),
    "judge-model": Flag(str, "the model that is asked at an endpoint"),
    "judge-budget": Flag(str, "what an endpoint may be asked, such as 2000 calls or 500000tokens (default: no limit)"),
    "pairs": Flag(str, "write blind pairs of samples for people to vote on, a JSON line each"),
    "human-votes": Flag(str, "votes of people on those pairs, which correct the judge"),
    "by": Flag(str, "who votes, where it is one person (default: the page asks)"),
    "against": Flag(str, "arms: two arms meet, at about the same KL (default); reference: run ends meet it"),
    "next": Flag(str, "which pair comes next: random (default), or unsure: mostly where a fit to the votes is"),
    "host": Flag(str, "address to serve on for others who have the link, without TLS (default: this machine)"),
    "port": Flag(int, "port to serve on (default: 8787)"),
    "overlap": Flag(float, "share of the pairs that everybody is asked about (default: 0.2)"),
    "rounds": Flag(int, "how many rounds (default: 3)"),
    "voter": Flag(str, "who compares samples: people, reward:DIR, model:DIR, or the address of an endpoint"),
    "enough": Flag(bool, "go on with the votes that people gave, though pairs are left", switch=True),
    "executor": Flag(str, "who makes the runs: local, ray or slurm (default: local)"),
    "workers": Flag(int, "runs at a time on this machine, each with its share of the cores (default: 1)"),
    "address": Flag(str, "--executor ray: where it runs, such as HOST:6379 (default: one that is found, or started)"),
    "resources": Flag(
        str, "--executor ray, slurm: for each run, such as gpu=1,cpu=4 (default: cpu=1; slurm: hours=24)"
    ),
    "reward": Flag(str, "folder of a reward model (default: one is fitted to the same votes)"),
    "prompt": Flag(str, "a prompt, as text"),
    "size": Flag(str, "default, or full for a larger grid"),
    "columns": Flag(str, "which column is what, such as prompt=question,chosen=best,rejected=worst"),
    "score-gap": Flag(float, "scores of one prompt that differ by no more are a tie (default: 0)"),
    "skip-bad": Flag(bool, "leave out rows that cannot be read, and count them (default: false)", switch=True),
    "preview": Flag(int, "show how the first N rows are read, and write nothing"),
    "merge-prompts": Flag(bool, "one ballot per prompt: responses joined, votes pooled (default: false)", switch=True),
    "strict": Flag(bool, "exit 1 if there is a warning or an error", switch=True),
    "html": Flag(str, "file to write what was found to, as a page"),
    "quick": Flag(bool, "fewer steps and seeds: a look, no result (default: false)", switch=True),
    "compare": Flag(bool, "two studies of the same data beside each other (--out: comparison.html)", switch=True),
    "json": Flag(bool, "print JSON instead: what was found, a study's verdict.json", switch=True),
    "md": Flag(bool, "print a summary for a pull request instead", switch=True),
    "allow-overlap": Flag(bool, "prompts that were trained on: a caveat, no error", switch=True),
    "resume": Flag(bool, "go on with an interrupted run", switch=True),
    "stores": Flag(
        bool,
        "stored reference log-probs and features, a sample computed anew (what is checked by default)",
        switch=True,
    ),
}
# Positional arguments that may be many, or none.
NARGS: dict[str, Any] = {"folders": "+", "what": "?", "out_file": "?", "name": "?"}


def declared(name: str, method: str = "") -> Flag | None:
    """The flag of a setting, or of an option: of a method, or of whichever methods have it, named; None for neither."""
    for option in fields(Settings):
        if option.name == name:
            return _flag_of(option, "")
    owners = [method] if method else whose(name)
    options = [option for owner in owners for option in fields(METHODS[owner].options) if option.name == name]
    return _flag_of(options[0], "" if method else f"{listed(owners)}: ") if options else None


def _flag_of(option: Field[Any], before: str) -> Flag:
    kind = rate if option.name == "lr" else kind_of(option)
    return Flag(kind, before + help_of(option), is_switch(option))


def find_flag(name: str, method: str = "") -> Flag:
    """The flag of that name: of a command, a setting or a method's option."""
    found = OWN.get(name) if not method else None
    found = found or declared(name.replace("-", "_"), method) or OWN[name]
    return found


def settings_flags() -> list[str]:
    """The flags of what all methods share."""
    return [flag(name) for name in names_of(Settings)]


def option_flags(methods: Iterable[str]) -> list[str]:
    """The flags of the options of some methods, each once."""
    return list(dict.fromkeys(flag(name) for method in methods for name in names_of(METHODS[method].options)))


def all_flags() -> list[str]:
    """The names of all flags."""
    return list(dict.fromkeys([*OWN, *settings_flags(), *option_flags(METHODS)]))
