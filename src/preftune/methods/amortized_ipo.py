"""Amortized IPO: the margin of every pair is regressed on what a fitted preference says of it, voted on or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import TokenBallot
from ..errors import UserError
from .method import Method, Scored, Terms
from .options import check_options, option
from .voting import VoteOptions, check_flips, vote_mass, voted_on

if TYPE_CHECKING:
    from torch import Tensor

HEADS = ("score", "general", "unconstrained")
PAIRS = ("all", "votes")
TARGETS = ("centred", "winner-loser")


@dataclass(frozen=True)
class AmortizedOptions(VoteOptions):
    """Options of amortized IPO, which is told by a preference v that is fitted to the votes first.

    `head`: `score` (a reward model), `general` (cycles too), or `unconstrained` (an ablation, not antisymmetric).
    `pairs`: v's word on `all` pairs of a ballot, or only on those of its `votes` (an ablation). `target`: `centred`, or
    `winner-loser` (an ablation: without the −½). `gamma`: train v together with the policy, its likelihood weighted by
    this, instead of before it (an ablation); without `stop_gradient` v then follows the policy's margin too.
    """

    estimate_flips: bool = option(False, "find the flip rate; --kind frozen only")
    head: str = option("score", "of the preference v, the last an ablation", choices=HEADS)
    pairs: str = option("all", "pairs with a target, the last an ablation", choices=PAIRS)
    target: str = option("centred", "of the margin, the last, an ablation, without -1/2", choices=TARGETS)
    gamma: float | None = option(None, "train v with the policy, so weighted; an ablation", above=0)
    stop_gradient: bool = option(True, "with --gamma: false lets v follow the policy")
    extra_responses: int = option(0, "responses sampled in addition to each prompt", least=0)
    max_new_tokens: int = option(64, "tokens of an extra response", above=0, in_arms=False)

    def __post_init__(self) -> None:
        check_options(self)
        check_flips(self.estimate_flips, self.flip_rate)
        if self.extra_responses and self.pairs == "votes":
            raise UserError(f"--extra-responses {self.extra_responses}: nobody voted on them; leave out --pairs votes")
        if self.gamma is not None and (self.pairs == "all" or self.head != "score" or self.estimate_flips):
            raise UserError(
                f"--gamma {self.gamma}: joint training has a score on the voted pairs; add --pairs votes, leave out "
                "--head and --estimate-flips"
            )
        if not self.stop_gradient and self.gamma is None:
            raise UserError("--stop-gradient false: only joint training has that gradient; add --gamma")
        for name, value in (("target", "winner-loser"), ("head", "unconstrained")):
            if getattr(self, name) == value and self.pairs == "all":
                raise UserError(f"--{name} {value}: add --pairs votes, since an unlabelled pair has no winner")

    @property
    def centre(self) -> float:
        """What is taken off v to make the target."""
        return 0.5 if self.target == "centred" else 0.0


def _prepare(ballot: TokenBallot, left_out: Counter[str]) -> TokenBallot | None:
    """The ballot with targets; before it has any, all of its responses, since all of them may get one."""
    return voted_on(ballot, left_out) if ballot.logits else ballot


def _loss(scored: Scored, beta: float, options: AmortizedOptions) -> Terms:
    import torch

    from ..objectives import amortized_ipo, bradley_terry
    from .pairwise import pairwise_terms

    logit_V = _logits(scored)

    def loss(log_ratio_a: Tensor, log_ratio_b: Tensor, p: Tensor) -> Tensor:
        told = amortized_ipo(
            log_ratio_a,
            log_ratio_b,
            logit_V,
            beta=beta,
            centre=options.centre,
            stop_gradient=options.stop_gradient,
        )
        if options.gamma is None:
            return told
        own = bradley_terry(logit_V, torch.zeros_like(logit_V), preference=p, flip_rate=options.flip_rate)
        return told + options.gamma * own

    return pairwise_terms(scored, beta, options.reduction, loss)


def _logits(scored: Scored) -> Tensor:
    """logit v(a, b) of every vote, `[V]`: as it was fitted, or as it is now where it is trained beside the policy."""
    import torch

    from ..data import sent
    from .pairwise import vote_indices

    if scored.score_B is not None:
        a, b = vote_indices(scored)
        return scored.score_B[a] - scored.score_B[b]
    logits = [logit for ballot in scored.ballots for logit in ballot.logits]
    return sent(torch.tensor(logits, dtype=scored.logprob_B.dtype), scored.logprob_B.device)


AMORTIZED_IPO = Method(
    "amortized-ipo",
    "IPO whose targets are a preference that is fitted to the votes first, on every pair",
    AmortizedOptions,
    _prepare,
    vote_mass,
    _loss,
    needs="preference",
)
