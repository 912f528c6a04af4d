"""What a study may say: frontiers, arms compared at the same KL, best runs, alarms, one sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from .comparisons import Best, Comparison, Verdict, best_run, compare, corrected
from .frontiers import ACCURACY, PROXY, REWARD, Frontier, Point, fit_frontier, point_of, points_of
from .results import StudyRecord
from .study_alarms import alarms
from .words import axis_label, caveats_of, noise_in_words, sentence_of


def verdict(study: StudyRecord) -> Verdict:
    """Everything that the study's numbers support, and no more.

    Arms are compared within one rate of label noise, and corrected for all comparisons of the study.
    """
    scored = not study.trained() or any(row.gain is not None for row in study.trained())
    axis = REWARD if scored else ACCURACY
    found = [_evidence(study.at_noise(noise), axis) for noise in study.noises()]
    pairs = corrected([pair for evidence in found for pair in evidence.comparisons])
    notes = dict.fromkeys(note for evidence in found for note in evidence.notes)
    paired = all(evidence.paired for evidence in found)
    answer = Verdict(
        sentence="",
        axis=axis,
        axis_label=axis_label(study, axis),
        points=tuple(point for evidence in found for point in evidence.points),
        frontiers=tuple(fit for evidence in found for fit in evidence.frontiers),
        comparisons=pairs,
        best=tuple(best for evidence in found for best in evidence.best),
        alarms=alarms(study),
        caveats=(*study.notes, *notes, *caveats_of(study, axis, paired)),
    )
    sentences = [sentence_of(study.at_noise(noise), answer.at_noise(noise)) for noise in study.noises()]
    if len(sentences) == 1:
        return replace(answer, sentence=sentences[0])
    told = zip(study.noises(), sentences, strict=True)
    return replace(answer, sentence=" ".join(f"{noise_in_words(noise)}: {sentence}" for noise, sentence in told))


class Evidence(NamedTuple):
    """The numbers at one rate of label noise, and whether their errors are paired over prompts."""

    points: tuple[Point, ...]
    frontiers: tuple[Frontier, ...]
    comparisons: tuple[Comparison, ...]
    best: tuple[Best, ...]
    notes: list[str]
    paired: bool


def _evidence(study: StudyRecord, axis: str) -> Evidence:
    points, table, notes = points_of(study, axis)
    noise = study.noises()[0]
    reached = {point.arm for point in points}
    arms = [arm for arm in dict.fromkeys([*study.info["arms"], *sorted(reached)]) if arm in reached]
    fits = tuple(fit for arm in arms if (fit := fit_frontier([p for p in points if p.arm == arm])))
    best = tuple(replace(best_run(arm, points, table), noise=noise) for arm in arms) if table else ()
    pairs = tuple(replace(pair, noise=noise) for pair in compare(fits, points, table))
    return Evidence(points, fits, pairs, best, notes, table is not None)


def proxy_view(study: StudyRecord, answer: Verdict) -> Verdict | None:
    """The same runs by the learned reward instead of the gold one: points and frontiers. None if there is none."""
    points = tuple(
        replace(point, gain=row.extra[PROXY], gain_se=row.extra.get(f"{PROXY}_se"))
        for row in study.trained()
        if PROXY in row.extra and (point := point_of(row, answer.axis))
    )
    if not points:
        return None
    groups = dict.fromkeys((p.arm, p.noise) for p in points)
    fits = (fit_frontier([p for p in points if (p.arm, p.noise) == group]) for group in groups)
    label = "gain in the learned reward, nats"
    return replace(
        answer,
        points=points,
        frontiers=tuple(fit for fit in fits if fit),
        comparisons=(),
        axis=REWARD,
        axis_label=label,
    )
