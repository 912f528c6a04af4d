"""A verdict in words: the names of runs, the sentence, what limits it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .comparisons import LEVEL, Best, Comparison, Verdict
from .frontiers import ACCURACY, REWARD
from .results import REFERENCE, StudyRecord
from .stats import Estimate, number


def noise_in_words(noise: float) -> str:
    """`With 20% of the training votes flipped`."""
    return f"With {100 * noise:.3g}% of the training votes flipped"


def run_name(arm: str, beta: float | None, seed: int | None = None, noise: float | None = None) -> str:
    """A run as a reader knows it, such as `dpo β=0.1 noise 0.2 seed 0`."""
    told = ((" β=", beta), (" noise ", noise), (" seed ", seed))
    return arm + "".join(f"{word}{value:g}" for word, value in told if value is not None)


def run_names(study: StudyRecord) -> dict[str, str]:
    """The name of every run by its id; seed and noise are told where the study has several."""
    names = {row.run: told_name(study, row.arm, row.beta, row.seed, row.noise) for row in study.trained()}
    return {REFERENCE: REFERENCE} | names


def told_name(study: StudyRecord, arm: str, beta: float | None, seed: int | None, noise: float) -> str:
    """`run_name` with the seed and the noise only where the study has several."""
    several_seeds, several_noises = len(study.info["seeds"]) > 1, len(study.noises()) > 1
    return run_name(arm, beta, seed if several_seeds else None, noise if several_noises else None)


def axis_label(study: StudyRecord, axis: str) -> str:
    """The vertical axis in words, with its units."""
    if axis == ACCURACY:
        return "held-out accuracy"
    gold = study.info.get("gold") or {}
    return f"gain in {gold.get('name', 'reward')} over the reference"


def sentence_of(study: StudyRecord, answer: Verdict) -> str:
    """The verdict in a sentence or two."""
    expected, unfinished = len(study.expected()), len(study.unfinished())
    if not study.trained():
        return f"Nothing has been evaluated yet: none of the {expected} runs has reached a checkpoint."
    parts = [
        f"So far {expected - unfinished} of {expected} runs have finished." if unfinished else "",
        "Nothing scored the samples, so no quality is claimed, only agreement with held-out votes."
        if answer.axis == ACCURACY
        else "",
        "" if answer.points else "Nothing has both a KL and a place on the vertical axis, so there is no frontier.",
        _told_apart(answer.comparisons, answer.axis),
        _above_reference(answer.best, run_names(study)),
    ]
    return " ".join(part for part in parts if part)


def _told_apart(comparisons: Sequence[Comparison], axis: str) -> str:
    made = [pair for pair in comparisons if pair.difference]
    if len(comparisons) == 1:
        return _pair_in_words(comparisons[0], axis) + "."
    if not made:
        return "No two arms have reached the same KL, so none can be compared." if comparisons else ""
    found = [pair for pair in made if pair.distinct]
    if not found:
        return f"None of the {len(made)} pairs of arms compared at the same KL can be told apart (Holm-corrected)."
    clear = "; ".join(_pair_in_brief(pair) for pair in found)
    counts = f"Of {len(made)} pairs of arms compared at the same KL, {len(found)} can be told apart (Holm-corrected)"
    scope = _scope(min(pair.seeds for pair in found))
    more = "reward" if axis == REWARD else "held-out accuracy"
    return f"{counts}: {clear} in {more} (95% intervals {scope})."


def _pair_in_words(pair: Comparison, axis: str) -> str:
    if pair.difference is None or pair.kl is None:
        return f"{pair.a} and {pair.b} cannot be compared at the same KL: {pair.why_not}"
    value, se = pair.difference.value, pair.difference.se
    if se is None:
        return f"{pair.a} and {pair.b} cannot be told apart: the error of their difference is unknown"
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.difference.interval())
    more = "gains more reward than" if axis == REWARD else "agrees with more held-out votes than"
    lead = f"{ahead} {more} {behind}" if pair.distinct else f"{pair.a} and {pair.b} cannot be told apart"
    size = f"{ahead}'s frontier lies {number(abs(value), se)} above {behind}'s"
    return (
        f"{lead}: at the same KL of {pair.kl:.2g} nats {size} (95% interval {number(low, se)} to {number(high, se)}, "
        f"{_scope(pair.seeds)})"
    )


def _pair_in_brief(pair: Comparison) -> str:
    assert pair.difference is not None and pair.difference.se is not None
    value, se = pair.difference.value, pair.difference.se
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.difference.interval())
    return f"{ahead} leads {behind} by {number(abs(value), se)} ({number(low, se)} to {number(high, se)})"


def _scope(seeds: int) -> str:
    return f"over prompts and {seeds} seeds" if seeds >= 2 else "over prompts, conditional on these runs"


def _above_reference(best: Sequence[Best], names: Mapping[str, str]) -> str:
    if not best:
        return ""
    runs = [f"{names[b.run]} gains {b.gain}{_strength(b.gain)}" for b in best]
    chosen = any(b.among > 1 for b in best)
    halves = " (chosen on half of the prompts, reported on the other half)" if chosen else ""
    return f"Best run of each arm against the reference{halves}: {'; '.join(runs)}."


def _strength(gain: Estimate) -> str:
    if gain.z is None:
        return ""
    told = "" if gain.p_value < LEVEL else ", not to be told from 0"
    return f" (z = {gain.z:.1f}{told})".replace("-", "−")


def caveats_of(study: StudyRecord, axis: str, paired: bool) -> Iterable[str]:
    """What limits the sentence."""
    if study.unfinished():
        several = len(study.noises()) > 1
        names = [run_name(arm, beta, seed, noise if several else None) for arm, beta, seed, noise in study.unfinished()]
        yield f"The study is partial. Not finished: {listed(names)}."
    if failed := [f"{run} ({reason})" for run, reason in study.info["failed"].items()]:
        yield f"Runs failed; what they had reached before is drawn: {listed(failed)}."
    if len(study.info["seeds"]) < 2:
        yield "One seed: intervals are over prompts only, conditional on these runs; another seed may answer otherwise."
    if axis == ACCURACY:
        yield "Held-out accuracy says how often the margins agree with held-out votes, not whether samples are better."
    if not paired and study.trained():
        yield "Errors are not paired over prompts; the interval of a difference is wider than it need be."
    short = [row for row in study.finals() if row.ended is not None and row.ended < 0.9]
    if short:
        share = min(row.ended or 0.0 for row in short)
        yield (
            f"As few as {share:.0%} of a run's samples ended within the token limit: KL and length are those of the "
            "length-limited policy."
        )


def listed(cases: Sequence[str], most: int = 6) -> str:
    """Cases with commas between them, the first few."""
    more = [f"and {len(cases) - most} more"] if len(cases) > most else []
    return "; ".join([*cases[:most], *more])
