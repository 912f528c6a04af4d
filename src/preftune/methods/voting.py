"""What methods that learn from votes share: their options, what they keep of a ballot, what it weighs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ..data import TokenBallot
from ..errors import UserError
from .options import REDUCTIONS, check_options, option

NO_VOTE = "response: in no vote (not computed)"
SMOOTHING = "smooth preferences, as cDPO does"


@dataclass(frozen=True)
class VoteOptions:
    """Options of a loss per vote. `reduction`: log-ratios summed over the tokens of a response, or their mean.

    `label_smoothing` ε trains on the preference smoothed by ε (cDPO), `flip_rate` ε on the one from which flips at
    rate ε are taken out (rDPO, unbiased).
    """

    reduction: str = option("sum", "log-ratios over tokens", choices=REDUCTIONS)
    label_smoothing: float = option(0.0, SMOOTHING, least=0, below=0.5)
    flip_rate: float = option(0.0, "rate of flipped votes, as rDPO's", least=0, below=0.5)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class LikelihoodOptions:
    """Options of what is fitted to votes by its likelihood, which has flips in it: a reward model, a preference."""

    label_smoothing: float = option(0.0, SMOOTHING, least=0, below=0.5)
    flip_rate: float = option(0.0, "rate of flipped votes", least=0, below=0.5)
    estimate_flips: bool = option(False, "find the flip rate; --kind frozen only")

    def __post_init__(self) -> None:
        check_options(self)
        check_flips(self.estimate_flips, self.flip_rate)


def check_flips(estimated: bool, rate: float) -> None:
    """Raises UserError for a flip rate that is known and to be found as well."""
    if estimated and rate:
        raise UserError(f"--estimate-flips: --flip-rate {rate} is known already; leave one of them out")


def voted_on(ballot: TokenBallot, left_out: Counter[str]) -> TokenBallot | None:
    """The ballot without the responses that no vote names."""
    named = sorted({index for vote in ballot.votes for index in (vote.a, vote.b)})
    if len(named) == len(ballot.responses):
        return ballot
    left_out[NO_VOTE] += len(ballot.responses) - len(named)
    new = {old: index for index, old in enumerate(named)}
    votes = tuple(replace(vote, a=new[vote.a], b=new[vote.b]) for vote in ballot.votes)
    return replace(ballot, responses=tuple(ballot.responses[i] for i in named), votes=votes)


def vote_mass(ballot: TokenBallot) -> float:
    """The sum of vote weights."""
    return sum(vote.weight for vote in ballot.votes)
