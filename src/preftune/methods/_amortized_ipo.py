"""Amortized IPO: the margin of every pair is regressed on what a fitted preference says of it, voted on or not."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ..data import TokenBallot
from ..objectives import amortized_ipo, bradley_terry
from ._method import LossOptions, Method, Scored, Terms
from ._pairwise import pairwise_terms, vote_indices, vote_mass, voted_on


def _prepare(ballot: TokenBallot, left_out: Counter[str]) -> TokenBallot | None:
    """The ballot with targets; before it has any, all of its responses, since all of them may get one."""
    return voted_on(ballot, left_out) if ballot.logits else ballot


def _loss(scored: Scored, options: LossOptions) -> Terms:
    logit_V = _logits(scored)

    def loss(log_ratio_a: Tensor, log_ratio_b: Tensor, p: Tensor) -> Tensor:
        told = amortized_ipo(
            log_ratio_a,
            log_ratio_b,
            logit_V,
            beta=options.beta,
            centre=options.centre,
            stop_gradient=options.stop_gradient,
        )
        if options.gamma is None:
            return told
        own = bradley_terry(logit_V, torch.zeros_like(logit_V), preference=p, flip_rate=options.flip_rate)
        return told + options.gamma * own

    return pairwise_terms(scored, options, loss)


def _logits(scored: Scored) -> Tensor:
    """logit v(a, b) of every vote, `[V]`: as it was fitted, or as it is now where it is trained beside the policy."""
    if scored.score_B is not None:
        a, b = vote_indices(scored)
        return scored.score_B[a] - scored.score_B[b]
    logits = [logit for ballot in scored.ballots for logit in ballot.logits]
    return torch.tensor(logits, dtype=scored.logprob_B.dtype, device=scored.logprob_B.device)


AMORTIZED_IPO = Method("amortized-ipo", True, _prepare, vote_mass, _loss)
