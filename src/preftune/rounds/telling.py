"""How a round went, and what may be concluded of all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data import Ballot
from ..errors import UserError
from ..evidence import PEOPLE_JUDGE, StudyRecord, clustered_mean, exact_interval, read_record, read_study
from ..people import figures_of


@dataclass(frozen=True)
class Told:
    """How a round went: what it learned from, how far from the reference its policy is, and how often it wins against
    the one of the last round on held-out prompts, a tie one half, with a 95% interval over prompts."""

    round: int
    against: str
    ballots: int
    votes: int
    kl: float | None
    kl_se: float | None
    wins: float | None
    low: float
    high: float
    prompts: int
    missing: int

    @property
    def clear(self) -> bool:
        """Whether ½ is outside of the interval."""
        return not self.low <= 0.5 <= self.high


def tell(number: int, against: str, ballots: Sequence[Ballot], folder: Path) -> Told:
    """How a round went, from its votes and from the study of its judgement."""
    study, name = read_study(folder), f"round-{number}"
    row = next(row for row in study.results if row.run == name)
    votes = sum(len(ballot.annotations) or len(ballot.votes) for ballot in ballots)
    judged = _by_judge(study, name, against) if study.info["judges"] else _by_people(folder)
    return Told(number, against, len(ballots), votes, row.kl, row.kl_se, *judged)


Judged = tuple[float | None, float, float, int, int]


def _by_judge(study: StudyRecord, name: str, against: str) -> Judged:
    """Wins, low, high; on how many prompts, and how many contests have no verdict."""
    of: dict[int, list[float]] = defaultdict(list)
    missing = 0
    for one in study.judgements:
        if (one.run, one.against, one.again) == (name, against, False) and one.judge != PEOPLE_JUDGE:
            if one.preference is None:
                missing += 1
            else:
                of[one.prompt_id].append(one.preference)
    if not of:
        return None, 0.0, 1.0, 0, missing
    means = [sum(own) / len(own) for own in of.values()]
    found = clustered_mean(means, list(of))
    # where all prompts say the same, a standard error of 0 tells nothing
    low, high = found.interval() if found.se else exact_interval(means)
    return found.value, max(low, 0.0), min(high, 1.0), len(of), missing


def _by_people(folder: Path) -> Judged:
    (asked,) = figures_of(folder / "arena" / "arms")["questions"]
    return asked["wins"], asked["low"], asked["high"], asked["prompts"], 0


def read_told(path: Path) -> Told:
    """How a round went, as it was written down. Raises UserError for a file that is none of ours."""
    record = read_record(path)
    if record.keys() != {field.name for field in fields(Told)}:
        raise UserError(f"{path}: is no record of a round; remove it, and the round is judged again")
    return Told(**record)


def conclusions(rows: Sequence[Told], voter: str, people: bool) -> list[str]:
    """What may be concluded, and what may not."""
    said = [_said(row) for row in rows]
    if people:
        said.append(
            "By people, blind, on held-out prompts: of these people, prompts and samples; who voted in a round may "
            "have judged it too."
        )
    else:
        said.append(
            f"{voter} cast the votes that every round learned from, and judged it: no independent judge. It says how "
            "far it was obeyed; ask another one, or people (preftune judge, preftune arena)."
        )
    if len(rows) > 1:
        said.append(f"Each interval holds 95% of the time by itself, not all {len(rows)} together.")
    return said


def _said(row: Told) -> str:
    name = f"round {row.round}"
    other = f"round {row.against.removeprefix('round-')}" if row.against.startswith("round-") else f"the {row.against}"
    if row.wins is None:
        return f"{name}: nothing was said of it beside {other}."
    told = f"({100 * row.wins:.1f}% of wins, {100 * row.low:.1f} to {100 * row.high:.1f})"
    if not row.clear:
        return f"{name} is not told apart from {other} {told}."
    return f"{name} {'wins' if row.wins > 0.5 else 'loses'} against {other} {told}."


def record_of(rows: Sequence[Told], settings: dict[str, Any], said: Sequence[str]) -> dict[str, Any]:
    """`rounds.json`."""
    return {"schema": 1, "settings": settings, "rounds": [vars(row) for row in rows], "concluded": list(said)}
