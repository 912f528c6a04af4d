"""Ballots to token ids: a prompt and its responses, tokenised apart, shortened only where needed, all of it counted.

The prompt is tokenised exactly as it is for sampling and a response starts after it, so no token spans the boundary
and the context in training is the context in sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ..errors import UserError
from .ballots import Ballot, Message, Prompt, Vote

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\x00response\x00"
ANCHORS = ("\n", ":")  # texts to put before a response; the second in case the first merges with it

DROPPED_TURNS = "prompt: oldest turns dropped to fit --max-length"
CUT_PROMPT = "prompt: beginning cut to fit --max-length"
CUT_RESPONSE = "response: end cut to fit --max-length (its end-of-text is not trained)"
NO_ROOM = "nothing of the prompt fits within --max-length"
NO_PROMPT = "a prompt without a token"
NO_RESPONSE = "a response without a token"
SAME_TOKENS = "vote: its responses have the same tokens"
NO_VOTES = "a ballot without a vote"
REFUSED = "the model's chat template refuses the prompt"


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


@dataclass(frozen=True)
class TextFormat:
    """How a tokenizer's prompts and responses become ids, found once per tokenizer.

    `end_text` ends a response to a plain prompt, `end_chat` a reply in a chat; sampling stops at either. A tokenizer
    without a chat template gets chats as a `Human:`/`Assistant:` transcript.
    """

    tokenizer: PreTrainedTokenizerBase
    end_text: int
    end_chat: int
    anchored: bool  # the tokenizer puts a space before the first word of a text: responses are cut behind an anchor

    @property
    def stops(self) -> tuple[int, ...]:
        return tuple(sorted({self.end_text, self.end_chat}))

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, up to the place where the response starts."""
        if not isinstance(prompt, str) and self.has_template:
            return self._ids(self._render(prompt, add_generation_prompt=True))
        text = prompt if isinstance(prompt, str) else transcript(prompt)
        ids = self._ids(text, special=True)
        closed = len(ids) > 1 and ids[-1] == self.end_text and not text.endswith(str(self.tokenizer.eos_token))
        return ids[:-1] if closed else ids  # some tokenizers end every text; this one goes on

    def response(self, text: str, *, chat: bool, ended: bool) -> list[int]:
        """Ids of a response; the end-of-text token is added exactly when the response came to its own end."""
        if chat and not self.has_template:
            text = " " + text
        ids = self._ids_behind_anchor(text) if self.anchored else self._ids(text)
        end = self.end_chat if chat else self.end_text
        return [*ids, end] if ended and ids[-1:] != [end] else ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of response ids, without special tokens."""
        before = self._ids(ANCHORS[0]) if self.anchored else []  # else decoding would strip a leading space
        return self._text([*before, *ids], plain=True)[len(self._text(before)) :]

    def specials(self) -> set[int]:
        """Ids of all special tokens, also of those without a role of their own, such as an end of turn."""
        added = self.tokenizer.added_tokens_decoder
        return {*self.tokenizer.all_special_ids, *(token for token, text in added.items() if text.special)}

    def _text(self, ids: Sequence[int], *, plain: bool = False) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=plain, clean_up_tokenization_spaces=False))

    def _ids_behind_anchor(self, text: str) -> list[int]:
        for anchor in ANCHORS:
            before, whole = self._ids(anchor), self._ids(anchor + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return self._ids(text)

    def _render(self, messages: Sequence[Message], **options: bool) -> str:
        plain = [message._asdict() for message in messages]
        return str(self.tokenizer.apply_chat_template(plain, tokenize=False, **options))

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def text_format(tokenizer: PreTrainedTokenizerBase) -> TextFormat:
    """Find out how a tokenizer ends a text and a chat reply. Raises UserError if it has no end-of-text token."""
    if tokenizer.eos_token_id is None:
        raise UserError("--model: its tokenizer has no end-of-text token (eos_token); set one in tokenizer_config.json")
    bare = TextFormat(tokenizer, tokenizer.eos_token_id, tokenizer.eos_token_id, anchored=False)
    anchored = bare._ids_behind_anchor("x") != bare._ids("x")
    return replace(bare, end_chat=_end_of_reply(bare), anchored=anchored)


def _end_of_reply(form: TextFormat) -> int:
    """The first special token that the chat template writes after a reply; the end-of-text token if there is none."""
    if form.has_template:
        rendered = form._render((Message("user", "x"), Message("assistant", MARK)))
        special = form.specials()
        after = form._ids(rendered.partition(MARK)[2])
        return next((token for token in after if token in special), form.end_text)
    return form.end_text


def transcript(messages: Sequence[Message]) -> str:
    """A chat as plain text for models without a template: `Human:` and `Assistant:` turns, the reply to follow."""
    names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    turns = [(role, content) for role, content in messages if content or role != "system"]
    return "".join(f"\n\n{names.get(role, role + ': ')}{content}" for role, content in turns) + "\n\nAssistant:"


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
        except TemplateError as error:
            fitted = f"{REFUSED} ({str(error).strip().partition(chr(10))[0]})"
        if isinstance(fitted, str):
            skipped[fitted] += 1
        else:
            kept.append(fitted)
    return TokenSet(tuple(kept), dict(skipped), dict(shortened))


def _tokenize_ballot(ballot: Ballot, form: TextFormat, max_length: int, shortened: Counter[str]) -> TokenBallot | str:
    chat = not isinstance(ballot.prompt, str)
    prompt = form.prompt(ballot.prompt)
    responses = [
        tuple(form.response(text, chat=chat, ended=ended))
        for text, ended in zip(ballot.responses, ballot.ended, strict=True)
    ]
    reasons: list[str] = []
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
        text = prompt if isinstance(prompt, str) else transcript(prompt)
        raise UserError(f"--max-length leaves {budget} tokens for a prompt that needs {least} or more: {text[:60]!r}")
    if not isinstance(prompt, str):
        shorter = _drop_turns(prompt, form, budget)
        if shorter != prompt:
            reasons.append(DROPPED_TURNS)
        prompt, ids = shorter, form.prompt(shorter)
    if len(ids) > budget:
        reasons.append(CUT_PROMPT)
        ids = _cut_text(ids, form, budget) if isinstance(prompt, str) else _cut_turn(prompt, form, budget)
    return ids, reasons


def shortest_prompt(prompt: Prompt, form: TextFormat) -> int:
    """The fewest tokens to which `fit_prompt` can shorten a prompt: what frames it, and one token of content."""
    if isinstance(prompt, str):
        return _leading_specials(form.prompt(prompt), form) + 1
    system, turns = _turns(prompt)
    last = tuple(message._replace(content="") for message in turns[-1]) if turns else ()
    return len(form.prompt(system + last)) + 1


def _turns(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """(system messages, turns): a turn starts with a user's message and holds the replies to it."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
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
