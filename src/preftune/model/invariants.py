"""What must hold when training starts; a run that breaks it stops with one line instead of going on silently wrong.

Shapes: B responses.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..console import say
from ..errors import UserError

# Nats per response of up to LONG tokens: far above what rounding leaves, far below what a wrong reference makes.
# Rounding adds up as the root of the length.
BOUNDS = {"fp32": 1e-3, "bf16": 0.1}
LONG = 256


@dataclass
class StartCheck:
    """Holds the log-ratios of a fresh run's first step to their definition: 0, where the reference is the start.

    `left` are the micro-batches of that step, `computed` the responses whose reference log-prob was computed by this
    run in the same micro-batch, where 0 means exactly 0. With another reference the mean log-ratio is said instead.
    """

    is_start: bool
    precision: str
    left: set[Any]
    computed: Collection[bytes] = ()
    source: str = "the reference"
    ratios: list[float] = field(default_factory=list)

    def see(self, micro_batch: Any, keys: Sequence[bytes], log_ratio_B: Tensor, length_B: Tensor) -> None:
        """Look at a micro-batch, if it is one of the first step. Raises UserError for a log-ratio that cannot be."""
        if micro_batch not in self.left:
            return
        self.left.discard(micro_batch)
        ratios = log_ratio_B.detach().tolist()
        if self.is_start:
            exact = [key in self.computed for key in keys]
            _check(ratios, length_B.tolist(), exact, self.precision, self.source)
            return
        self.ratios += ratios
        if not self.left:
            mean = sum(self.ratios) / len(self.ratios)
            say(f"the policy starts {mean:.4g} nats from the reference (mean log-ratio of the first step's responses)")


def bound(precision: str, length: float) -> float:
    """How far, in nats, two computations of the log-prob of a response of that many tokens may lie apart."""
    return BOUNDS[precision] * math.sqrt(max(1.0, length / LONG))


def _check(
    ratios: Sequence[float], lengths: Sequence[float], exact: Sequence[bool], precision: str, source: str
) -> None:
    for ratio, length, is_exact in zip(ratios, lengths, exact, strict=True):
        allowed = 0.0 if is_exact else bound(precision, length)
        if not abs(ratio) <= allowed:
            raise UserError(
                f"step 1: a policy that has not moved has a log-ratio of {ratio:.4g} nats, and may have {allowed:.2g}: "
                f"{source} is wrong; preftune doctor --stores says what is"
            )
