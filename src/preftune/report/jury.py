"""What a report says of its judges: how they judged, what they say beside the first one, and what people say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..evidence import (
    CONTROLS,
    COPY,
    NULL,
    OPPONENT,
    PEOPLE_JUDGE,
    WIN_RATE,
    Comparison,
    Estimate,
    JudgeFacts,
    MetByPeople,
    StudyRecord,
    Verdict,
    agreement_of_judges,
    clustered_mean,
    judge_facts,
    met_by_people,
    namer,
    number,
    people_of,
    run_names,
)
from .tables import comparison_row

Row = Sequence[str]
HEADS = (
    ("judge", ""),
    ("agrees", "% of held-out votes"),
    ("contests", "asked"),
    ("no verdict", "%"),
    ("flips", "% with the order"),
    ("first place", "% of verdicts"),
    ("longer", "% of verdicts"),
    ("copy wins", "%, should be 50"),
    ("null wins", "%"),
    ("drift", "changed sides"),
)


class Contest(NamedTuple):
    """Two runs of two arms, met by a judge: how often the first wins, and how far each went."""

    a: str
    b: str
    kl: str
    judge: str
    wins: str


def _judge_row(facts: JudgeFacts) -> Row:
    accuracy = facts.agreement.get("accuracy") or {}
    known = Estimate(accuracy["value"], accuracy.get("se")) if isinstance(accuracy.get("value"), float) else None
    drift = f"{facts.drifted} of {facts.again}" if facts.again else "–"
    shares = [known, facts.flips, facts.first, facts.longer, *(facts.controls.get(one) for one in (COPY, NULL))]
    told = map(percent, shares)
    return (facts.name, next(told), f"{facts.asked:,}", f"{100 * facts.missed:.1f}", *told, drift)


def percent(share: Estimate | None) -> str:
    """A share with its error, in per cent."""
    if share is None:
        return "–"
    error = "" if share.se is None else f" ± {100 * share.se:.1f}"
    return f"{100 * share.value:.1f}{error}"


def _reasons(facts: JudgeFacts) -> str:
    """Contests without a verdict, by reason."""
    return "; ".join(f"{why}: {count:,}" for why, count in facts.missing.items())


def agreement_rows(study: StudyRecord) -> list[Row]:
    """(two judges, how often they are on one side) of every two."""
    return [(f"{a} and {b}", percent(same)) for a, b, same in agreement_of_judges(study)]


def secondary_rows(answer: Verdict, several_noises: bool) -> list[tuple[str, Mapping[str, str]]]:
    """(axis, comparison) of every comparison on a secondary axis."""
    return [(_axis(one), comparison_row(pair, several_noises)) for one in answer.secondary for pair in one.comparisons]


def _axis(answer: Verdict) -> str:
    return answer.axis if answer.axis.endswith("people") else f"{answer.axis} · {answer.judge}"


def contest_rows(study: StudyRecord) -> list[Contest]:
    """Every meeting of two arms at about the same KL, by every judge that is no person."""
    found: dict[tuple[str, tuple[str, int], tuple[str, int]], dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for one in study.judgements:
        met = one.against != OPPONENT and one.run not in CONTROLS and not one.again
        if met and one.judge != PEOPLE_JUDGE and one.preference is not None:
            where = one.judge, (one.run, one.step), (one.against, one.against_step)
            found[where][one.prompt_id].append(one.preference)
    names, kls = run_names(study), {(row.run, row.step): row.kl or 0.0 for row in study.results}
    rows = []
    for (judge, a, b), of in found.items():
        wins = clustered_mean([float(np.mean(values)) for values in of.values()], list(of))
        far = f"{kls.get(a, 0):.2g} and {kls.get(b, 0):.2g}"
        rows.append(Contest(names.get(a[0], a[0]), names.get(b[0], b[0]), far, judge, percent(wins)))
    return rows


class Met(NamedTuple):
    """Two arms that people compared blind: on how many pairs, how often the first wins by all votes, and on how many
    prompts, how often, and the interval that always holds, by the first vote on each; what that says."""

    a: str
    b: str
    pairs: str
    all: str
    prompts: str
    first: str
    between: str
    so: str

    @property
    def told(self) -> str:
        """The same in a sentence."""
        return (
            f"People compared {self.a} and {self.b} blind on {self.prompts} prompts: {self.so} (the first wins "
            f"{self.first}%; an interval that holds however often it was looked at: {self.between}%). That is about "
            "these samples, these prompts and these people."
        )


def met_rows(study: StudyRecord) -> list[Met]:
    """Every two arms that people compared blind."""
    return [_met(one, namer(study)) for one in met_by_people(study)]


def _met(one: MetByPeople, name: Callable[..., str]) -> Met:
    asked = one.question
    a, b = (name(arm, None, None, one.noise) for arm in (one.a, one.b))
    so = f"people prefer {a if asked.low > 0.5 else b}"
    if not asked.clear:
        so = f"not told apart; a lead of ten points needs about {asked.more:,} votes more"
    between = f"{100 * asked.low:.1f} to {100 * asked.high:.1f}"
    first = f"{100 * (asked.wins or 0.0):.1f}"
    return Met(a, b, f"{one.pairs:,}", percent(one.wins), f"{asked.prompts:,}", first, between, so)


def people_rows(study: StudyRecord) -> list[Row]:
    """(run, the judge alone, people alone, both together, what the judge saves) of every run end that was voted on."""
    names = run_names(study)
    return [
        (
            names.get(run, run),
            percent(found.judge),
            percent(found.people),
            percent(found.both),
            "–" if found.saved is None else f"× {found.saved:.2f}",
        )
        for run, found in people_of(study)
    ]


def people_told(answer: Verdict) -> str:
    """How much people voted on, in a sentence; "" where nobody did."""
    notes = [note for one in answer.secondary for note in one.caveats if note.startswith("People voted")]
    return notes[0] if notes else ""


def may_conclude(answer: Verdict) -> Iterator[str]:
    """What a win rate by a judge lets a reader conclude, and what it does not."""
    yield f"May be concluded: which arm judge {answer.judge} prefers more often at the same KL, on prompts like these."
    yield "May not: that people would. Votes of people on a random part of the same pairs would tell, and correct it."
    made = [pair for pair in answer.comparisons if pair.verdict == "no difference" and pair.detectable]
    if made:
        yield f"May not: that the arms are equal. {_seen(made)}"


def _seen(made: Sequence[Comparison]) -> str:
    points = number(100 * max(pair.detectable or 0.0 for pair in made), 10.0)
    return f"A lead of {points} points of win rate would have been found in four of five such studies."


def judging_of(study: StudyRecord, answer: Verdict) -> dict[str, Any]:
    """What the page is filled with."""
    judges = judge_facts(study)
    return {
        "judge_heads": HEADS,
        "judge_rows": [_judge_row(facts) for facts in judges],
        "judge_descriptions": [(facts.name, facts.description) for facts in judges],
        "judge_reasons": [(facts.name, _reasons(facts)) for facts in judges if facts.missing],
        "judge_agreement": agreement_rows(study),
        "secondary": secondary_rows(answer, len(study.noises()) > 1),
        "contests": contest_rows(study),
        "met": met_rows(study),
        "people": people_rows(study),
        "people_told": people_told(answer),
        "may_conclude": list(may_conclude(answer)) if answer.axis == WIN_RATE else [],
    }
