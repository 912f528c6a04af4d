"""What is known of the judges: whether others see the same prompts become better, and how good a learned reward is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..evidence import PROXY, REFERENCE, Estimate, StudyRecord, clustered_mean

Means = Mapping[int, float]  # by prompt


class Opinion(NamedTuple):
    """How often another opinion says of a prompt what the judge says: that a run's samples became better, or worse."""

    name: str
    agrees: str
    correlation: str
    prompts: int


def opinions(study: StudyRecord) -> list[Opinion]:
    """Every second opinion beside the judge, over the last checkpoints of all runs; none where nothing scored them."""
    last = {REFERENCE: 0} | {row.run: row.step for row in study.finals()}
    judged: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    others: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for sample in study.samples:
        if last.get(sample.run) == sample.step and sample.reward is not None and math.isfinite(sample.reward):
            judged[sample.run][sample.prompt_id].append(sample.reward)
            for name, value in sample.extra.items():
                others[name][sample.run][sample.prompt_id].append(value)
    gains = _changes(judged)
    found = (_opinion(name, gains, _changes(of, relative=name == PROXY)) for name, of in others.items())
    return [opinion for opinion in found if opinion]


Change = dict[tuple[str, int], float]  # by run and prompt


def _changes(rewards: Mapping[str, Mapping[int, list[float]]], *, relative: bool = False) -> Change:
    """The mean over samples of each run and prompt, above the reference's unless it is told above that already."""
    start = {} if relative else rewards.get(REFERENCE, {})
    return {
        (run, prompt): float(np.mean(values)) - (float(np.mean(start[prompt])) if prompt in start else 0.0)
        for run, of in rewards.items()
        if run != REFERENCE
        for prompt, values in of.items()
        if relative or prompt in start
    }


def _opinion(name: str, gains: Change, others: Change) -> Opinion | None:
    keys = [key for key in gains.keys() & others.keys() if gains[key] != 0 and others[key] != 0]
    if len(keys) < 2:
        return None
    keys.sort()
    a, b = np.array([gains[key] for key in keys]), np.array([others[key] for key in keys])
    share = clustered_mean(100.0 * ((a > 0) == (b > 0)), [prompt for _, prompt in keys])
    spread = float(a.std() * b.std())
    correlation = float(np.mean((a - a.mean()) * (b - b.mean()))) / spread if spread else math.nan
    shown = f"{correlation:.2f}".replace("-", "−") if math.isfinite(correlation) else "–"
    return Opinion(name, str(Estimate(share.value, share.se)), shown, len({prompt for _, prompt in keys}))
