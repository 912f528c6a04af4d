"""What the benchmarks are run on: the embedded experiment's model, and ballots drawn from a file."""

import random
from pathlib import Path

from preftune.console import say
from preftune.data.ballots import Ballot
from preftune.data.reading import read_ballots
from preftune.demo.downloads import fetch_assets
from preftune.model.gguf import convert_model
from preftune.model.stores import cache_folder


def default_model() -> str:
    """The folder of SmolLM2-135M-Instruct, where `preftune demo` keeps it; downloaded and converted where it is not."""
    cache = cache_folder() / "demo"
    folder = cache / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        say(f"getting the model of `preftune demo` ready in {folder}")
        convert_model(fetch_assets(cache).gguf, folder)
    return str(folder)


def training_ballots(path: Path | str, count: int, seed: int) -> tuple[Ballot, ...]:
    """`count` ballots of a preference file in random order, a function of the file and the seed."""
    return tuple(random.Random(f"{seed}/ballots").sample(read_ballots(path).ballots, count))
