"""A local language model as a judge: one prompt, and the log-probs of two answers of one token each, A and B.

Nothing is sampled and nothing is parsed. Each contest is asked in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Message, Prompt, Refused, TextFormat, TokenBallot
from ..errors import UserError
from ..model import (
    Base,
    Layout,
    load_base,
    pick_device,
    probe_layout,
    reads_at_most,
    response_logprobs,
    tokens_per_pass,
)
from .batches import TOO_LONG, digest, fits, least, values_of
from .opinions import Contest, Opinion, sigmoid
from .wording import LETTERS, SYSTEM, Wording

ANSWER = "\n\nAnswer:"  # ends a plain text, so that the letter comes next
STOCK = Contest("x", "y", "z")


@dataclass(frozen=True)
class Form:
    """How a judge prompt becomes token ids.

    What is fixed stands in a `system message`, in the `user message`, or in a `plain text`: its style. `lead` is what
    every reply begins with, `letters` come behind it.
    """

    text: TextFormat
    style: str
    lead: tuple[int, ...]
    letters: tuple[int, int]

    def ballot(self, question: str) -> TokenBallot:
        """The question up to the letter, and both letters. Raises Refused as the chat template does."""
        asked = in_style(self.style, question)
        ids = self.text.prompt(with_letter(asked))[:-1] if isinstance(asked, str) else self.text.prompt(asked)
        return TokenBallot((*ids, *self.lead), tuple((letter,) for letter in self.letters), ())


@dataclass(frozen=True)
class LocalModel:
    """A causal language model that reads both responses; Pr(a ≻ b) is that of the letter of a, against the other's.

    `limit` is how many tokens a question may have: those that the model reads at most, or fewer. A longer one is never
    shortened: it has no verdict. Opinions depend on `micro_tokens`, and on what else is asked, up to rounding only.
    """

    name: str
    base: Base
    layout: Layout
    form: Form
    wording: Wording
    precision: str
    micro_tokens: int
    limit: int | None

    @property
    def description(self) -> str:
        return (
            f"{self.base.name} reads both responses, asked with template {self.wording.name} {self.wording.version}; "
            "its log-probs of the answers A and B, in both orders"
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        stock = self.form.ballot(self.wording.ask(STOCK))
        return {
            "model": self.base.sha256,
            "template": self.wording.version,
            "tokens": digest(stock.prompt, *stock.responses),
            "style": self.form.style,
            "precision": self.precision,
            "max_length": self.limit,
        }

    def prefer(self, contests: Sequence[Contest]) -> list[Opinion]:
        """An opinion of every contest. Raises UserError for log-probs that are not finite."""
        asked = [self._both_orders(contest) for contest in contests]
        ballots = [ballot for both in asked if not isinstance(both, str) for ballot in both]
        logprobs = values_of(
            ballots,
            lambda batch: response_logprobs(self.base.model, batch, precision=self.precision),
            layout=self.layout,
            device=self.base.device,
            micro_tokens=self.micro_tokens,
            what=f"opinions of {self.name}",
        )
        shares = {ballot: sigmoid(a - b) for ballot, (a, b) in logprobs.items()}
        return [
            Opinion(None, None, both) if isinstance(both, str) else Opinion(shares[both[0]], 1 - shares[both[1]])
            for both in asked
        ]

    def _both_orders(self, contest: Contest) -> tuple[TokenBallot, TokenBallot] | str:
        """The question with a first, and with b first; or why there is none."""
        try:
            first, second = (self.form.ballot(self.wording.ask(told)) for told in (contest, contest.swap()))
        except Refused as reason:
            return str(reason)
        return (first, second) if fits(first, self.limit) and fits(second, self.limit) else TOO_LONG


def open_local(
    where: str,
    *,
    wording: Wording,
    device: str = "auto",
    precision: str = "fp32",
    micro_tokens: int | None = None,
    max_length: int | None = None,
) -> LocalModel:
    """The judge that a folder, a GGUF file or a model of the hub is.

    Raises UserError for one that is no causal language model, or whose tokenizer has no one token for A and for B in
    the place where the letter comes.
    """
    name, place = f"model:{where}", pick_device(device)
    base = load_base(where, device=place, where=f"--judge {name}")
    base.model.requires_grad_(False)
    form = find_form(base.form, wording, f"--judge {name}")
    layout = probe_layout(base.model, precision, f"--judge {name}")
    limit = least(reads_at_most(base.model), max_length)
    return LocalModel(name, base, layout, form, wording, precision, micro_tokens or tokens_per_pass(place), limit)


def in_style(style: str, question: str) -> Prompt:
    """A question with what is fixed before it: as a system message, in the user's message, or in a plain text."""
    if style == "system message":
        return (Message("system", SYSTEM), Message("user", question))
    whole = f"{SYSTEM}\n\n{question}"
    return (Message("user", whole),) if style == "user message" else f"{whole.rstrip()}{ANSWER}"


def with_letter(asked: str, letter: str = LETTERS[0]) -> str:
    """A plain text with its answer: the space between them may belong to either's token."""
    return f"{asked} {letter}"


def find_form(text: TextFormat, wording: Wording, where: str) -> Form:
    """How a tokenizer and its chat template take a judge prompt.

    What a template writes at the beginning of a reply, such as an empty thought, belongs to the prompt. Raises
    UserError, beginning with `where`, for a letter that is no token of its own behind it.
    """
    question = wording.ask(STOCK)
    style = _style(text, question)
    asked = in_style(style, question)
    try:
        if isinstance(asked, str):
            replies = [text.prompt(with_letter(asked, letter)) for letter in LETTERS]
        else:
            replies = text.responses(asked, LETTERS, [False, False])
    except Refused as reason:
        raise UserError(f"{where}: its chat template takes no question with a letter as the reply ({reason})") from None
    leads, letters = [reply[:-1] for reply in replies], [reply[-1:] for reply in replies]
    if leads[0] != leads[1] or tuple(text.text(letter).strip() for letter in letters) != LETTERS:
        raise UserError(f"{where}: its tokenizer has no single tokens for the answers A and B; take another judge")
    lead = () if isinstance(asked, str) else tuple(leads[0])
    return Form(text, style, lead, (letters[0][0], letters[1][0]))


def _style(text: TextFormat, question: str) -> str:
    """Where the fixed part goes: a template may refuse a system message, or leave it out."""
    if not text.has_template:
        return "plain text"
    try:
        with_it = text.prompt(in_style("system message", question))
        shown = with_it != text.prompt((Message("system", "x"), Message("user", question)))
    except Refused:
        shown = False
    return "system message" if shown else "user message"
