"""Votes of people on samples of a study: pairs for them, without a word of whose they are, and their votes read back.

A pair is named by its content, so that votes on samples of another study, or of other samples, are noticed. Prompts
come in a random order that is fixed before anybody votes, all run ends of a prompt together: whoever stops early has
voted on a random part of the prompts, at the same ones of every run.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .anytime import Question, question_of
from .judgements import JUDGEMENTS_FILE, OPPONENT, PEOPLE_FILE, PEOPLE_JUDGE, HumanVote, Judgement
from .results import Result, Sample, StudyRecord, read_judgements
from .rows import latest, read_lines, write_records
from .stats import Estimate, Floats, clustered_mean

LEVEL = 0.05  # of all comparisons by people together
APART = 2.0  # two ends meet if one has at most so many times the KL of the other
WINS = {"tie": 0.5, "both_bad": 0.5}  # beside a and b


@dataclass(frozen=True)
class Pair:
    """A sample of a run beside the opponent's to the same prompt; `swapped`: the run's is shown as b."""

    id: str
    own: Sample
    other: Sample
    swapped: bool

    def shown(self) -> dict[str, str]:
        """What a person sees, as a line of the file."""
        texts = (self.own.response, self.other.response)
        a, b = texts[::-1] if self.swapped else texts
        return {"pair": self.id, "prompt": self.own.prompt, "a": a, "b": b, "winner": ""}


def pairs_of(study: StudyRecord) -> Iterator[Pair]:
    """Every pair that people may be asked about, in the order in which they are to be: identical texts are none."""
    opponents = {(s.prompt_id, s.sample): s for s in study.opponents if s.run == OPPONENT}
    ends = {(row.run, row.step) for row in study.ends()}
    own = [s for s in study.samples if (s.run, s.step) in ends and (s.prompt_id, s.sample) in opponents]
    found = [_pair(sample, opponents[sample.prompt_id, sample.sample]) for sample in own]
    kept = (pair for pair in found if pair.own.response != pair.other.response)
    return iter(sorted(kept, key=lambda pair: (_hash("prompt", pair.own.prompt), pair.own.prompt_id, pair.id)))


def _pair(own: Sample, other: Sample) -> Pair:
    name = _hash(own.run, own.step, own.prompt_id, own.sample, own.prompt, own.response, other.response)
    return Pair(name[:16], own, other, int(name[16:], 16) % 2 == 1)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def arms_met(ends: Sequence[Result]) -> Iterator[tuple[Result, Result]]:
    """Pairs of run ends of two arms at about the same KL: the nearest two at each seed and rate of label noise."""
    groups: dict[tuple[int, float], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for row in ends:
        if row.kl is not None and row.kl > 0:
            groups[row.seed, row.noise][row.arm].append(row)
    for arms in groups.values():
        for a, b in itertools.combinations(arms.values(), 2):
            pair = min(itertools.product(a, b), key=lambda pair: abs(math.log((pair[0].kl or 1) / (pair[1].kl or 1))))
            if abs(math.log((pair[0].kl or 1) / (pair[1].kl or 1))) <= math.log(APART):
                yield pair


def write_pairs(study: StudyRecord, path: Path) -> int:
    """Write the pairs for people to vote on, `winner` left empty; how many there are.

    Raises UserError for a study that has no samples to judge by, or a file that is there already.
    """
    if path.exists():
        raise UserError(f"--pairs {path}: is there already, maybe with votes in it; name another file")
    rows = [pair.shown() for pair in pairs_of(study)]
    if not rows:
        raise UserError(
            f"{study.folder}: has no samples of an opponent to vote on; `preftune compare --judge` draws them"
        )
    write_records(path, rows)
    return len(rows)


def keep_votes(study: StudyRecord, path: Path) -> tuple[int, int]:
    """Read people's votes and keep them in the study's folder, beside those that are there; (votes, lines without one).

    Each line has the `pair` and the `winner` (a, b, tie or both_bad), and may say who voted (`by`). The latest vote of
    a person on a pair stands. Raises UserError, with the line, for anything else, and for pairs of another study.
    """
    known = {pair.id: pair for pair in pairs_of(study)}
    votes, empty = [], 0
    for number, row in _lines(path):
        where = f"--human-votes {path}, line {number}"
        winner, name = row.get("winner"), row.get("pair")
        if winner in (None, ""):
            empty += 1
            continue
        if name not in known:
            raise UserError(
                f"{where}: pair {name!r:.40} is none of this study's; were the votes on samples of another?"
            )
        if winner not in (*WINS, "a", "b"):
            raise UserError(f"{where}: `winner` is {winner!r:.40}; it must be a, b, tie or both_bad")
        votes.append(_vote(known[name], str(winner), str(row.get("by", ""))))
    if not votes:
        raise UserError(f"--human-votes {path}: holds no votes")
    there = study.folder / PEOPLE_FILE
    before = read_human_votes(there) if there.exists() else ()
    kept = {vote.where: vote for vote in (*before, *votes)}
    write_records(there, kept.values())
    return len(votes), empty


def keep_people(folder: Path, votes: Sequence[HumanVote], instead_of: Collection[str]) -> None:
    """Keep votes on run ends and the opponent beside those that are there, in the place of all by certain people."""
    path = folder / PEOPLE_FILE
    before = read_human_votes(path) if path.exists() else ()
    kept = {vote.where: vote for vote in (*(vote for vote in before if vote.by not in instead_of), *votes)}
    if kept or path.exists():
        write_records(path, kept.values())


def keep_meetings(folder: Path, votes: Sequence[Judgement]) -> None:
    """Keep what people said of two runs that met, a line a contest, in the place of what they said before."""
    path = folder / JUDGEMENTS_FILE
    before = read_judgements(path) if path.exists() else ()
    kept = [*(one for one in before if one.judge != PEOPLE_JUDGE), *votes]
    if kept or path.exists():
        write_records(path, kept)


@dataclass(frozen=True)
class MetByPeople:
    """What people said, blind, of two arms that met: on how many pairs, how often the first wins by all votes, and the
    comparison by the first vote on each prompt, whose interval holds at any time."""

    a: str
    b: str
    noise: float
    pairs: int
    wins: Estimate
    question: Question


def met_by_people(study: StudyRecord) -> list[MetByPeople]:
    """Every two arms that people compared in an arena; all intervals together hold with 95%."""
    rows = {(row.run, row.step): row for row in study.results}
    ends = study.ends()
    meet = arms_met(ends) if study.info["betas"] else itertools.combinations(ends, 2)
    count = len({(a.arm, b.arm, a.noise) for a, b in meet})
    said: dict[tuple[str, str, float], list[Judgement]] = defaultdict(list)
    for one in study.judgements:
        a, b = rows.get((one.run, one.step)), rows.get((one.against, one.against_step))
        if one.judge == PEOPLE_JUDGE and a and b and one.preference is not None and one.earliest is not None:
            said[a.arm, b.arm, a.noise].append(one)
    return [_met(*arms, of, LEVEL / max(count, len(said))) for arms, of in said.items()]


def _met(a: str, b: str, noise: float, said: Sequence[Judgement], alpha: float) -> MetByPeople:
    """Rows come in the order of the first vote on each pair."""
    first: dict[int, float] = {}
    for one in said:
        first.setdefault(one.prompt_id, one.earliest or 0.0)
    wins = clustered_mean([one.preference or 0.0 for one in said], [one.prompt_id for one in said])
    return MetByPeople(a, b, noise, len(said), wins, question_of(f"{a} beside {b}", list(first.values()), alpha))


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise UserError(f"--human-votes {path}: there is no such file")
    lines, cut = read_lines(path)
    if cut:
        raise UserError(f"--human-votes {path}: its last line is cut off; mend it or remove it")
    return lines


def _vote(pair: Pair, winner: str, by: str) -> HumanVote:
    win = WINS.get(winner, float((winner == "a") != pair.swapped))
    own = pair.own
    return HumanVote(own.run, own.step, own.prompt_id, own.sample, pair.other.sample, win, by, winner == "both_bad")


def read_human_votes(path: Path) -> tuple[HumanVote, ...]:
    """The rows of `human-votes.jsonl`; the latest of a person on a pair stands. Raises UserError, with the line."""
    return latest(HumanVote, read_lines(path)[0], path, attrgetter("where"))


@dataclass(frozen=True)
class VoteTables:
    """Of run ends R and prompts P: h, the mean vote of people on a prompt; l, the judge on the same pairs; f, the judge
    on all pairs; `[R, P]` each. h and l are not a number where nobody voted, or not on every run end (`partly` counts
    such prompts)."""

    h: Floats
    l: Floats  # noqa: E741 (the letters of prediction_powered)
    f: Floats
    partly: int

    @property
    def voted(self) -> int:
        """Prompts with votes on every run end."""
        return int(np.isfinite(self.h[0]).sum()) if len(self.h) else 0


def vote_tables(
    votes: Sequence[HumanVote],
    rows: Sequence[Result],
    prompts: Sequence[int],
    wins: Mapping[tuple[int, int, int], float],
) -> VoteTables:
    """The tables of people's votes beside a judge's F of (run end, prompt, sample), ½ where it has no verdict."""
    at, number = {(row.run, row.step): i for i, row in enumerate(rows)}, {p: i for i, p in enumerate(prompts)}
    of_people, of_judge = (defaultdict[tuple[int, int], list[float]](list) for _ in range(2))
    for vote in votes:
        if (vote.run, vote.step) in at and vote.prompt_id in number:
            place = at[vote.run, vote.step], number[vote.prompt_id]
            of_people[place].append(vote.win)
            of_judge[place].append(wins.get((*place, vote.sample), 0.5))
    seen = Counter(prompt for _, prompt in of_people)
    whole = [prompt for prompt, count in seen.items() if count == len(rows)]
    h, l = (np.full((len(rows), len(prompts)), np.nan) for _ in range(2))  # noqa: E741
    for prompt in whole:
        for i in range(len(rows)):
            h[i, prompt], l[i, prompt] = np.mean(of_people[i, prompt]), np.mean(of_judge[i, prompt])
    everything = defaultdict[tuple[int, int], list[float]](list)
    for (i, prompt, _), win in wins.items():
        everything[i, prompt].append(win)
    f = np.array([[np.mean(everything.get((i, p), [0.5])) for p in range(len(prompts))] for i in range(len(rows))])
    return VoteTables(h, l, f, len(seen) - len(whole))
