"""What a chat template writes of a chat, whether it shows all that it is given, and the options that it reads."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from ..errors import UserError
from .ballots import FullMessage, Message
from .beside import split_tools, turn_row
from .controls import Controls, free_gap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REFUSED = "the model's chat template refuses the chat"
LOST_TOOLS = "tools, which the model's chat template does not show"
LOST_RESULT = "a tool's turn, which the model's chat template does not show"
LOST_CALL = "a tool call, which the model's chat template does not show"
LOST_TEXT = "text beside a tool call, which the model's chat template does not show"
LOST_REASONING = "reasoning, which the model's chat template does not show"
NO_TEMPLATE = "tools, tool calls or reasoning, and no chat template to write them"

SECONDS = 20.0  # for one chat, which takes a millisecond
LONGEST = 1 << 26  # characters of one chat
ROOM = 1 << 30  # bytes of memory for one chat
ENDLESS = "does not come to an end with one chat (20 seconds, 64 million characters, 1 GiB); give the model another one"

WRONG = (ArithmeticError, AttributeError, LookupError, RecursionError, TemplateError, TypeError, ValueError)

Turns = Sequence[Mapping[str, Any]]


class Refused(Exception):
    """A chat that the template cannot render, or not so that the response follows the prompt; its text is why."""


@dataclass(frozen=True)
class Rendered:
    """A chat as the template writes it, and what was put into control tokens that the data spells."""

    text: str
    gap: str


@dataclass(frozen=True)
class Writer:
    """A tokenizer's chat template at work: it writes chats up to a reply that is to come, or whole ones."""

    tokenizer: PreTrainedTokenizerBase
    controls: Controls
    asking: bool
    gap: str

    def write(self, turns: Turns, tools: Sequence[Any]) -> str:
        """The rendering of turns. Raises Refused, with the template's own reason."""
        chat = [self.controls.mark(turn, self.gap) for turn in turns]
        offered = self.controls.mark(tools, self.gap) or None
        try:
            with bounded(), roomy():
                text = self.tokenizer.apply_chat_template(
                    chat, tools=offered, tokenize=False, add_generation_prompt=self.asking
                )
        except (MemoryError, TimeoutError):
            raise UserError(f"the model's chat template {ENDLESS}") from None
        except WRONG as error:
            raise Refused(f"{REFUSED} ({str(error).strip().partition(chr(10))[0]})") from error
        if len(text) > LONGEST:
            raise UserError(f"the model's chat template {ENDLESS}")
        return str(text)

    def is_same(self, text: str, turns: Turns, tools: Sequence[Any]) -> bool:
        """Whether other turns or tools give the same rendering: then what they lack is not shown."""
        try:
            return self.write(turns, tools) == text
        except Refused:
            return False

    def hidden(self, text: str, turns: Turns, tools: Sequence[Any]) -> list[tuple[int, str]]:
        """(turn, reason) of everything beside texts that the rendering does not show; −1 stands for the tools."""
        found = [(-1, LOST_TOOLS)] if tools and self.is_same(text, turns, []) else []
        for i, turn in enumerate(turns):
            if turn["role"] == "tool" and self.is_same(text, [*turns[:i], *turns[i + 1 :]], tools):
                found.append((i, LOST_RESULT))
            for name, reason in _more_of(turn):
                less = {**turn, name: "" if name == "content" else None}
                if self.is_same(text, [*turns[:i], less, *turns[i + 1 :]], tools):
                    found.append((i, reason))
        return found


def render(
    tokenizer: PreTrainedTokenizerBase, controls: Controls, messages: Sequence[Message], *, asking: bool, gap: str = ""
) -> tuple[Rendered, int]:
    """A chat as the template writes it, and of how many earlier turns it leaves the reasoning out, as templates do.

    Raises Refused for a chat that the template refuses, or of which it does not show something else.
    """
    writer = Writer(tokenizer, controls, asking, gap or free_gap(messages))
    tools, own = split_tools(tuple(messages))
    turns = [turn_row(message) for message in own]
    rendered = Rendered(writer.write(turns, tools), writer.gap)
    if not has_more(messages):
        return rendered, 0
    last = len(turns) if asking else len(turns) - 1
    forgotten = 0
    for place, reason in writer.hidden(rendered.text, turns, tools):
        if reason != LOST_REASONING or place == last:
            raise Refused(reason)
        forgotten += 1
    return rendered, forgotten


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Raises TimeoutError within what takes longer; only the main thread of a POSIX system can be stopped so."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def roomy(room: int = ROOM) -> Iterator[None]:
    """Raises MemoryError within what takes so many bytes of memory more; on Linux, in the main thread."""
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([taken + room, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _more_of(turn: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a turn has beside a text, and a text beside a call, each with the reason if it is not shown."""
    found = [("reasoning_content", LOST_REASONING)] if "reasoning_content" in turn else []
    if "tool_calls" in turn:
        found += [("tool_calls", LOST_CALL)] + ([("content", LOST_TEXT)] if turn["content"].strip() else [])
    return found


def has_more(messages: Sequence[Message]) -> bool:
    """Whether a chat has anything that only a template can write: tools, their turns, calls, reasoning."""
    return any(isinstance(turn, FullMessage) or turn.role in ("tools", "tool") for turn in messages)


# --- options ---------------------------------------------------------------------------------------------------------


def template_options(text: str) -> dict[str, Any]:
    """`enable_thinking=false,name=value` as a mapping; values are JSON, else text. Raises UserError if it is none."""
    options = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier():
            raise UserError(f"--template-options {part}: write name=value, such as enable_thinking=false")
        try:
            options[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            options[name] = value
    return options


def set_options(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any], where: str) -> None:
    """Make options the defaults of a chat template. Raises UserError for one that it does not read."""
    if not options:
        return
    template = tokenizer.chat_template
    if not isinstance(template, str):
        there = "several chat templates" if template else "no chat template"
        raise UserError(f"--template-options: {where} has {there}; leave it out")
    for name, value in reversed(list(options.items())):
        if not re.search(rf"\b{name}\b", template):
            raise UserError(f"--template-options {name}: the chat template of {where} does not read it; leave it out")
        literal = json.dumps(value, ensure_ascii=False)
        template = f"{{% if {name} is not defined %}}{{% set {name} = {literal} %}}{{% endif %}}\n{template}"
    tokenizer.chat_template = template
