"""What the commands that serve a page have in common: their flags, and where they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .flags import Parsed

if TYPE_CHECKING:
    from ..people import Address

SERVING = ("by", "overlap", "port", "host")


def address_of(given: Parsed) -> Address:
    """Where a person wants the page to be."""
    from ..people import Address

    return Address(**{name: given[name] for name in ("host", "port") if name in given})


def who_of(given: Parsed) -> dict[str, Any]:
    """Who votes, and how much everybody is asked. Raises UserError for a share that is none."""
    share = given.get("overlap", 0.2)
    if not 0 <= share <= 1:
        raise UserError(f"--overlap {share:g}: must be a share, from 0 to 1")
    return {"share": share, "name": given.get("by", "")}
