"""What the training loop knows of a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import TokenBallot

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossOptions:
    """What the user chooses of a loss. `reduction`: log-ratios summed over tokens, or their mean per token.

    `label_smoothing` ε trains on the preference smoothed by ε (cDPO), `flip_rate` ε on the one from which flips at
    rate ε are taken out (rDPO). `centre` is taken off a fitted preference to make the target of amortized IPO; a
    preference that is trained beside the policy has its likelihood weighted by `gamma`, and with `stop_gradient` it
    learns from nothing else.
    """

    beta: float = 0.1
    reduction: str = "sum"
    label_smoothing: float = 0.0
    flip_rate: float = 0.0
    centre: float = 0.5
    gamma: float | None = None
    stop_gradient: bool = True


@dataclass(frozen=True)
class Scored:
    """A micro-batch after the forward pass. `[B]`: one entry per response, in order of ballots and responses."""

    ballots: Sequence[TokenBallot]
    logprob_B: Tensor  # log π(y|x), summed over the response, nats
    reference_B: Tensor  # log π_ref(y|x), likewise; zeros for a method without a reference
    length_B: Tensor  # predicted tokens
    score_B: Tensor | None = None  # of a preference that is trained beside the policy, differentiable


@dataclass(frozen=True)
class Terms:
    """The loss of a micro-batch, summed and not yet divided, and sums of what is reported beside it.

    `sums` are weighted like the votes; the report divides them by `sums["weight"]`.
    """

    loss: Tensor
    sums: Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """A method as plain functions.

    `prepare` keeps of a ballot what the method trains on (None: nothing) and counts what it leaves out; `mass` is
    what the ballot adds to the number by which the loss of an optimiser step is divided.
    """

    name: str
    uses_reference: bool
    prepare: Callable[[TokenBallot, Counter[str]], TokenBallot | None]
    mass: Callable[[TokenBallot], float]
    loss: Callable[[Scored, LossOptions], Terms]
