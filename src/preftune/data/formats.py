"""How a tokenizer's prompts and responses become ids, found once per tokenizer.

Of a chat the template has the last word: the ids of a prompt and of its response are those of the template's own
rendering of both. A response is what that rendering has after the prompt's, up to the token that ends a reply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError

from ..errors import UserError
from .ballots import FullMessage, Message, Prompt
from .controls import Controls, free_gap
from .templates import NO_TEMPLATE, Refused, Rendered, has_more, render, set_options

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\x00response\x00"
STOCK = (Message("user", "x"),)  # a prompt, where a response is looked at alone
ANCHORS = ("\n", ":")  # texts to put before a response; the second in case the first merges with it

NOT_CONTINUED = (
    "the model's chat template renders the response otherwise than after its own prompt (--template-options may help)"
)
CONTROL = "text that spells a control token; it stays text"
FORGOTTEN = "reasoning of an earlier turn, which the model's chat template leaves out"


@dataclass(frozen=True)
class TextFormat:
    """How a tokenizer's prompts and responses become ids.

    `end_text` ends a response to a plain prompt, `end_chat` a reply in a chat; sampling stops at either. A tokenizer
    without a chat template gets chats as a `Human:`/`Assistant:` transcript.
    """

    tokenizer: PreTrainedTokenizerBase
    end_text: int
    end_chat: int
    anchored: bool  # the tokenizer puts a space before the first word of a text: responses are cut behind an anchor
    controls: Controls = field(default_factory=lambda: Controls({}, {}))
    ending: str = ""  # what the template writes after a reply
    restarts: bool = True  # text behind a control token is encoded as a text of its own

    @property
    def stops(self) -> tuple[int, ...]:
        return tuple(sorted({self.end_text, self.end_chat}))

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def after_end(self) -> list[int]:
        """Ids of what the chat template writes behind the token that ends a reply, such as a line break."""
        own = self.controls.pattern.search(self.ending)
        ids = self._raw(self.ending[own.start() :]) if own else [self.end_chat]
        return ids[ids.index(self.end_chat) + 1 :]

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, up to the place where the response starts. Raises Refused, as its template does."""
        if not isinstance(prompt, str) and self.has_template:
            return self._template_ids(self._render(prompt, asking=True))
        if not isinstance(prompt, str) and has_more(prompt):
            raise Refused(NO_TEMPLATE)
        text = as_text(prompt)
        if self.controls.count([text]):
            framed, alone = self._raw("x", special=True), self._raw("x")
            front = next(i for i in range(len(framed)) if framed[i : i + len(alone)] == alone)
            return framed[:front] + self._ids(text)
        ids = self._raw(text, special=True)
        # some tokenizers end every text; this one goes on
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.end_text else ids

    def responses(
        self, prompt: Prompt, texts: Sequence[str], ended: Sequence[bool], beside: Sequence[str] = ()
    ) -> list[list[int]]:
        """Ids of the responses to a prompt; the token that ends one is added exactly when it came to its own end.

        `beside` has what a ballot's responses have beside their text. Raises Refused for a response that the template
        refuses, of which it does not show something, or that it does not render as what follows the prompt.
        """
        if isinstance(prompt, str) or not self.has_template:
            if any(beside):
                raise Refused(NO_TEMPLATE)
            before = "" if isinstance(prompt, str) else " "
            end = self.end_text if isinstance(prompt, str) else self.end_chat
            return [self._closed(before + text, end, done) for text, done in zip(texts, ended, strict=True)]
        asked = self._render(prompt, asking=True, gap=free_gap([prompt, texts, beside]))
        more = beside or ("",) * len(texts)
        return [self._reply(asked, prompt, *said) for said in zip(texts, ended, more, strict=True)]

    def response(self, text: str, *, chat: bool, ended: bool) -> list[int]:
        """Ids of a response alone: to a plain prompt, or to a user's first message."""
        return self.responses(STOCK if chat else "", [text], [ended])[0]

    def text(self, ids: Sequence[int]) -> str:
        """The text of response ids, without special tokens."""
        before = self._ids(ANCHORS[0]) if self.anchored else []  # else decoding would strip a leading space
        return self._text([*before, *ids], plain=True)[len(self._text(before)) :]

    def spelled(self, prompt: Prompt, texts: Sequence[str] = ()) -> int:
        """How many of the texts of a prompt, its responses and what stands beside them spell a control token."""
        own = [prompt] if isinstance(prompt, str) else [text for turn in prompt for text in turn[1:]]
        return sum(bool(self.controls.count([text])) for text in (*own, *texts))

    def forgotten(self, prompt: Prompt) -> int:
        """Of how many turns of a prompt the template leaves the reasoning out."""
        if isinstance(prompt, str) or not self.has_template or not has_more(prompt):
            return 0
        return render(self.tokenizer, self.controls, prompt, asking=True)[1]

    def specials(self) -> set[int]:
        """Ids of all special tokens, also of those without a role of their own, such as an end of turn."""
        added = self.tokenizer.added_tokens_decoder
        return {*self.tokenizer.all_special_ids, *(token for token, text in added.items() if text.special)}

    # --- of chats ---

    def _render(self, messages: Sequence[Message], *, asking: bool, gap: str = "") -> Rendered:
        return render(self.tokenizer, self.controls, messages, asking=asking, gap=gap)[0]

    def _reply(self, asked: Rendered, prompt: Sequence[Message], text: str, ended: bool, more: str) -> list[int]:
        content = self._unended(text, self.end_chat) if ended else text
        said = FullMessage("assistant", content, more) if more else Message("assistant", content)
        whole = self._render((*prompt, said), asking=False, gap=asked.gap).text
        if not whole.startswith(asked.text):
            raise Refused(NOT_CONTINUED)
        body, end = self._cut_ending(whole[len(asked.text) :], ended)
        tail = asked.text[self._last_control(asked.text) :]
        ids = self._behind(tail, body, lambda part: self._template_ids(Rendered(part, asked.gap)))
        return [*ids, end] if ended and ids[-1:] != [end] else ids

    def _cut_ending(self, reply: str, ended: bool) -> tuple[str, int]:
        """A rendered reply up to the control token that ends it, and that token."""
        own = list(self.controls.pattern.finditer(self.ending))
        if self.ending and reply.endswith(self.ending):
            kept = self.ending[: own[0].start()] if own and ended else ""
            return reply.removesuffix(self.ending) + kept, self.end_chat
        last = list(self.controls.pattern.finditer(reply))[-1:]
        if last and not reply[last[0].end() :].strip():
            return reply[: last[0].start()], self.controls.ids[last[0][0]]
        return reply, self.end_chat

    def _last_control(self, text: str) -> int:
        return max((found.start() for found in self.controls.pattern.finditer(text)), default=len(text))

    def _template_ids(self, rendered: Rendered) -> list[int]:
        """Ids of a rendering, where the template's control tokens are tokens and the data's are text."""
        if rendered.gap not in rendered.text:
            return self._raw(rendered.text)
        ids: list[int] = []
        for i, (text, token) in enumerate(self.controls.split(rendered.text)):
            if token is not None:
                ids.append(token)
            elif plain := text.replace(rendered.gap, ""):
                ids += self._ids(plain) if i == 0 or self.restarts else self._behind("", plain, self._ids)
        return ids

    # --- of texts ---

    def _closed(self, text: str, end: int, ended: bool) -> list[int]:
        ids = self._behind("", self._unended(text, end) if ended else text, self._ids)
        return [*ids, end] if ended and ids[-1:] != [end] else ids

    def _unended(self, text: str, end: int) -> str:
        """A response without the end token that whoever wrote the data wrote after it."""
        return text.removesuffix(str(self.tokenizer.convert_ids_to_tokens(end)))

    def _behind(self, tail: str, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text that goes on from another one, which ends with `tail`."""
        for anchor in ((tail,) if tail else ()) + (ANCHORS if self.anchored else ()):
            before, whole = encode(anchor), encode(anchor + text)
            if whole[: len(before)] == before:
                return whole[len(before) :]
        return encode(text)

    def _ids(self, text: str) -> list[int]:
        """Ids of a text of the data, none of which is a control token."""
        if not self.controls.count([text]):
            return self._raw(text)
        ids = self._raw(text, split_special_tokens=True)
        if not self.controls.forbidden.isdisjoint(ids):
            onward = partial(self._behind, "", encode=self._raw)
            return self.controls.as_text(text, self._raw, onward)
        return ids

    def _raw(self, text: str, *, special: bool = False, **options: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False, **options)["input_ids"])

    def _text(self, ids: Sequence[int], *, plain: bool = False) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=plain, clean_up_tokenization_spaces=False))


def text_format(
    tokenizer: PreTrainedTokenizerBase, *, where: str = "--model", options: Mapping[str, Any] | None = None
) -> TextFormat:
    """Find out how a tokenizer ends a text and a chat reply, and what its control tokens are.

    `options` are what its chat template reads beside the chat; from here on they are the defaults of the template,
    also where it is saved. Raises UserError, beginning with `where`, for a tokenizer without an end-of-text token, a
    template that does not compile, or an option that it does not read.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: its tokenizer has no end-of-text token (eos_token); set one in tokenizer_config.json"
        )
    if not isinstance(tokenizer.chat_template, str | dict | None):
        raise UserError(f"{where}: its chat template is {tokenizer.chat_template!r:.40}, not text; mend it")
    set_options(tokenizer, options or {}, where)
    end = tokenizer.eos_token_id
    bare = TextFormat(tokenizer, end, end, anchored=False)
    bare = replace(bare, controls=find_controls(bare, _framing(bare, where)))
    anchored = replace(bare, anchored=True)._behind("", "x", bare._raw) != bare._raw("x")
    restarts = bare._raw(f"{tokenizer.eos_token}x") == [end, *bare._raw("x")]
    ending = next((text.partition(MARK)[2] for text in _looks(bare, where, Message("assistant", MARK))), "")
    own = bare.controls.pattern.search(ending)
    end_chat = bare.controls.ids[own[0]] if own else end
    return replace(bare, end_chat=end_chat, anchored=anchored, ending=ending, restarts=restarts)


def _looks(form: TextFormat, where: str, *after: Message) -> list[str]:
    """The template's renderings of a short chat that goes on with some messages, where it takes such a chat."""
    looks = []
    for start in (STOCK, (Message("system", "x"), *STOCK)) if form.has_template else ():
        try:
            looks.append(form._render((*start, *after), asking=False).text)
        except Refused as refused:
            if isinstance(wrong := refused.__cause__, TemplateSyntaxError):
                line = f"line {wrong.lineno}: {wrong.message}"
                raise UserError(f"{where}: its chat template does not compile ({line}); mend it") from None
    return looks


def _framing(form: TextFormat, where: str) -> str:
    """What the template writes around the turns of a chat."""
    return "".join(_looks(form, where, Message("assistant", "x"), *STOCK))


def find_controls(form: TextFormat, framing: str) -> Controls:
    """Special tokens, and other added ones that frame a turn; those in pairs, such as <think>, are content."""
    added = form.tokenizer.added_tokens_decoder
    names = {token.content for token in added.values()}
    specials = form.specials()
    ids = {str(form.tokenizer.convert_ids_to_tokens(token)): token for token in specials}
    ids |= {
        token.content: number
        for number, token in added.items()
        if token.content.strip() and token.content in framing and not _has_other_half(token.content, names)
    }
    strips = {token.content: (token.lstrip, token.rstrip) for token in added.values() if token.lstrip or token.rstrip}
    cut = {name: number for name, number in ids.items() if len(name) > 1}  # what can be cut in two
    return Controls(cut, strips, form.tokenizer.unk_token_id)


def _has_other_half(name: str, names: Collection[str]) -> bool:
    return name[1:2] == "/" or f"{name[:1]}/{name[1:]}" in names


def as_text(prompt: Prompt) -> str:
    """A prompt as a person reads it."""
    return prompt if isinstance(prompt, str) else transcript(prompt)


def transcript(messages: Sequence[Message]) -> str:
    """A chat as plain text for models without a template: `Human:` and `Assistant:` turns, the reply to follow."""
    names = {"user": "Human: ", "assistant": "Assistant: ", "system": ""}
    turns = [(turn.role, "".join(turn[1:])) for turn in messages if turn.content or turn.role != "system"]
    return "".join(f"\n\n{names.get(role, role + ': ')}{content}" for role, content in turns) + "\n\nAssistant:"
