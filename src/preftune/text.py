"""Untrusted text made fit to print: nothing hidden, nothing reordered, no secret told on."""

from __future__ import annotations

import unicodedata

from .masking import mask

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # controls, bidi and other format marks, half pairs, separators
ALLOWED = frozenset("\n\t\u00ad\u200c\u200d")  # line ends, soft hyphens, and the joiners that scripts and emoji need


def harmless(text: str) -> str:
    """The text with every control, bidi or invisible character replaced by its visible number, such as ⟨U+202E⟩.

    What looks like a secret is cut down to its first characters.
    """
    text = mask(text)
    if text.isprintable():
        return text
    plain = text.replace("\r\n", "\n")
    return "".join(_visible(char) for char in plain)


def excerpt(text: str, most: int = 60) -> str:
    """The beginning of a text in quotes and on one line, for a message."""
    line = " ".join(harmless(text).split())
    return repr(line if len(line) <= most else f"{line[: most - 1]}…")


def _visible(char: str) -> str:
    if char in ALLOWED or unicodedata.category(char) not in HIDDEN:
        return char
    return f"⟨U+{ord(char):04X}⟩"
