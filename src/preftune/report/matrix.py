"""How often one policy's samples are scored above another's on the same prompt, every policy against every other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..evidence import (
    REFERENCE,
    Estimate,
    Floats,
    Result,
    Sample,
    StudyRecord,
    clustered_mean,
    namer,
    noise_in_words,
    number,
)

MOST = 10  # policies that a matrix has room for

Rewards = Mapping[int, Floats]  # of each prompt, the rewards of its samples


class Entry(NamedTuple):
    """A policy of the matrix: an arm at one β, its seeds together; `kl` says how far it went."""

    arm: str
    name: str
    kl: str
    runs: tuple[Result, ...]


class Cell(NamedTuple):
    """Per cent of wins of the row over the column, ties one half; `share` colours it."""

    text: str
    error: str
    share: float


class Matrix(NamedTuple):
    """The policies, a row of cells for each of them (None on the diagonal), and which policies were left out."""

    entries: tuple[Entry, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    note: str


def win_matrix(study: StudyRecord) -> Matrix | None:
    """The matrix at the study's first rate of label noise; None where nothing scored the samples."""
    part = study.at_noise(study.noises()[0])
    finals = [row for row in part.finals() if row.reward is not None]
    rewards = _rewards(part, finals)
    if not finals or not rewards.get(REFERENCE):
        return None
    entries, note = _entries(part, finals)
    by_entry = [_joined([rewards[run] for run in _runs_of(entry) if run in rewards]) for entry in entries]
    rows = tuple(
        tuple(None if i == j else _cell(own, other) for j, other in enumerate(by_entry))
        for i, own in enumerate(by_entry)
    )
    if len(study.noises()) > 1:
        note = f"{noise_in_words(study.noises()[0])}. {note}".strip()
    return Matrix(tuple(entries), rows, note)


def _rewards(study: StudyRecord, finals: Sequence[Result]) -> dict[str, Rewards]:
    """The finite rewards of the reference and of every run at its last checkpoint, by prompt."""
    last = {REFERENCE: 0} | {row.run: row.step for row in finals}
    found: dict[str, dict[int, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in study.samples:
        if last.get(sample.run) == sample.step and sample.reward is not None and math.isfinite(sample.reward):
            found[sample.run][sample.prompt_id].append(sample)
    return {
        run: {prompt: np.array([s.reward for s in sorted(own, key=lambda s: s.sample)]) for prompt, own in of.items()}
        for run, of in found.items()
    }


def _entries(study: StudyRecord, finals: Sequence[Result]) -> tuple[list[Entry], str]:
    """The reference, then every arm and β; of many, for each arm the β that ends nearest to the middle of all KL."""
    groups: dict[tuple[str, float | None], list[Result]] = defaultdict(list)
    for row in finals:
        groups[row.arm, row.beta].append(row)
    note, kept = "", list(groups)
    if len(groups) >= MOST:
        middle = float(np.median([_mean_kl(rows) for rows in groups.values()]))
        kept = [_nearest(arm, middle, groups) for arm in dict.fromkeys(arm for arm, _ in groups)][: MOST - 1]
        note = (
            f"Shown are {len(kept)} of {len(groups)} policies: of each arm the β that ends nearest to {middle:.2g} "
            "nats, the middle of all."
        )
    name = namer(study)
    entries = [Entry(REFERENCE, REFERENCE, "0", ())]
    for arm, beta in kept:
        rows = groups[arm, beta]
        entries.append(Entry(arm, name(arm, beta, None, 0.0).split(" noise")[0], f"{_mean_kl(rows):.2g}", tuple(rows)))
    return entries, note


Setting = tuple[str, float | None]


def _nearest(arm: str, middle: float, groups: Mapping[Setting, Sequence[Result]]) -> Setting:
    own = [setting for setting in groups if setting[0] == arm]
    return min(own, key=lambda setting: abs(_mean_kl(groups[setting]) - middle))


def _mean_kl(rows: Sequence[Result]) -> float:
    kls = [row.kl for row in rows if row.kl is not None and math.isfinite(row.kl)]
    return sum(kls) / len(kls) if kls else 0.0


def _runs_of(entry: Entry) -> list[str]:
    return [row.run for row in entry.runs] or [REFERENCE]


def _joined(runs: Sequence[Rewards]) -> dict[int, list[Floats]]:
    """By prompt, the rewards of each run."""
    joined: dict[int, list[Floats]] = defaultdict(list)
    for of in runs:
        for prompt, rewards in of.items():
            joined[prompt].append(rewards)
    return joined


def _cell(own: Mapping[int, Sequence[Floats]], other: Mapping[int, Sequence[Floats]]) -> Cell:
    prompts = sorted(own.keys() & other.keys())
    if not prompts:
        return Cell("–", "", 0.5)
    shares = [float(np.mean([wins(a, b) for a in own[p] for b in other[p]])) for p in prompts]
    share = clustered_mean(shares, prompts)
    percent = Estimate(100 * share.value, None if share.se is None else 100 * share.se)
    return Cell(number(percent.value, 10), "" if percent.se is None else number(percent.se, 10), share.value)


def wins(own: Floats, other: Floats) -> float:
    """Share of pairs of samples that the first policy wins, ties one half.

    Samples of the same number share their random numbers, so pairs are made across numbers, where there are several.
    """
    won = (own[:, None] > other) + 0.5 * (own[:, None] == other)
    apart = np.arange(len(own))[:, None] != np.arange(len(other))
    return float(won[apart].mean() if apart.any() else won.mean())
