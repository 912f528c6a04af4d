"""All statements of the theory, in its order, with their evidence."""

from __future__ import annotations

import numpy as np

from . import about_amortized, about_dpo, about_ipo
from .statement import Checked

STATEMENTS = (*about_dpo.STATEMENTS, *about_ipo.STATEMENTS, *about_amortized.STATEMENTS)


def check_all(seed: int = 0) -> list[Checked]:
    """Every statement with its evidence, in the order of the theory."""
    return [Checked(s, s.check(np.random.default_rng(seed))) for s in STATEMENTS]
