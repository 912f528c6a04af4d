"""Amortized IPO: the margin of every pair is regressed on what a fitted preference says of it, voted on or not."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ..objectives import amortized_ipo
from ..tokens import TokenBallot
from ._method import LossOptions, Method, Scored, Terms
from ._pairwise import pairwise_terms, vote_mass, voted_on


def _prepare(ballot: TokenBallot, left_out: Counter[str]) -> TokenBallot | None:
    """The ballot with targets; before it has any, all of its responses, since all of them may get one."""
    return voted_on(ballot, left_out) if ballot.logits else ballot


def _loss(scored: Scored, options: LossOptions) -> Terms:
    logits = [logit for ballot in scored.ballots for logit in ballot.logits]
    logit_V = torch.tensor(logits, dtype=scored.logprob_B.dtype, device=scored.logprob_B.device)

    def loss(log_ratio_a: Tensor, log_ratio_b: Tensor, p: Tensor) -> Tensor:
        return amortized_ipo(log_ratio_a, log_ratio_b, logit_V, beta=options.beta, centre=options.centre)

    return pairwise_terms(scored, options, loss)


AMORTIZED_IPO = Method("amortized-ipo", True, _prepare, vote_mass, _loss)
