"""How often a property is tried: in the suite on the same examples always, in `make fuzz` on many random ones."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("FUZZ") or 0)  # `make fuzz`: how many times as many examples


def tried(examples: int, **how: Any) -> settings:
    """The settings of a property that the suite tries on so many examples."""
    return settings(max_examples=examples * max(FUZZ, 1), **how)


def load_profile() -> None:
    """Neither the clock nor an earlier run decides whether a test passes: a busy machine is no failure."""
    name = "fuzz" if FUZZ else "suite"
    steady = tried(100, derandomize=not FUZZ, database=None, deadline=None, print_blob=bool(FUZZ))
    settings.register_profile(name, steady, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile(name)
