"""Ballots to token ids: a prompt and its responses, tokenised apart, shortened only where needed, all of it counted.

The prompt is tokenised exactly as it is for sampling and a response starts after it, so no token spans the boundary
and the context in training is the context in sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..text import excerpt
from .ballots import TOOLS, Ballot, Message, Prompt, Vote
from .formats import CONTROL, FORGOTTEN, TextFormat, as_text
from .formats import text_format as text_format
from .templates import Refused

DROPPED_TURNS = "prompt: oldest turns dropped to fit --max-length"
CUT_PROMPT = "prompt: beginning cut to fit --max-length"
CUT_RESPONSE = "response: end cut to fit --max-length (its end-of-text is not trained)"
NO_ROOM = "nothing of the prompt fits within --max-length"
NO_PROMPT = "a prompt without a token"
NO_RESPONSE = "a response without a token"
SAME_TOKENS = "vote: its responses have the same tokens"
NO_VOTES = "a ballot without a vote"


@dataclass(frozen=True)
class TokenBallot:
    """Token ids of one prompt and of its responses (end-of-text included where it is trained), and the votes.

    `weights` says how much each response counts on its own, for a method that trains on responses and not on votes.
    `logits` has a fitted preference's word on each vote, logit Pr(a ≻ b), for a method that is told by it.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]
    votes: tuple[Vote, ...]
    id: str = ""
    weights: tuple[float, ...] = ()
    logits: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Tokens when the prompt is laid out once."""
        return len(self.prompt) + sum(map(len, self.responses))


@dataclass(frozen=True)
class TokenSet:
    """Tokenised ballots, and how many were skipped or shortened, by reason."""

    ballots: tuple[TokenBallot, ...]
    skipped: Mapping[str, int]
    shortened: Mapping[str, int]


def tokenize(ballots: Sequence[Ballot], form: TextFormat, *, max_length: int) -> TokenSet:
    """Token ids of every ballot, prompt plus longest response within `max_length` tokens.

    The oldest whole turns of the prompt go first (system message and BOS stay), then the beginning of what is left;
    a response loses its end only when it is too long on its own. Skips and cuts are counted by reason.
    """
    skipped: Counter[str] = Counter()
    shortened: Counter[str] = Counter()
    kept = []
    for ballot in ballots:
        try:
            fitted = _tokenize_ballot(ballot, form, max_length, shortened)
        except Refused as reason:
            fitted = str(reason)
        if isinstance(fitted, str):
            skipped[fitted] += 1
        else:
            kept.append(fitted)
    return TokenSet(tuple(kept), dict(skipped), dict(shortened))


def _tokenize_ballot(ballot: Ballot, form: TextFormat, max_length: int, shortened: Counter[str]) -> TokenBallot | str:
    prompt = form.prompt(ballot.prompt)
    found = form.responses(ballot.prompt, ballot.responses, ballot.ended, ballot.beside)
    responses = [tuple(ids) for ids in found]
    reasons = [CONTROL] * form.spelled(ballot.prompt, (*ballot.responses, *ballot.beside))
    reasons += [FORGOTTEN] * form.forgotten(ballot.prompt)
    if prompt and all(responses) and len(prompt) + max(map(len, responses)) > max_length:
        room = max_length - shortest_prompt(ballot.prompt, form)
        if room <= 0:
            return NO_ROOM
        reasons += [CUT_RESPONSE for ids in responses if len(ids) > room]
        responses = [ids[:room] for ids in responses]
        prompt, cuts = fit_prompt(ballot.prompt, form, max_length - max(map(len, responses)))
        reasons += cuts
    votes = tuple(vote for vote in ballot.votes if responses[vote.a] != responses[vote.b])
    if problem := _unusable(prompt, responses, votes, ballot.votes):
        return problem
    shortened.update(reasons + [SAME_TOKENS] * (len(ballot.votes) - len(votes)))
    return TokenBallot(tuple(prompt), tuple(responses), votes, ballot.id)


def _unusable(
    prompt: Sequence[int], responses: Sequence[Sequence[int]], votes: Sequence[Vote], before: Sequence[Vote]
) -> str | None:
    if not prompt:
        return NO_PROMPT
    if not all(responses):
        return NO_RESPONSE
    if not votes:
        return SAME_TOKENS if before else NO_VOTES
    return None


def fit_prompt(prompt: Prompt, form: TextFormat, budget: int) -> tuple[list[int], list[str]]:
    """Ids of a prompt within `budget` tokens, and the reasons for which it was shortened (none: it is whole).

    Raises UserError when the budget is less than `shortest_prompt`.
    """
    reasons: list[str] = []
    ids = form.prompt(prompt)
    if len(ids) <= budget:
        return ids, reasons
    if (least := shortest_prompt(prompt, form)) > budget:
        told = excerpt(as_text(prompt))
        raise UserError(f"--max-length leaves {budget} tokens for a prompt that needs {least} or more: {told}")
    if not isinstance(prompt, str):
        shorter = _drop_turns(prompt, form, budget)
        if shorter != prompt:
            reasons.append(DROPPED_TURNS)
        prompt, ids = shorter, form.prompt(shorter)
    if len(ids) > budget:
        reasons.append(CUT_PROMPT)
        ids = _cut_text(ids, form, budget) if isinstance(prompt, str) else _cut_turn(prompt, form, budget)
    return ids, reasons


def fit_prompts(
    prompts: Iterable[Prompt], form: TextFormat, budget: int
) -> tuple[list[tuple[Prompt, tuple[int, ...]]], Counter[str]]:
    """Every prompt that the chat template takes, with its ids within `budget` tokens; and what became of the others,
    of their beginnings, and of control tokens that they spell, by reason. Raises UserError as `fit_prompt` does."""
    fitted: list[tuple[Prompt, tuple[int, ...]]] = []
    counts: Counter[str] = Counter()
    for prompt in prompts:
        try:
            ids, reasons = fit_prompt(prompt, form, budget)
        except Refused as reason:
            counts[str(reason)] += 1
            continue
        counts.update(reasons + [CONTROL] * form.spelled(prompt) + [FORGOTTEN] * form.forgotten(prompt))
        if ids:
            fitted.append((prompt, tuple(ids)))
        else:
            counts[NO_PROMPT] += 1
    return fitted, counts


def shortest_prompt(prompt: Prompt, form: TextFormat) -> int:
    """The fewest tokens to which `fit_prompt` can shorten a prompt: what frames it, and one token of content."""
    if isinstance(prompt, str):
        return _leading_specials(form.prompt(prompt), form) + 1
    system, turns = _turns(prompt)
    last = tuple(message._replace(content="") for message in turns[-1]) if turns else ()
    return len(form.prompt(system + last)) + 1


def _turns(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """(tools and system messages, turns): a turn starts with a user's message and holds the replies to it."""
    first = next((i for i, message in enumerate(messages) if message.role not in (TOOLS, "system")), len(messages))
    turns: list[tuple[Message, ...]] = []
    for message in messages[first:]:
        if message.role == "user" or not turns:
            turns.append((message,))
        else:
            turns[-1] += (message,)
    return messages[:first], turns


def _drop_turns(messages: tuple[Message, ...], form: TextFormat, budget: int) -> tuple[Message, ...]:
    system, turns = _turns(messages)
    for start in range(1, len(turns)):
        kept = system + sum(turns[start:], ())
        if len(form.prompt(kept)) <= budget:
            return kept
    return system + (turns[-1] if turns else ())


def _cut_turn(messages: tuple[Message, ...], form: TextFormat, budget: int) -> list[int]:
    """Take tokens off the beginning of the first message that is no system message, then of the next one."""
    system, _ = _turns(messages)
    cut = list(messages)
    for i in range(len(system), len(cut)):
        content = form._ids(cut[i].content)
        while content and len(form.prompt(tuple(cut))) > budget:
            content = content[max(1, len(form.prompt(tuple(cut))) - budget) :]
            cut[i] = cut[i]._replace(content=form._text(content))
    return form.prompt(tuple(cut))


def _cut_text(ids: list[int], form: TextFormat, budget: int) -> list[int]:
    head = _leading_specials(ids, form)
    return ids[:head] + ids[len(ids) - (budget - head) :]


def _leading_specials(ids: Sequence[int], form: TextFormat) -> int:
    special = form.specials()
    return next((i for i, token in enumerate(ids) if token not in special), len(ids))
