"""Control tokens: only a chat template writes one, and text of the data that spells one stays text.

A template puts the texts of a chat between its own control tokens, and afterwards nothing tells whose are whose. So
before it does, a gap (a character that occurs nowhere in the chat) is put into every control token that the data
spells; what is still whole after rendering is the template's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

GAPS = range(0xE000, 0xF900)  # characters for private use


@dataclass(frozen=True)
class Controls:
    """The control tokens of a tokenizer: ids by text, and which of them swallow the white space beside them.

    `unknown` is what words outside the vocabulary become: an id that text may have.
    """

    ids: Mapping[str, int]
    strips: Mapping[str, tuple[bool, bool]]  # before it, after it
    unknown: int | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Any of them as text, the longest first."""
        return re.compile(any_of(list(self.ids)) or "(?!)")

    @cached_property
    def forbidden(self) -> frozenset[int]:
        """Ids that no text may become."""
        return frozenset(self.ids.values()) - {self.unknown}

    def count(self, texts: Iterable[str]) -> int:
        """How many control tokens the texts spell."""
        return sum(len(self.pattern.findall(text)) for text in texts)

    def mark(self, value: Any, gap: str) -> Any:
        """The value with the gap in every control token that a text in it spells."""
        if isinstance(value, str):
            while self.pattern.search(value):
                value = self.pattern.sub(lambda found: f"{found[0][:1]}{gap}{found[0][1:]}", value)
            return value
        if isinstance(value, dict):
            return {self.mark(key, gap): self.mark(part, gap) for key, part in value.items()}
        return [self.mark(part, gap) for part in value] if isinstance(value, list | tuple) else value

    def split(self, rendered: str) -> list[tuple[str, int | None]]:
        """(text, None) and (control token, its id) in turn; white space that a control token swallows is gone."""
        texts, own = self.pattern.split(rendered), self.pattern.findall(rendered)
        for i, name in enumerate(own):
            before, after = self.strips.get(name, (False, False))
            texts[i] = texts[i].rstrip() if before else texts[i]
            texts[i + 1] = texts[i + 1].lstrip() if after else texts[i + 1]
        pieces: list[tuple[str, int | None]] = [(texts[0], None)]
        for name, text in zip(own, texts[1:], strict=True):
            pieces += [(name, self.ids[name]), (text, None)]
        return pieces

    def as_text(self, text: str, encode: Callable[[str], list[int]], onward: Callable[[str], list[int]]) -> list[int]:
        """Ids of a text with every control token that it spells cut in two; `onward` encodes what is no beginning."""
        gap = free_gap([text])
        first, *rest = self.mark(text, gap).split(gap)
        return [*encode(first), *(token for part in rest for token in onward(part))]


def any_of(words: Sequence[str]) -> str:
    """A pattern for any of the words, the longest that fits; reading a character once, however many they are."""
    heads = groupby(sorted(words), key=lambda word: word[:1])
    branches = [re.escape(head) + any_of([word[1:] for word in own]) for head, own in heads if head]
    pattern = f"(?:{'|'.join(branches)})" if branches else ""
    return f"{pattern}?" if branches and "" in words else pattern


def free_gap(values: Sequence[Any]) -> str:
    """A character that occurs in no text among the values, lists of texts among them."""
    there = set("".join(_texts_in(values)))
    return next(chr(code) for code in GAPS if chr(code) not in there)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part)
