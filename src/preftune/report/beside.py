"""Two studies of the same data put beside each other: their runs judged together, their differences named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..evidence import CONTROLS, OPPONENT, REFERENCE, Comparison, Result, StudyRecord, Verdict, judges_of, verdict
from .cards import headline

MARKS = ("A", "B")
SHARED = (REFERENCE, OPPONENT, *CONTROLS)  # runs that two studies have in common
NOT_SETTINGS = ("steps", "optimiser_steps")
WHAT_MUST_BE_ALIKE = (  # words, where it stands in study.json
    ("data", ("data", "tokens_sha256")),
    ("data", ("data", "sha256")),
    ("reference model", ("reference", "sha256")),
    ("judge", ("gold", "name")),
    ("--max-new-tokens", ("settings", "max_new_tokens")),
)


class Side(NamedTuple):
    """One of two studies, as the page names it."""

    mark: str
    title: str
    headline: str
    where: str


class Beside(NamedTuple):
    """What a page says of two studies beyond what it says of one."""

    studies: tuple[Side, ...]
    differences: tuple[tuple[str, str, str], ...]
    corrected: str


def put_beside(first: StudyRecord, second: StudyRecord) -> tuple[StudyRecord, Beside]:
    """Both studies as one, every arm marked with whose it is, and what is to be said of the two.

    Raises UserError if they differ in what a comparison rests on: data, prompts, reference, judge, length of samples.
    """
    check_alike(first, second)
    both = [marked(study, mark) for study, mark in zip((first, second), MARKS, strict=True)]
    merged = _merged(*both)
    pairs = len(verdict(merged).comparisons)
    sides = tuple(
        Side(mark, str(study.info["title"]), headline(study, verdict(study)), study.folder.name)
        for study, mark in zip((first, second), MARKS, strict=True)
    )
    corrected = f"intervals are corrected for all {pairs} pairs of arms of both."
    return merged, Beside(sides, tuple(differences(first.info, second.info)), corrected)


def across(answer: Verdict) -> Verdict:
    """The answer with the pairs alone that stand in different studies; where an arm is in both, its own come first."""
    pairs = [pair for pair in answer.comparisons if _mark(pair.a) != _mark(pair.b)]
    return replace(answer, comparisons=tuple(sorted(pairs, key=lambda pair: not _is_same(pair))))


def of_same_arms(answer: Verdict) -> Verdict:
    """The answer with the pairs alone of one arm in both studies; with all across the two where there are none."""
    pairs = across(answer).comparisons
    return replace(answer, comparisons=tuple(filter(_is_same, pairs)) or pairs)


def _is_same(pair: Comparison) -> bool:
    return pair.a.removesuffix(f"[{MARKS[0]}]") == pair.b.removesuffix(f"[{MARKS[1]}]")


def _mark(arm: str) -> str:
    return arm[-2:-1]


def check_alike(first: StudyRecord, second: StudyRecord) -> None:
    """Raises UserError that names what differs in what a comparison rests on."""
    if first.folder.resolve() == second.folder.resolve():
        raise UserError(f"{first.folder}: both are the same study; name two")
    for words, place in WHAT_MUST_BE_ALIKE:
        here, there = (_at(study.info, place) for study in (first, second))
        if here != there:
            raise UserError(
                f"{second.folder}: its {words} is not that of {first.folder} ({here!r:.24} and {there!r:.24}); "
                "only studies that differ in neither data nor evaluation can be compared"
            )
    if _judges(first) != _judges(second):
        raise UserError(
            f"{second.folder}: its judges are not those of {first.folder}; only studies that were judged alike can be "
            "compared"
        )
    if _prompts(first) != _prompts(second):
        raise UserError(
            f"{second.folder}: its held-out prompts are not those of {first.folder}; "
            "only studies that differ in neither data nor evaluation can be compared"
        )


def _at(info: Mapping[str, Any], place: Sequence[str]) -> Any:
    value: Any = info
    for name in place:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _prompts(study: StudyRecord) -> set[tuple[int, str]]:
    return {(sample.prompt_id, sample.prompt) for sample in study.samples}


def _judges(study: StudyRecord) -> list[tuple[str, Any]]:
    """Who judges, and what that depends on; and whom runs were judged against."""
    named = [(name, judge.get("identity")) for name, judge in judges_of(study).items()]
    return [*named, ("", {(one.run, one.prompt_id, one.sample, one.response) for one in study.opponents})]


# --- two as one -------------------------------------------------------------------------------------------------------


def marked(study: StudyRecord, mark: str) -> StudyRecord:
    """The study with its arms named as `dpo[A]`, and its runs likewise."""

    def arm(name: str) -> str:
        return name if name == REFERENCE else f"{name}[{mark}]"

    def run(name: str) -> str:
        return name if name in SHARED else f"{mark}/{name}"

    def row(result: Result) -> Result:
        return replace(result, run=run(result.run), arm=arm(result.arm))

    info = dict(study.info)
    info["arms"] = [arm(name) for name in info["arms"]]
    info["arm_betas"] = {arm(name): study.betas_of(name) for name in study.info["arms"]}
    info["steps"] = {arm(name): study.last_step(name) for name in study.info["arms"]}
    for by_run in ("budgets", "preferences", "calibration", "failed", "addressed"):
        info[by_run] = {run(name): value for name, value in info[by_run].items()}
    return replace(
        study,
        info=info,
        results=tuple(row(result) for result in study.results),
        samples=tuple(replace(sample, run=run(sample.run)) for sample in study.samples),
        metrics={run(name): steps for name, steps in study.metrics.items()},
        asked=tuple((arm(name), beta, seed, noise) for name, beta, seed, noise in study.expected()),
        judgements=tuple(replace(one, run=run(one.run), against=run(one.against)) for one in study.judgements),
        people=tuple(replace(vote, run=run(vote.run)) for vote in study.people),
    )


def _merged(a: StudyRecord, b: StudyRecord) -> StudyRecord:
    """Both as one study; the reference is the first one's."""
    info = dict(a.info)
    for name in ("arms", "seeds", "betas", "noises"):
        info[name] = list(dict.fromkeys([*a.info[name], *b.info[name]]))
    for name in ("arm_betas", "steps", "budgets", "preferences", "calibration", "failed", "addressed"):
        info[name] = {**a.info[name], **b.info[name]}
    info["title"] = f"{a.folder.name} beside {b.folder.name}"
    info["command"] = f"preftune report --compare {a.folder.name} {b.folder.name}"
    info["notes"] = list(dict.fromkeys([*a.info["notes"], *b.info["notes"]]))
    info["runs"] = a.info["runs"] if a.info["runs"] == b.info["runs"] else ""
    info |= {"search": {}, "reward": {}, "created": ""}
    own = tuple(row for row in b.results if row.run != REFERENCE)
    texts = tuple(sample for sample in b.samples if sample.run != REFERENCE)
    return StudyRecord(
        folder=Path(f"{a.folder.name} and {b.folder.name}"),
        info=info,
        results=a.results + own,
        samples=a.samples + texts,
        metrics={**a.metrics, **b.metrics},
        notes=tuple(dict.fromkeys([*a.notes, *b.notes])),
        asked=a.expected() + b.expected(),
        judgements=a.judgements + tuple(one for one in b.judgements if one.run not in SHARED),
        opponents=a.opponents,
        people=a.people + b.people,
    )


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(setting, of the first, of the second) of all that is not the same and no result."""
    found = []
    for part in ("settings", "versions", "machine", "model"):
        names = dict.fromkeys([*first[part], *second[part]])
        for name in (name for name in names if name not in NOT_SETTINGS):
            here, there = (str(info[part].get(name, "–")) for info in (first, second))
            if here != there:
                found.append((name.replace("_", " "), here, there))
    return found
