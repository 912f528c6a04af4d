"""What a study may say: frontiers, arms compared at the same KL, best runs, alarms, one sentence."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from .comparisons import Best, Comparison, Verdict, best_run, compare, corrected
from .frontiers import (
    ACCURACY,
    CORRECTED,
    PEOPLE,
    PROXY,
    REWARD,
    Frontier,
    PerPrompt,
    Point,
    fit_frontier,
    placed,
    point_at,
    points_of,
)
from .judged import Axis, axes_of, judged_points
from .judging import judge_alarms
from .looks import Looks
from .results import StudyRecord
from .study_alarms import alarmed_arms, alarms
from .words import axis_label, caveats_of, noise_in_words, sentence_of


def verdict(study: StudyRecord) -> Verdict:
    """Everything that the study's numbers support, and no more.

    Arms are compared within one rate of label noise, and corrected for all comparisons of the study. By held-out
    accuracy nothing is fitted or compared: the sign of a margin ignores its size, and says nothing of a distance.
    The sentence is of the primary axis alone; `secondary` are the others, each corrected for its own comparisons.
    """
    primary, *others = axes_of(study)
    noises = study.noises()
    answer = replace(
        _on_axis(study, primary),
        alarms=(*judge_alarms(study), *alarms(study)),
        alarmed={(arm, noise): why for noise in noises for arm, why in alarmed_arms(study.at_noise(noise)).items()},
        secondary=tuple(_on_axis(study, axis) for axis in others),
    )
    sentences = [sentence_of(study.at_noise(noise), answer.at_noise(noise)) for noise in noises]
    if len(sentences) == 1:
        return replace(answer, sentence=sentences[0])
    told = zip(noises, sentences, strict=True)
    return replace(answer, sentence=" ".join(f"{noise_in_words(noise)}: {sentence}" for noise, sentence in told))


def _on_axis(study: StudyRecord, axis: Axis) -> Verdict:
    """The numbers of one axis, without a sentence and without alarms, which are of the study."""
    noises = study.noises()
    found = [_evidence(study.at_noise(noise), axis) for noise in noises]
    notes = dict.fromkeys(note for evidence in found for note in evidence.notes)
    points = tuple(point for evidence in found for point in evidence.points)
    paired = all(evidence.paired for evidence in found)
    return Verdict(
        sentence="",
        axis=axis.kind,
        axis_label=axis_label(study, axis),
        points=points,
        frontiers=tuple(fit for evidence in found for fit in evidence.frontiers),
        comparisons=judged([pair for evidence in found for pair in evidence.comparisons], study),
        best=tuple(best for evidence in found for best in evidence.best),
        alarms=(),
        caveats=(*study.notes, *notes, *caveats_of(study, axis, points, paired)),
        judge=str((study.info.get("gold") or {}).get("name", "")) if axis.kind == REWARD else axis.judge,
    )


def judged(pairs: Sequence[Comparison], study: StudyRecord) -> tuple[Comparison, ...]:
    """The comparisons at the level that the study has: .05, or what its last predeclared look may spend.

    Between looks nothing is concluded: that would be one look more than was declared.
    """
    looks = Looks(study)
    if waiting := looks.under_way():
        return tuple(Comparison(pair.a, pair.b, noise=pair.noise, why=waiting) for pair in pairs)
    return corrected(pairs, looks.alpha())


ENOUGH_RUNS = 3  # of an arm, from which people's votes may answer for the method


class Evidence(NamedTuple):
    """The numbers at one rate of label noise, and whether their errors are paired over prompts."""

    points: tuple[Point, ...]
    frontiers: tuple[Frontier, ...]
    comparisons: tuple[Comparison, ...]
    best: tuple[Best, ...]
    notes: list[str]
    paired: bool


def _evidence(study: StudyRecord, axis: Axis) -> Evidence:
    points, table, notes = judged_points(study, axis) if axis.judged else points_of(study, axis.kind)
    if axis.kind == ACCURACY:
        return Evidence(points, (), (), (), notes, True)
    noise = study.noises()[0]
    runs = Counter(point.arm for point in points if point.end)
    few = axis.kind in (PEOPLE, CORRECTED) and min(runs.values(), default=0) < ENOUGH_RUNS
    fits, pairs, best = conclusions(points, table, study.info["arms"], these_runs=few)
    return Evidence(
        points,
        fits,
        tuple(replace(pair, noise=noise) for pair in pairs),
        () if axis.kind in (PEOPLE, CORRECTED) else tuple(replace(one, noise=noise) for one in best),
        notes,
        table is not None or not any(point.end for point in points),
    )


def conclusions(
    points: Sequence[Point], table: PerPrompt | None, arms: Sequence[str], *, these_runs: bool = False
) -> tuple[tuple[Frontier, ...], tuple[Comparison, ...], tuple[Best, ...]]:
    """Frontiers, comparisons (not corrected) and best runs, from the ends of finished runs alone.

    `table` has a row for every point. An arm that never ended away from the reference is compared with nothing, and
    each of its comparisons says so. `these_runs` as in `compare`.
    """
    rows = [i for i, point in enumerate(points) if point.end]
    ends, table = [points[i] for i in rows], table.rows(rows) if table else None
    reached = {point.arm for point in ends}
    order = [arm for arm in dict.fromkeys([*arms, *sorted(reached)]) if arm in reached]
    fits = tuple(fit for arm in order if (fit := fit_frontier([p for p in ends if p.arm == arm])))
    best = tuple(best_run(arm, ends, table) for arm in order) if table else ()
    made = {frozenset((pair.a, pair.b)): pair for pair in compare(fits, ends, table, these_runs=these_runs)}
    names = list(dict.fromkeys([*arms, *order])) if points else []
    pairs = itertools.combinations(names, 2)
    return fits, tuple(made.get(frozenset((a, b))) or _without_end(a, b, ends) for a, b in pairs), best


def _without_end(a: str, b: str, ends: Sequence[Point]) -> Comparison:
    """The comparison of two arms of which one has no frontier."""
    away = {point.arm for point in ends if point.kl > 0}
    missing = [arm for arm in (a, b) if arm not in away]
    why = f"{' and '.join(missing)} {'has' if len(missing) == 1 else 'have'} no finished run away from the reference"
    return Comparison(a, b, why=why, next=f"finished runs of {' and '.join(missing)} would change that")


def proxy_view(study: StudyRecord, answer: Verdict) -> Verdict | None:
    """The same runs by the learned reward instead of the gold one: points and frontiers. None if there is none."""
    rows = [row for row in study.trained() if PROXY in row.extra]
    by_proxy = (point_at(row, row.extra[PROXY], row.extra.get(f"{PROXY}_se")) for row in rows)
    points = tuple(placed([point for point in by_proxy if point], study))
    if not points:
        return None
    groups = dict.fromkeys((p.arm, p.noise) for p in points)
    fits = (fit_frontier([p for p in points if p.end and (p.arm, p.noise) == group]) for group in groups)
    label = "gain in the learned reward, nats"
    return replace(
        answer,
        points=points,
        frontiers=tuple(fit for fit in fits if fit),
        comparisons=(),
        axis=REWARD,
        axis_label=label,
    )
