"""What texts should not hold: control tokens, damage done by a wrong encoding, strings that look like secrets.

A pattern is tried only where a needle of it stands, and most of them only in text beyond ASCII: this runs on every row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..data import Prompt
from ..masking import mask, secrets_in
from ..text import harmless
from .rows import Seen

EXAMPLES = 3  # of each kind
AROUND = 40  # characters shown before and after
MOST = 240  # of what was found itself


class Kind(NamedTuple):
    """A thing to look for: what it is called, the characters of which one must be there, the pattern."""

    name: str
    gates: str
    pattern: re.Pattern[str]


CONTROL = Kind(
    "control tokens",
    "<[",
    re.compile(
        r"<\|[\w.-]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    ),
)
CONTROL_BYTES = bytes({*range(32), 127} - {*b"\t\n\r"})
CONTROLS = Kind("control characters", "", re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]"))
MISREAD = "Ã[\x80-\xbf]|Â[\x80-\xbf]|â[€\x80][\x80-\xbf™œ“”˜¦žŸ¢]|ðŸ|ð\x9f|ï»¿|ï\xbb\xbf"
KINDS = (
    CONTROL,
    Kind("replacement characters", "\ufffd", re.compile("\ufffd+")),
    Kind("UTF-8 read as another encoding", "ÃÂâðï", re.compile(MISREAD)),
    Kind("a tokenizer's own marks", "ĠĊ▁", re.compile("[ĠĊ▁][A-Za-z]+[ĠĊ▁]")),
    Kind("HTML entities", "&", re.compile(r"&(?:amp|lt|gt|quot|nbsp|#\d{2,5});")),
    Kind("escapes written out", "\\", re.compile(r"\\u[0-9a-fA-F]{4}")),
    Kind("byte order marks", "\ufeff", re.compile("\ufeff")),
)
GATES = tuple((gate, kind) for kind in KINDS for gate in kind.gates)
BREAKS = Kind("line breaks written out as \\n", "", re.compile(r"\\n(?![a-z])"))  # \nu and \nabla are LaTeX
DAMAGE = (*(kind.name for kind in KINDS[1:]), CONTROLS.name, BREAKS.name)


class Spot(NamedTuple):
    """Where something was found: the row's number, and the text around it, fit to be shown."""

    row: int
    text: str


def found_in(text: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of the first of every kind in a text; of secrets, under their own names, of all."""
    for name, _, pattern in dict.fromkeys(kind for gate, kind in GATES if gate in text):
        if match := pattern.search(text):
            yield name, *match.span()
    if _has_controls(text) and (match := CONTROLS.pattern.search(text)):
        yield CONTROLS.name, *match.span()
    if "\\n" in text and "\n" not in text and (match := BREAKS.pattern.search(text)):
        yield BREAKS.name, *match.span()
    yield from secrets_in(text)


def _has_controls(text: str) -> bool:
    """Whether a control character may be in a text, told faster than by a pattern."""
    data = text.encode("utf-8", "surrogatepass")
    return len(data.translate(None, CONTROL_BYTES)) != len(data) or b"\xc2" in data


@dataclass
class Texts:
    """How many rows hold something of each kind, and where the first ones are."""

    rows: Counter[str] = field(default_factory=Counter)
    spots: dict[str, list[Spot]] = field(default_factory=dict)
    tokens: Counter[str] = field(default_factory=Counter)  # rows in which each control token stands

    def add(self, seen: Seen) -> None:
        texts = texts_of(seen)
        whole = " ".join(texts)
        if "\\n" not in whole and next(found_in(whole), None) is None:
            return
        kinds: dict[str, tuple[str, int, int]] = {}
        for text in texts:
            for kind, start, end in found_in(text):
                kinds.setdefault(kind, (text, start, end))
            if CONTROL.name in kinds and kinds[CONTROL.name][0] is text:
                self.tokens.update(set(CONTROL.pattern.findall(text)))
        for kind, (text, start, end) in kinds.items():
            self.rows[kind] += 1
            spots = self.spots.setdefault(kind, [])
            if len(spots) < EXAMPLES:
                spots.append(Spot(seen.number, excerpt(text, start, end)))


def texts_of(seen: Seen) -> list[str]:
    """The texts of a row: of its prompt and responses, or, where there is no ballot, all that its fields hold."""
    if seen.ballot is None:
        return list(strings(seen.row))
    return [*turns(seen.ballot.prompt), *seen.ballot.responses]


def turns(prompt: Prompt) -> tuple[str, ...]:
    """The texts of a prompt."""
    return (prompt,) if isinstance(prompt, str) else tuple(turn.content for turn in prompt)


def strings(value: Any, depth: int = 8) -> Iterator[str]:
    """All strings in a value of JSON, down to a depth."""
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part, depth - 1)


def excerpt(text: str, start: int, end: int) -> str:
    """The text around a place in one line, secrets masked, nothing hidden."""
    first, last = max(0, start - AROUND), min(end, start + MOST) + AROUND
    before, after = "…" * (first > 0), "…" * (last < len(text))
    return " ".join(harmless(f"{before}{mask(text, first, last)}{after}").split())
