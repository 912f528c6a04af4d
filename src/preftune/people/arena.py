"""A study judged by people: blind pairs of samples of its run ends, and their votes as evidence.

Either arms meet each other, each two at about one KL, or every run end meets the opponent, which corrects a judge. No
page is served which runs these are; names of pairs are digests.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..data import Annotation, Ballot, kept_digests, merge_prompts, prompt_digest, prompt_in
from ..errors import UserError
from ..evidence import (
    JUDGEMENTS_FILE,
    PEOPLE_FILE,
    PEOPLE_JUDGE,
    HumanVote,
    Judgement,
    Result,
    Sample,
    StudyRecord,
    anytime_interval,
    enough,
    keep_meetings,
    keep_people,
    pairs_of,
    people_of,
    run_names,
)
from .exports import win_of, winner_of
from .pairs import BOTH_BAD, Pair, in_order, named
from .store import Said

SAME = "pairs of identical texts"
SEEN = "pairs on prompts that a run was trained on"


class Together(NamedTuple):
    """A win rate by people and a judge, and its interval, which holds however often it is looked at."""

    wins: float
    low: float
    high: float


Meeting = tuple[tuple[str, int], tuple[str, int]]  # two runs, each at its step
Both = tuple[Sample, Sample]


@dataclass(frozen=True)
class Arena:
    """Pairs of samples in the order in which they are asked, and which samples each is of; `questions` are what is
    compared, in words, by the name that pairs have for it; `skipped` counts what nobody is asked about."""

    study: StudyRecord
    pairs: tuple[Pair, ...]
    samples: Mapping[str, Both]
    questions: Mapping[str, str]
    meetings: tuple[Meeting, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def arena_of(study: StudyRecord, meetings: Sequence[Meeting] = ()) -> Arena:
    """The arena of these meetings; without any, of every run end and the opponent. Raises UserError without a pair."""
    rows = {(row.run, row.step): row for row in study.ends()}
    met = _meetings(study, meetings, rows) if meetings else _opponents(study)
    found: dict[str, list[tuple[Pair, Both]]] = defaultdict(list)
    questions: dict[str, str] = {}
    skipped, trained = Counter[str](), _trained(study)
    for name, (question, told), (own, other) in met:
        if own.response == other.response:
            skipped[SAME] += 1
        elif _digest(own.prompt) in trained[own.run] | trained[other.run]:
            skipped[SEEN] += 1
        else:
            questions[question] = told
            pair = Pair(name, own.prompt, (own.response, other.response), question)
            found[f"{question} {own.prompt_id}"].append((pair, (own, other)))
    if not found:
        told = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise UserError(f"{study.folder}: has no pairs to vote on ({told or 'no samples of two that meet'})")
    asked = [(replace(pair, round=k), both) for each in found.values() for k, (pair, both) in enumerate(each)]
    pairs = in_order(pair for pair, _ in asked)
    return Arena(study, pairs, {pair.id: both for pair, both in asked}, questions, tuple(meetings), skipped)


def telling(arena: Arena) -> int:
    """In how many pairs a response has the name of an arm, a method or the model, and may tell whose it is."""
    rows, model = arena.study.trained(), str(arena.study.info["model"].get("name", ""))
    names = {name for row in rows for name in (row.arm, row.method)} | {re.split(r"[/\\]", model)[-1]}
    spoken = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(names) if name), re.IGNORECASE)
    return sum(any(map(spoken.search, pair.texts)) for pair in arena.pairs)


Met = Iterator[tuple[str, tuple[str, str], Both]]


def _meetings(study: StudyRecord, meetings: Sequence[Meeting], rows: Mapping[tuple[str, int], Result]) -> Met:
    """Samples of two arms, of different numbers where there are several: those of one number share their luck."""
    of: dict[tuple[str, int], dict[tuple[int, int], Sample]] = defaultdict(dict)
    for sample in study.samples:
        of[sample.run, sample.step][sample.prompt_id, sample.sample] = sample
    many = max((sample.sample for sample in study.samples), default=0) + 1
    found = []
    for a, b in meetings:
        arms, noise = (rows[a].arm, rows[b].arm), rows[a].noise
        question = named(*arms, noise), f"{arms[0]} beside {arms[1]}" + f", label noise {noise:g}" * bool(noise)
        for (prompt, k), own in of[a].items():
            other = of[b].get((prompt, (k + 1) % many))
            if other is not None:
                name = named("arena", *a, *b, prompt, k, own.prompt, own.response, other.response)
                found.append((name, question, (own, other)))
    return iter(sorted(found, key=lambda one: one[0]))  # seeds and samples of a prompt in a random order


def _opponents(study: StudyRecord) -> Met:
    names = run_names(study)
    for pair in sorted(pairs_of(study), key=lambda pair: pair.own.sample):
        run = pair.own.run
        told = f"{names.get(run, run)} beside the reference"
        yield pair.id, (named(run, pair.own.step), told), (pair.own, pair.other)


def _trained(study: StudyRecord) -> Mapping[str, frozenset[str]]:
    """Digests of the prompts that each run was trained on, as its folder keeps them."""
    folders = {row.run: study.folder / "runs" / row.run for row in study.trained()}
    known = {run: kept_digests(folder) or frozenset() for run, folder in folders.items()}
    return defaultdict(frozenset, known)


def _digest(prompt: str) -> str:
    """The digest of a sample's prompt; a transcript is that of its turns."""
    return prompt_digest(prompt_in({"prompt": prompt}) or prompt)


# --- votes as evidence ------------------------------------------------------------------------------------------------


def keep_as_evidence(arena: Arena, votes: Sequence[Said], names: Mapping[str, str]) -> Path:
    """Write the votes into the study, in the place of what its arena had said before; the file.

    `names` are the pseudonyms of everybody who ever voted here.
    """
    pairs = {pair.id: pair for pair in arena.pairs}
    if arena.meetings:
        keep_meetings(arena.study.folder, _judgements(arena, votes, pairs))
        return arena.study.folder / JUDGEMENTS_FILE
    found = [_human_vote(*arena.samples[said.pair], said, pairs[said.pair], names[said.person]) for said in votes]
    keep_people(arena.study.folder, found, set(names.values()))
    return arena.study.folder / PEOPLE_FILE


def _judgements(arena: Arena, votes: Sequence[Said], pairs: Mapping[str, Pair]) -> list[Judgement]:
    """What people said of each pair on the whole, a tie one half."""
    wins = defaultdict[str, list[float]](list)
    for said in votes:
        wins[said.pair].append(win_of(said, pairs[said.pair]))
    found = []
    for name, values in wins.items():
        own, other = arena.samples[name]
        where = (own.run, own.step, own.prompt_id, own.sample, other.run, other.step, other.sample)
        mean = sum(values) / len(values)
        told = f"votes of people: {len(values)}"
        found.append(Judgement(PEOPLE_JUDGE, *where, mean, mean, told, earliest=values[0]))
    return found


def _human_vote(own: Sample, other: Sample, said: Said, pair: Pair, name: str) -> HumanVote:
    where = own.run, own.step, own.prompt_id, own.sample, other.sample
    return HumanVote(*where, win_of(said, pair), name, said.winner == BOTH_BAD)


def with_the_judge(arena: Arena, votes: Sequence[Said], planned: int, alpha: float) -> dict[str, Together]:
    """What people and the judge of the study say together of each run end, by its question; nothing without a judge, or
    before there are votes enough for an interval that is one for large samples."""
    pairs = {pair.id: pair for pair in arena.pairs}
    questions = {own.run: pairs[name].question for name, (own, _) in arena.samples.items()}
    found = [_human_vote(*arena.samples[said.pair], said, pairs[said.pair], said.person) for said in votes]
    wins: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for vote in found:
        wins[vote.run][vote.prompt_id].append(vote.win)
    told = {}
    for run, powered in people_of(replace(arena.study, people=tuple(found))) if not arena.meetings else ():
        means = [sum(each) / len(each) for each in wins[run].values()]
        counts = sum(one > 0.5 for one in means), means.count(0.5), sum(one < 0.5 for one in means)
        if enough(*counts):
            told[questions[run]] = Together(powered.both.value, *anytime_interval(powered.both, planned, alpha))
    return told


def as_ballots(arena: Arena, votes: Sequence[Said], names: Mapping[str, str]) -> tuple[Ballot, ...]:
    """The votes as ballots to learn from. What learns from them keeps digests of their prompts, and meets nobody on
    these prompts again."""
    pairs = {pair.id: pair for pair in arena.pairs}
    said = defaultdict[str, list[Annotation]](list)
    for vote in votes:
        said[vote.pair].append(Annotation(0, 1, winner_of(vote, pairs[vote.pair]), names[vote.person]))
    return merge_prompts(_ballot(name, arena.samples[name], tuple(each)) for name, each in said.items())


def _ballot(name: str, both: Both, said: tuple[Annotation, ...]) -> Ballot:
    prompt = prompt_in({"prompt": both[0].prompt}) or both[0].prompt
    texts, ended = tuple(one.response for one in both), tuple(one.ended for one in both)
    return Ballot(prompt, texts, tuple(one.vote for one in said), name, "arena", ended, said).pooled()
