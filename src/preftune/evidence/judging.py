"""What is known of the judges of a study: how they judge, how they do on controls, and what gives reason to worry."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .frontiers import PROXY
from .judged import EVEN, MISSING, judges_of, lengths, no_axis
from .judgements import CONTROLS, COPY, IDENTICAL, NULL, OPPONENT, Judgement
from .results import StudyRecord
from .stats import Estimate, clustered_mean, number

CERTAIN = 0.999  # the level of what is asked of a control, and of alarms that chance must not raise
FLIPS = 1 / 3  # share of contests whose verdict the order decides
LEANS = 0.1  # how far the share of verdicts for the first place may be from ½
LONGER = 0.65  # share of verdicts for the longer response
DRIFTED = 1  # of the contests that were asked again, how many may change sides
ADDRESSED = 0.01  # share of a run's responses that speak to a judge


@dataclass(frozen=True)
class JudgeFacts:
    """How a judge judged: shares of its contests with a verdict, each with its error over prompts; None without any.

    `flips`: the two orders prefer another response; `first`: for the response in the first place; `longer`: for the
    longer one, where lengths differ. `controls`: the win rates of the controls. `missing`: contests without a verdict,
    by reason, of `asked`; `again` were asked twice, and `drifted` of them changed sides.
    """

    name: str
    description: str
    agreement: Mapping[str, Any]
    asked: int
    identical: int
    missing: Mapping[str, int]
    flips: Estimate | None
    first: Estimate | None
    longer: Estimate | None
    controls: Mapping[str, Estimate]
    again: int
    drifted: int
    why_no_axis: str

    @property
    def missed(self) -> float:
        """Share of what was asked that has no verdict."""
        return sum(self.missing.values()) / self.asked if self.asked else 0.0


def judge_facts(study: StudyRecord) -> tuple[JudgeFacts, ...]:
    """How every judge of the study judged, in the order in which they were named."""
    return tuple(_facts(study, name, info) for name, info in judges_of(study).items())


def _facts(study: StudyRecord, name: str, info: Mapping[str, Any]) -> JudgeFacts:
    own = [one for one in study.judgements if one.judge == name]
    met = [one for one in own if not one.again]
    asked = [one for one in met if one.why != IDENTICAL]
    known = [one for one in asked if one.preference is not None and one.run not in CONTROLS]
    again, drifted = _drift(own)
    return JudgeFacts(
        name=name,
        description=str(info.get("description", "")),
        agreement=info.get("agreement") or {},
        asked=len(asked),
        identical=len(met) - len(asked),
        missing=Counter(one.why or "no reason told" for one in asked if one.preference is None),
        flips=_share(known, _flipped),
        first=_share(known, _for_first),
        longer=_share(known, _for_longer(study)),
        controls={control: rate for control in CONTROLS if (rate := _win_rate(met, control))},
        again=again,
        drifted=drifted,
        why_no_axis=no_axis(info),
    )


def _share(known: Sequence[Judgement], of: Callable[[Judgement], float | None]) -> Estimate | None:
    """Mean of what `of` says of judgements, where it says anything, over prompts."""
    told = [(value, one.prompt_id) for one in known if (value := of(one)) is not None]
    return clustered_mean([value for value, _ in told], [prompt for _, prompt in told]) if told else None


def side(p: float) -> float:
    """1 where a probability prefers, 0 where it does not, ½ for a tie."""
    return float(np.sign(p - EVEN)) / 2 + EVEN


def _flipped(one: Judgement) -> float:
    assert one.first is not None and one.second is not None
    return float((one.first - EVEN) * (one.second - EVEN) < 0)


def _for_first(one: Judgement) -> float:
    assert one.first is not None and one.second is not None
    return (side(one.first) + 1 - side(one.second)) / 2


def _for_longer(study: StudyRecord) -> Callable[[Judgement], float | None]:
    tokens = lengths(study)

    def prefers(one: Judgement) -> float | None:
        own = tokens.get((one.run, one.step, one.prompt_id, one.sample))
        other = tokens.get((one.against, one.against_step, one.prompt_id, one.other))
        if own is None or other is None or own == other or one.preference is None:
            return None
        return side(one.preference) if own > other else 1 - side(one.preference)

    return prefers


def _win_rate(met: Sequence[Judgement], run: str) -> Estimate | None:
    return _share([one for one in met if one.run == run and one.against == OPPONENT], lambda one: one.preference)


def _drift(own: Sequence[Judgement]) -> tuple[int, int]:
    """How many contests were asked again, and how many of them changed sides; both times with a verdict."""
    before = {one.contest[:-1]: one.preference for one in own if not one.again}
    pairs = [(one.preference, before.get(one.contest[:-1])) for one in own if one.again]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return len(known), sum((a - EVEN) * (b - EVEN) < 0 for a, b in known)


def agreement_of_judges(study: StudyRecord) -> list[tuple[str, str, Estimate]]:
    """How often two judges are on one side of a contest that both have a verdict on, ties one half: every two."""
    sides: dict[str, dict[Any, tuple[float, int]]] = {name: {} for name in judges_of(study)}
    for one in study.judgements:
        if one.preference is not None and not one.again and one.why != IDENTICAL and one.judge in sides:
            sides[one.judge][one.contest[1:]] = (side(one.preference), one.prompt_id)
    found = []
    for a, b in itertools.combinations(sides, 2):
        both = [contest for contest in sides[a] if contest in sides[b]]
        if both:
            same = [1 - abs(sides[a][contest][0] - sides[b][contest][0]) for contest in both]
            found.append((a, b, clustered_mean(same, [sides[a][contest][1] for contest in both])))
    return found


# --- alarms -----------------------------------------------------------------------------------------------------------


def judge_alarms(study: StudyRecord) -> tuple[str, ...]:
    """What gives reason to doubt the judges, a sentence each."""
    told = [alarm for facts in judge_facts(study) for alarm in _alarms(facts)]
    return (*told, *_self(study), *_shared_base(study), *_addressed(study))


def _alarms(facts: JudgeFacts) -> Iterator[str]:
    name = f"Judge {facts.name}"
    if facts.why_no_axis:
        yield f"{name} carries no axis: {facts.why_no_axis}."
    if facts.flips and _above(facts.flips, FLIPS):
        yield f"{name} goes by the order: in {_percent(facts.flips)} of contests its verdict flips with it."
    if facts.first and _above(facts.first, EVEN + LEANS):
        yield f"{name} leans to the first place: {_percent(facts.first)} of its verdicts; both are averaged."
    if facts.first and _above(second := _mirrored(facts.first), EVEN + LEANS):
        yield f"{name} leans to the second place: {_percent(second)} of its verdicts; both are averaged."
    if facts.longer and _above(facts.longer, LONGER):
        told = _percent(facts.longer)
        yield f"{name} prefers the longer response in {told} of contests: see the win rate at equal lengths."
    if facts.missed > MISSING:
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in facts.missing.items())
        low, high = (_bound(facts.missed, value) for value in (0, 1))
        yield (
            f"{name} has no verdict on {100 * facts.missed:.1f}% of {facts.asked:,} contests: {reasons}. Were all of "
            f"them losses, or all wins, a win rate of 50% would be {low} or {high}."
        )
    if facts.drifted > DRIFTED:
        yield f"{name} drifts: of {facts.again} contests that were asked again, {facts.drifted} changed sides."
    copy, null = facts.controls.get(COPY), facts.controls.get(NULL)
    if copy and not _holds(copy, EVEN):
        yield f"{name} tells the reference from itself: a copy of it wins {_percent(copy)}, which should be 50%."
    if null and null.interval(0.95)[0] > EVEN:
        yield f"{name} can be gamed: a response that says nothing wins {_percent(null)} against the reference."


def _above(share: Estimate, bound: float) -> bool:
    return share.se is not None and share.interval(CERTAIN)[0] > bound


def _holds(share: Estimate, value: float) -> bool:
    low, high = share.interval(CERTAIN)
    return low <= value <= high


def _mirrored(share: Estimate) -> Estimate:
    return Estimate(1 - share.value, share.se, share.df)


def _percent(share: Estimate) -> str:
    if not share.se:
        return f"{100 * share.value:.0f}%"
    return f"{number(100 * share.value, 100 * share.se)} ± {number(100 * share.se, 100 * share.se)}%"


def _bound(missed: float, all_of_them: float) -> str:
    return f"{100 * ((1 - missed) * EVEN + missed * all_of_them):.1f}%"


def _self(study: StudyRecord) -> Iterator[str]:
    """Judges that are the model which the policies start from: models prefer what they find likely themselves."""
    own = study.info["model"].get("sha256")
    for name, info in judges_of(study).items():
        if own and (info.get("identity") or {}).get("model") == own:
            yield f"Judge {name} is the model that policies start from: it may prefer what it would have said itself."


def _shared_base(study: StudyRecord) -> Iterator[str]:
    """Judges that were made from the model of an arm's reward, with how alike the two judge samples."""
    if not study.info["reward"]:
        return
    proxy = {
        (sample.run, sample.step, sample.prompt_id, sample.sample): sample.extra[PROXY]
        for sample in study.samples
        if PROXY in sample.extra
    }
    for name, info in judges_of(study).items():
        base = (info.get("identity") or {}).get("base")
        if not base or base != study.info["model"].get("sha256"):
            continue
        pairs = [
            (one.preference, proxy[key])
            for one in study.judgements
            if one.judge == name
            and one.against == OPPONENT
            and one.preference is not None
            and (key := (one.run, one.step, one.prompt_id, one.sample)) in proxy
        ]
        told = ""
        if len(pairs) > 2 and all(np.std(values) > 0 for values in zip(*pairs, strict=True)):
            told = f"; over {len(pairs):,} samples they correlate by {float(np.corrcoef(np.array(pairs).T)[0, 1]):.2f}"
        yield (
            f"Judge {name} and the reward that some arm learns from are made from one model, so they may err "
            f"alike{told.replace('-', '−')}."
        )


def _addressed(study: StudyRecord) -> Iterator[str]:
    """Runs whose responses speak to a judge, as `study.json` counts them."""
    counts = study.info["addressed"]
    cases = []
    for run, count in counts.items():
        total = sum(sample.run == run for sample in study.samples)
        if isinstance(count, int) and total and count / total > ADDRESSED:
            cases.append(f"{run}: {count} of {total}")
    if cases:
        yield f"Responses speak to whoever judges them, which a judge may obey: {'; '.join(cases[:6])}."
