"""The names of runs and of their folders, and what a run's randomness starts from."""

from __future__ import annotations

import hashlib
import re

from ..training import Arm


def condition_name(seed: int, noise: float) -> str:
    """A set of votes in words: its seed, and the noise where there is any."""
    return f"{seed}, noise {noise:g}" if noise else str(seed)


def condition_folder(seed: int, noise: float) -> str:
    """The same as a folder's name: `seed0`, `noise0.2-seed0`."""
    return f"noise{noise:g}-seed{seed}" if noise else f"seed{seed}"


def run_name(arm: Arm, beta: float | None, seed: int, noise: float = 0.0) -> str:
    """A run's id and folder: `ipo-beta0.1-seed0`, `ipo-beta0.1-noise0.2-seed0`, an arm's options in it."""
    parts = [slug(arm.name), f"beta{beta:g}" if beta is not None else "", condition_folder(seed, noise)]
    return "-".join(filter(None, parts))


def run_seed(seed: int, arm: str, beta: float | None) -> int:
    """What is random in the training of a run starts from this: its order of the data, its adapter, its samples.

    Runs of one seed learn from the same votes, and in nothing else are two runs more alike than any other two. It does
    not depend on what else a study compares, so that a study can grow. Rates of label noise share it.
    """
    text = f"{seed}/{arm}/{'' if beta is None else repr(float(beta))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def slug(name: str) -> str:
    """An arm's name as a part of a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
