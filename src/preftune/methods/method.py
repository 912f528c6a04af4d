"""What is known of a method: its options, what it needs fitted first, what it keeps of a ballot, its loss.

No torch at the top: methods are plain functions, which load it when they compute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data import TokenBallot
from .options import check_options

if TYPE_CHECKING:
    from torch import Tensor

    from .experience import Experience


@dataclass(frozen=True)
class NoOptions:
    """A method without options of its own."""

    def __post_init__(self) -> None:
        check_options(self)


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

    `sums` are weighted like the votes, as `reported` has them; the report divides them by `sums["weight"]`.
    """

    loss: Tensor
    sums: Mapping[str, float | Tensor]


def reported(value: Tensor) -> float | Tensor:
    """A sum for the report: a number; on a GPU a tensor, for which nobody waits before the step is over."""
    value = value.detach()
    return value if value.is_cuda else float(value)


@dataclass(frozen=True)
class Method:
    """A method that learns from votes, as plain functions.

    `options` declares what it can be told. `prepare` keeps of a ballot what the method trains on (None: nothing) and
    counts what it leaves out; `mass` is what the ballot adds to the number by which the loss of an optimiser step is
    divided; `loss(scored, beta, options)` is the summed loss of a micro-batch. `needs` is what is fitted to the votes
    before the policy is trained: nothing, a `preference`, or a `reward`.
    """

    name: str
    about: str
    options: type[Any]
    prepare: Callable[[TokenBallot, Counter[str]], TokenBallot | None]
    mass: Callable[[TokenBallot], float]
    loss: Callable[[Scored, float, Any], Terms]
    uses_reference: bool = True
    needs: str = ""


@dataclass(frozen=True)
class OnlineMethod:
    """A method that learns from the policy's own samples, as plain functions.

    `judge(batch, beta, options)` adds advantages (and the critic's targets) to a batch of experience; `loss` maps the
    log-probs of its tokens now to a summed loss; `mass` is what one prompt's experience adds to the number it is
    divided by. A batch is used for `options.inner_epochs` steps if the method `reuses` its samples, else for one.
    """

    name: str
    about: str
    options: type[Any]
    judge: Callable[[Sequence[Experience], float, Any], list[Experience]]
    mass: Callable[[Experience], float]
    loss: Callable[[Tensor, Sequence[Experience]], Terms]
    has_critic: bool = False
    reuses: bool = False
    uses_reference: bool = True
    needs: str = "reward"


@dataclass(frozen=True)
class Selection:
    """A method that selects among samples of the reference; `sizes` are the n that a study looks at."""

    name: str
    about: str
    options: type[Any]
    sizes: tuple[int, ...]
    uses_reference: bool = False
    needs: str = "reward"


AnyMethod = Method | OnlineMethod | Selection
