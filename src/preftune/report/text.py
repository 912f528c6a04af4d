"""Untrusted text made fit to print: nothing hidden, nothing reordered, nothing endless."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # controls, bidi and other format marks, half pairs, separators
ALLOWED = frozenset("\n\t\u00ad\u200c\u200d")  # line ends, soft hyphens, and the joiners that scripts and emoji need
LONG = 600  # characters that stay in sight
ENOUGH = 10_000  # characters that a page holds of one text


@dataclass(frozen=True)
class Folded:
    """A text in two parts: what is in sight and what opens on a click; `omitted` characters are in neither."""

    shown: str
    rest: str = ""
    omitted: int = 0


def harmless(text: str) -> str:
    """The text with every control, bidi or invisible character replaced by its visible number, such as ⟨U+202E⟩."""
    if text.isprintable():
        return text
    plain = text.replace("\r\n", "\n")
    return "".join(_visible(char) for char in plain)


def _visible(char: str) -> str:
    if char in ALLOWED or unicodedata.category(char) not in HIDDEN:
        return char
    return f"⟨U+{ord(char):04X}⟩"


def fold(text: str, *, keep_end: bool = False) -> Folded:
    """Fold a long text after its first part, or before its last one: of a chat, the last turn is what was answered."""
    if len(text) <= LONG * 1.2:
        return Folded(text)
    omitted = max(0, len(text) - ENOUGH)
    if keep_end:
        return Folded(text[-LONG:], text[omitted:-LONG], omitted)
    return Folded(text[:LONG], text[LONG : len(text) - omitted], omitted)
