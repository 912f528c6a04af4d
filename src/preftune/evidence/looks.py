"""The predeclared looks of a study that goes on until its verdict: which is under way, what the last one may spend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .comparisons import LEVEL
from .results import StudyRecord


@dataclass(frozen=True)
class Looks:
    """What `study.json` says of the looks of a study: nothing, where it was made at once."""

    study: StudyRecord

    @property
    def _done(self) -> list[Mapping[str, Any]]:
        return list(self.study.info["looks"].get("done", ()))

    def alpha(self) -> float:
        """How often a study may tell arms apart that are equal: .05, or the share of the last look that is done."""
        return float(self._done[-1]["alpha"]) if self._done else LEVEL

    def under_way(self) -> str:
        """Which look has begun and is not done, in words; "" if none is."""
        looks, done = self.study.info["looks"], self._done
        if not looks or looks["ended"] or (done and done[-1]["seeds"] >= len(self.study.info["seeds"])):
            return ""
        return f"look {len(done) + 1} of {len(looks['schedule'])} is under way, and a verdict comes at its end"

    def told(self) -> str:
        """The last look that is done, in words; "" if there is none."""
        if not self._done or self.under_way():
            return ""
        last, of = self._done[-1], len(self.study.info["looks"]["schedule"])
        return f"Look {len(self._done)} of {of}, {last['seeds']} seeds on {last['prompts']} prompts."

    def caveats(self) -> Iterator[str]:
        """How the 5% are shared and why there is no further look; and what was added by hand after an answer."""
        looks = self.study.info["looks"]
        if looks and looks["ended"] and not self.under_way():
            yield (
                f"The 5% are shared by {len(looks['schedule'])} looks that were fixed before the first run; this one "
                f"judges at {100 * self.alpha():.3g}%. No other followed: {looks['ended']}."
            )
        added = [
            f"{what} {', '.join(map(str, of))}" for one in self.study.info["grown"] for what, of in one["added"].items()
        ]
        if added:
            yield (
                f"Added by hand after an answer had been seen: {'; '.join(added)}. A study that grows until its answer "
                "pleases is wrong more often than its intervals say."
            )
