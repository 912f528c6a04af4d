"""A study's answer as Markdown for a pull request: no name or text acts in it, mentions anybody or breaks a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..evidence import StudyRecord, Verdict
from ..text import harmless
from .cards import Card, cards, headline, progress
from .facts import compared
from .tables import best_rows

MOST = 20  # rows of a table
ESCAPED = str.maketrans(
    {"&": "&amp;", "<": "&lt;", "@": "&#64;", "#": "&#35;"} | {char: f"\\{char}" for char in "\\`*_[]|~!>"}
)


def summary(study: StudyRecord, answer: Verdict) -> str:
    """The question, the answer, a row for each pair of arms and for each arm's best run, alarms, and what limits it."""
    title = str(study.info["title"]) or "A study of preference learning"
    found = cards(study, answer)
    best = [(code(row.name), row.gain) for row in best_rows(study, answer)]
    parts = [
        f"### {plain(title)}",
        f"**{plain(headline(study, answer))}** {progress(study)}".rstrip(),
        _alarms(answer.alarms),
        _table(("arms", "verdict", "difference", "could have seen", "rests on"), map(_pair, found)),
        _table(("best run of each arm", "gain over the reference"), best),
        plain(answer.sentence),
        _details("What limits it", [*study.info["notes"], *answer.caveats]),
        f"<sub>{plain(compared(study))}</sub>",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pair(card: Card) -> tuple[str, ...]:
    noise = f" ({plain(card.noise)})" if card.noise else ""
    seen = card.seen.removeprefix("could have seen ")
    return f"{code(card.a)} and {code(card.b)}{noise}", plain(card.word), plain(card.difference), seen, card.rests


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    more = [f"\n{len(lines) - MOST} more rows are in the report."] if len(lines) > MOST else []
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines[:MOST], *more])


def _alarms(alarms: Sequence[str]) -> str:
    return "\n".join(["> **Alarms**", ">", *(f"> - {plain(alarm)}" for alarm in alarms)]) if alarms else ""


def _details(title: str, cases: Sequence[object]) -> str:
    if not cases:
        return ""
    listed = "\n".join(f"- {plain(str(case))}" for case in cases)
    return f"<details><summary>{title}</summary>\n\n{listed}\n\n</details>"


def plain(text: str) -> str:
    """Untrusted text as Markdown that shows it: one line, no markup, no mention, no link."""
    line = " ".join(harmless(text).split()).translate(ESCAPED)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(name: str) -> str:
    """A name as code, in as many backticks as it needs."""
    line = " ".join(harmless(name).split()).replace("|", "¦")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{room}{line}{room}{fence}"
