"""A verdict in words: the names of runs, the sentence, what limits it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from .comparisons import LEVEL, Best, Comparison, Verdict
from .frontiers import ACCURACY, CORRECTED, PEOPLE, REWARD, Point
from .judged import Axis, judges_of, no_axis
from .judgements import PEOPLE_JUDGE
from .looks import Looks
from .results import REFERENCE, SELECTION, StudyRecord
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
    name = namer(study)
    return {REFERENCE: REFERENCE} | {row.run: name(row.arm, row.beta, row.seed, row.noise) for row in study.trained()}


def namer(study: StudyRecord) -> Callable[[str, float | None, int | None, float], str]:
    """`run_name` with the seed and the noise only where the study has several."""
    several_seeds, several_noises = len(study.info["seeds"]) > 1, len(study.noises()) > 1

    def name(arm: str, beta: float | None, seed: int | None, noise: float) -> str:
        return run_name(arm, beta, seed if several_seeds else None, noise if several_noises else None)

    return name


def axis_label(study: StudyRecord, axis: Axis) -> str:
    """The vertical axis in words, with its units."""
    if axis.kind == ACCURACY:
        return "held-out accuracy"
    if axis.judged:
        return f"{axis.kind.split(' by ')[0]} against the reference, {whose(axis)}"
    gold = study.info.get("gold") or {}
    return f"gain in {gold.get('name', 'reward')} over the reference"


def whose(axis: Axis) -> str:
    """Who judged, such as `by judge reward`."""
    by = {PEOPLE: "by people", CORRECTED: f"by people, with judge {axis.judge}"}
    return by.get(axis.kind, f"by judge {axis.judge}")


def sentence_of(study: StudyRecord, answer: Verdict) -> str:
    """The verdict in a few sentences; what went wrong in training comes before any claim."""
    expected, unfinished = len(study.expected()), len(study.unfinished())
    if not study.trained():
        return f"Nothing has been evaluated yet: none of the {expected} runs has reached a checkpoint."
    parts = [
        Looks(study).told(),
        f"So far {expected - unfinished} of {expected} runs have finished." if unfinished else "",
        _went_wrong(answer),
        _unscored(study) if answer.axis == ACCURACY else "",
        ""
        if answer.points or answer.axis == ACCURACY
        else f"Nothing has both a KL and a {answer.axis}, so there is no frontier.",
        _compared(answer),
        _ranking(answer),
        _above_reference(answer, run_names(study)),
    ]
    return " ".join(part for part in parts if part)


def _unscored(study: StudyRecord) -> str:
    """Why nothing is claimed."""
    judges = judges_of(study)
    why = next(((name, no_axis(judge)) for name, judge in judges.items() if no_axis(judge)), None)
    scorer = "No judge" if any(one.judge == PEOPLE_JUDGE for one in study.judgements) else "Nothing"
    reason = f"The first judge, {why[0]}, carries no axis: {why[1]}. So" if why else f"{scorer} scored the samples, so"
    return (
        f"{reason} no quality is claimed and no arm compared; how often margins agree with held-out votes is in "
        "the table."
    )


def _went_wrong(answer: Verdict) -> str:
    """The arms that have reason for an alarm: what is said of them below may be of training that went wrong."""
    cases = [f"{arm} ({', '.join(reasons)})" for (arm, _), reasons in answer.alarmed.items()]
    return f"Read what follows with alarms in mind: {listed(cases)}." if cases else ""


def _compared(answer: Verdict) -> str:
    comparisons = answer.comparisons
    if len(comparisons) == 1:
        return _pair_in_words(comparisons[0], answer) + "."
    made = [pair for pair in comparisons if pair.difference]
    if not made:
        reasons = dict.fromkeys("; ".join(filter(None, (pair.why, pair.next))) for pair in comparisons)
        why = f": {next(iter(reasons))}" if len(reasons) == 1 else ""
        return f"No two arms can be compared at the same KL{why}." if comparisons else ""
    counts = f"Of {len(comparisons)} pairs of arms, {len(made)} can be compared at the same KL{_by(answer)}"
    found = [pair for pair in made if pair.distinct]
    if not found:
        return f"{counts}; no difference was found{_seen(max(pair.detectable or math.inf for pair in made))}."
    differ = f"{counts}, {len(found)} {'differs' if len(found) == 1 else 'differ'}"
    brief = "; ".join(map(_pair_in_brief, found))
    return f"{differ}: {brief} (each interval at the level at which its pair was judged)."


def _by(answer: Verdict) -> str:
    """Who judged; "" of gold."""
    return "" if answer.axis == REWARD else f" by judge {answer.judge}"


def better(ahead: str, behind: str, answer: Verdict) -> str:
    """`dpo gains more reward than ipo`, or of a judge's win rate `dpo wins more often than ipo`."""
    return f"{ahead} {'gains more reward' if answer.axis == REWARD else 'wins more often'} than {behind}"


def _pair_in_words(pair: Comparison, answer: Verdict) -> str:
    if pair.difference is None or pair.kl is None:
        change = f"; {pair.next}" if pair.next else ""
        return f"{pair.a} and {pair.b} cannot be compared at the same KL: {pair.why}{change}"
    value, se = pair.difference.value, pair.difference.se or 0.0
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.interval())
    what = "frontier" if answer.axis == REWARD else "win rate against the reference"
    size = f"{ahead}'s {what} lies {number(abs(value), se)} above {behind}'s"
    interval = f"{100 * pair.level:.3g}% interval {number(low, se)} to {number(high, se)}, {pair.scope}"
    if pair.distinct:
        told = f"{better(ahead, behind, answer)}{_by(answer)}"
        return f"{told}: at the same KL of {pair.kl:.2g} nats {size} ({interval})"
    return (
        f"No difference was found between {pair.a} and {pair.b}{_by(answer)}{_seen(pair.detectable or math.inf)}: at "
        f"the same KL of {pair.kl:.2g} nats {size} ({interval})"
    )


def _pair_in_brief(pair: Comparison) -> str:
    assert pair.difference is not None and pair.difference.se is not None
    value, se = pair.difference.value, pair.difference.se
    ahead, behind = (pair.a, pair.b) if value >= 0 else (pair.b, pair.a)
    low, high = sorted(math.copysign(1, value) * end for end in pair.interval())
    interval = f"{100 * pair.level:.3g}%: {number(low, se)} to {number(high, se)}"
    return f"{ahead} leads {behind} by {number(abs(value), se)} ({interval})"


def _seen(detectable: float) -> str:
    if not math.isfinite(detectable):
        return ""
    return f" (one of {detectable:.2g} would have been found in four of five such studies)"


def _ranking(answer: Verdict) -> str:
    """A ranking of three arms or more, only where every pair was told apart and no three go round in a circle."""
    pairs = answer.comparisons
    wins = dict.fromkeys([arm for pair in pairs for arm in (pair.a, pair.b)], 0)
    if len(wins) < 3 or not all(pair.distinct for pair in pairs):
        return ""
    for pair in pairs:
        wins[pair.a if pair.verdict == "better" else pair.b] += 1
    if len(set(wins.values())) < len(wins):
        return ""
    return f"From best to worst: {', '.join(sorted(wins, key=lambda arm: -wins[arm]))} (each pair at its own KL)."


def _above_reference(answer: Verdict, names: Mapping[str, str]) -> str:
    best = answer.best
    if not best:
        return ""
    verb = "gains" if answer.axis == REWARD else "wins by"
    runs = [f"{names[b.run]}{_chosen_n(b)} {verb} {b.gain}{_strength(b.gain)}" for b in best]
    chosen = any(b.among > 1 for b in best)
    halves = " (chosen on half of the prompts, reported on the other half)" if chosen else ""
    over = "" if answer.axis == REWARD else ", of contests above one half"
    return f"Best run of each arm against the reference{over}{halves}: {'; '.join(runs)}."


def _chosen_n(best: Best) -> str:
    return f" n={best.step}" if best.arm.split("[")[0] == SELECTION else ""


def _strength(gain: Estimate) -> str:
    if gain.z is None:
        return ""
    told = "" if gain.p_value < LEVEL else ", not to be told from 0"
    return f" (z = {gain.z:.1f}{told})".replace("-", "−")


def caveats_of(study: StudyRecord, axis: Axis, points: Sequence[Point], paired: bool) -> Iterable[str]:
    """What limits the sentence."""
    yield from study.info["caveats"]
    if study.unfinished():
        several = len(study.noises()) > 1
        names = [run_name(arm, beta, seed, noise if several else None) for arm, beta, seed, noise in study.unfinished()]
        yield f"The study is partial. Not finished: {listed(names)}."
    if study.info["search"].get("ended") is False:
        yield "The search for the β of each arm has not ended; what it has run is shown."
    yield from Looks(study).caveats()
    if failed := [f"{run} ({reason})" for run, reason in study.info["failed"].items()]:
        yield f"Runs failed; what they had reached before is drawn: {listed(failed)}."
    if len(study.info["seeds"]) < 2 and study.info["runs"] != "exchangeable" and study.trained():
        yield "One seed, whose runs share the order of their data: another seed may answer otherwise."
    elif len(study.info["seeds"]) < 2 and (sharing := dict.fromkeys(point.arm for point in points if point.shares)):
        yield f"One seed: what {', '.join(sharing)} learned from was fitted, or flipped, once, and might be another."
    if study.trained() and not study.info["steps"]:
        yield "How many steps a run has is not told; runs as long as the longest are taken to be finished."
    if axis.judged:
        yield (
            f"A win rate {whose(axis)} is that judge's opinion, and no more. What it prefers wrongly it prefers in "
            "every arm; votes of people on a part of the same pairs would correct it."
        )
    if axis.kind == ACCURACY:
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
