"""The names of runs and of their folders."""

from __future__ import annotations

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


def slug(name: str) -> str:
    """An arm's name as a part of a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
