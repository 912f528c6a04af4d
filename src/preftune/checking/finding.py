"""A finding, and how shares and numbers are put in print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .texts import Spot

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
FEW = 0.01  # a share below which something is a note


@dataclass(frozen=True)
class Finding:
    """One thing to know: what was found, how many `of` how many, what to do about it, and where the first ones are."""

    key: str
    severity: str
    says: str
    do: str = ""
    count: int = 0
    of: int = 0
    spots: tuple[Spot, ...] = ()


Found = Iterator[Finding]


def percent(count: float, of: float) -> str:
    """A share in print: `12%`, `0.4%`, `< 0.1%`."""
    share = 100 * count / of if of else 0.0
    if 0 < share < 0.1:
        return "< 0.1%"
    return f"{share:.1f}%" if 0 < share < 10 and share != round(share) else f"{share:.0f}%"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def by_share(count: int, of: int, least: float = FEW) -> str:
    """A warning from a share on, a note below it."""
    return WARNING if count >= least * max(of, 1) else NOTE
