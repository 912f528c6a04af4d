"""Strings that look like secrets: found, and hidden wherever a text is shown.

A pattern is tried only where a needle of it stands, and most needles only where their rarest character does: this is
asked of every row of a file, and one character is found ten times as fast as a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Secret(NamedTuple):
    """A kind of secret, and its pattern; if that has a group, the group is the secret."""

    kind: str
    pattern: re.Pattern[str]


NAMES = r"(?i:password|passwd|api[_-]?key|secret[_-]?key|access[_-]?token)"
VALUE = r"(?=[^\s'\"]*\d)(?=[^\s'\"]*[A-Za-z])[^\s'\"]{8,}"
BLOCK_END = r"-----END [A-Z ]*PRIVATE KEY-----"
BLOCK = Secret("private key", re.compile(rf"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:{BLOCK_END}|\Z)", re.DOTALL))
AWS = Secret("AWS key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"))
GITHUB = Secret("GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"))
API = Secret("API key", re.compile(r"\b(?:sk-|[sr]k_live_)[A-Za-z0-9_-]{20,}"))
HUB = Secret("Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"))
GOOGLE = Secret("Google key", re.compile(r"\bAIza[\w-]{35}"))
SLACK = Secret("Slack token", re.compile(r"\bxox[abeprs]-[\w-]{10,}"))
WEB = Secret("web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+"))
ADDRESS = Secret("password in an address", re.compile(r"://[^\s/:@]{1,64}:([^\s/@]{3,64})@"))
NAMED = Secret("password after its name", re.compile(rf"(?<![A-Za-z]){NAMES}['\"]?\s*[:=]\s*['\"]?({VALUE})"))

NAMED_BY = ("passw", "key", "token")  # in small letters: one of them is in every name
NEEDLES = (  # rarest character, needle, what it may be
    ("-", "-----BEGIN", BLOCK),
    ("K", "AKIA", AWS),
    ("A", "ASIA", AWS),
    ("_", "gh", GITHUB),
    ("-", "sk-", API),
    ("_", "k_live_", API),
    ("_", "hf_", HUB),
    ("A", "AIza", GOOGLE),
    ("-", "xox", SLACK),
    ("J", "eyJ", WEB),
    ("@", "://", ADDRESS),
)
BY_RARE = {rare: [(needle, secret) for r, needle, secret in NEEDLES if r == rare] for rare, _, _ in NEEDLES}
KEPT = 4  # characters of a secret that stay in sight
HIDDEN = "•••"


class Found(NamedTuple):
    """A string that looks like a secret, and where it stands in its text."""

    kind: str
    start: int
    end: int


def secrets_in(text: str) -> Iterator[Found]:
    """Whatever in a text looks like a secret, kind by kind."""
    there = [needles for rare, needles in BY_RARE.items() if rare in text]
    suspected = [secret for needles in there for needle, secret in needles if needle in text]
    before_sign = text[: max(text.rfind(":"), text.rfind("="), 0)].lower()
    if any(name in before_sign for name in NAMED_BY):
        suspected.append(NAMED)
    for kind, pattern in dict.fromkeys(suspected):
        for match in pattern.finditer(text):
            yield Found(kind, *match.span(pattern.groups))


def mask(text: str, start: int = 0, end: int | None = None) -> str:
    """The text from `start` to `end` with what looks like a secret cut down to its first characters.

    A secret that the part cuts through is hidden all the same. Of a short one nothing is shown.
    """
    parts, last = [], start
    end = len(text) if end is None else end
    for _, first, after in sorted(secrets_in(text), key=lambda found: found.start):
        if after > last and first < end:
            shown = min(KEPT, (after - first) // 5) if first >= last else 0
            parts += [text[last : max(first, last) + shown], HIDDEN]
            last = after
    return "".join(parts) + text[last:end]
