"""A reward model as a judge: F = σ(s_a − s_b), the same in both orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..data import Message, Refused, TextFormat, TokenBallot
from ..model import (
    Layout,
    RewardModel,
    Workbench,
    fetched,
    load_scorer,
    pick_device,
    reads_at_most,
    tokens_per_pass,
)
from ..model import made_from as made_from
from .batches import TOO_LONG, digest, fits, least, values_of
from .opinions import Contest, Opinion, sigmoid

EMPTY_PROMPT, EMPTY_RESPONSE = "a prompt without a token", "a response without a token"
STOCK = Contest((Message("user", "x"),), "y", "z")
Reader = Callable[[Contest], TokenBallot]


@dataclass(frozen=True)
class Scored:
    """A reward model that scores each response on its own: the difference decides, and the order cannot.

    `read` makes token ids of a contest, for a reward that reads those of its own tokenizer and template. Of a contest
    beyond `limit` tokens there is no verdict; identical responses are a tie.
    """

    name: str
    description: str
    reward: RewardModel
    read: Reader
    layout: Layout
    device: torch.device
    precision: str
    micro_tokens: int
    limit: int | None

    @property
    def identity(self) -> Mapping[str, Any]:
        stock = self.read(STOCK)
        return {
            "model": self.reward.sha256,
            "tokens": digest(stock.prompt, *stock.responses),
            "precision": self.precision,
            "max_length": self.limit,
        }

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        """An opinion of every contest. Raises UserError for a score that is not finite."""
        ballots = [self._ballot(contest) for contest in contests]
        scores = values_of(
            {_sorted(ballot) for ballot in ballots if not isinstance(ballot, str)},
            self.reward.scores,
            layout=self.layout,
            device=self.device,
            micro_tokens=self.micro_tokens,
            what=f"scores of {self.name}",
        )
        return [Opinion(None, None, b) if isinstance(b, str) else _opinion(b, scores[_sorted(b)]) for b in ballots]

    def _ballot(self, contest: Contest) -> TokenBallot | str:
        """Token ids of a contest, or why there is no verdict."""
        try:
            ballot = self.read(contest)
        except Refused as reason:
            return str(reason)
        if not ballot.prompt:
            return EMPTY_PROMPT
        if not all(ballot.responses):
            return EMPTY_RESPONSE
        return ballot if fits(ballot, self.limit) else TOO_LONG


def judge_by_reward(
    reward: RewardModel, bench: Workbench, *, name: str = "reward", micro_tokens: int, max_length: int | None = None
) -> Scored:
    """A reward model of a study, which reads the token ids of the study's base, as a judge."""
    return Scored(
        name,
        f"a reward model ({reward.kind}) of {bench.base.name}: σ of the difference of its scores",
        reward,
        partial(as_trained, bench.base.form),
        bench.layout,
        bench.base.device,
        bench.precision,
        micro_tokens,
        least(reads_at_most(bench.base.model), reward.reads, max_length),
    )


def open_classifier(
    where: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    micro_tokens: int | None = None,
    max_length: int | None = None,
) -> Scored:
    """The judge that a folder, or a repository of the hub, with a sequence classifier of one label is.

    Its own tokenizer, chat template and scale are used, whatever the study's are. A folder that `train reward` left
    reads texts as it was trained to; any other one as its chat template writes them. Raises UserError for a folder
    that is none, has no tokenizer, or one with more tokens than its embedding.
    """
    name, place = f"reward:{where}", pick_device(device)
    folder = fetched(where, f"--judge {name}")
    reward = load_scorer(folder, precision=precision, device=place, where=f"--judge {name}")
    foreign = reward.kind == "folder" and reward.form.has_template
    return Scored(
        name,
        f"the reward model {where}: σ of the difference of its scores",
        reward,
        partial(as_rendered if foreign else as_trained, reward.form),
        Layout("padded", "each response as a sequence of its own"),
        place,
        precision,
        micro_tokens or tokens_per_pass(place),
        least(reward.reads, max_length),
    )


def as_trained(form: TextFormat, contest: Contest) -> TokenBallot:
    """Token ids of a contest as policies and rewards are trained on them. Raises Refused as the chat template does."""
    responses = form.responses(contest.prompt, [contest.a, contest.b], [contest.ended_a, contest.ended_b])
    return TokenBallot(tuple(form.prompt(contest.prompt)), tuple(map(tuple, responses)), ())


def as_rendered(form: TextFormat, contest: Contest) -> TokenBallot:
    """Token ids of a contest as a chat that the template writes to its end, as reward models of others are trained.

    A plain prompt is a user's message. What comes behind the end of a reply belongs to it: the score is read there.
    """
    prompt = (Message("user", contest.prompt),) if isinstance(contest.prompt, str) else contest.prompt
    ballot = as_trained(form, Contest(prompt, contest.a, contest.b, contest.ended_a, contest.ended_b))
    ended = (contest.ended_a, contest.ended_b)
    responses = [(*ids, *form.after_end) if end else ids for ids, end in zip(ballot.responses, ended, strict=True)]
    return TokenBallot(ballot.prompt, tuple(responses), ())


def _sorted(ballot: TokenBallot) -> TokenBallot:
    """The same responses in an order of their own, each once: a contest and its swap are one computation."""
    return TokenBallot(ballot.prompt, tuple(sorted(set(ballot.responses))), ())


def _opinion(ballot: TokenBallot, scores: Sequence[float]) -> Opinion:
    score = dict(zip(_sorted(ballot).responses, scores, strict=True))
    preference = sigmoid(score[ballot.responses[0]] - score[ballot.responses[1]])
    return Opinion(preference, preference)
