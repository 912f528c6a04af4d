"""Long texts folded, so that a page stays readable."""

from __future__ import annotations

from dataclasses import dataclass

LONG = 600  # characters that stay in sight
ENOUGH = 4_000  # characters that a page holds of one text


@dataclass(frozen=True)
class Folded:
    """A text in two parts: what is in sight and what opens on a click; `omitted` characters are in neither."""

    shown: str
    rest: str = ""
    omitted: int = 0


def cut(text: str) -> str:
    """A text that is no sample, such as a title or a note: no more of it than a page holds."""
    return text if len(text) <= ENOUGH else f"{text[:ENOUGH]}… ({len(text) - ENOUGH:,} more characters)"


def fold(text: str, *, keep_end: bool = False) -> Folded:
    """Fold a long text after its first part, or before its last one: of a chat, the last turn is what was answered."""
    if len(text) <= LONG * 1.2:
        return Folded(text)
    omitted = max(0, len(text) - ENOUGH)
    if keep_end:
        return Folded(text[-LONG:], text[omitted:-LONG], omitted)
    return Folded(text[:LONG], text[LONG : len(text) - omitted], omitted)
