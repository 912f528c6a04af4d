"""The judges of a study at work: what was asked already is not asked again, and how far a judge agrees with people.

What a judge has said is in `judgements.jsonl`; what it had no verdict on is asked once more when a study goes on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..console import say, track
from ..data import Ballot, TokenSet, kept_digests, prompt_digest
from ..errors import UserError
from ..evidence import (
    IDENTICAL,
    JUDGEMENTS_FILE,
    Judgement,
    Sample,
    VoteTable,
    accuracy,
    append_records,
    arms_met,
    judges_of,
    no_axis,
    read_info,
    read_judgements,
    read_study,
    tells_votes,
)
from ..judges import (
    CLASSIFIER,
    GIVEN,
    MODEL,
    REWARD,
    Contest,
    Endpoint,
    JudgeSpec,
    Jury,
    Opinion,
    PairJudge,
    Scored,
    addresses_judge,
    judge_by_reward,
    open_classifier,
    open_endpoint,
    open_local,
)
from ..model import RewardModel, return_freed_memory, tokens_per_pass
from .meetings import Asked, Judged, Meet, contests_of, draw_opponents

AT_ONCE = 64  # contests between two writes
AGREEMENT = 200  # votes that a judge who reads is compared with, at most; a reward is quicker to ask
AGREEMENT_OF_REWARD = 500
REPEATED = 20  # contests that are asked again, once, to see whether a judge drifts


# --- asking -----------------------------------------------------------------------------------------------------------


def ask(judge: PairJudge, asked: Sequence[Asked], path: Path) -> None:
    """Ask what the judge has given no verdict on yet, and keep its answers as they come."""
    known = {one.contest for one in read_judgements(path) if one.preference is not None} if path.exists() else set()
    left = [(to, contest) for to, contest in _named(judge, asked) if to.contest not in known]
    same = [to for to, contest in left if contest.a == contest.b]
    append_records(path, [replace(to, first=0.5, second=0.5, why=IDENTICAL) for to in same])
    left = [(to, contest) for to, contest in left if contest.a != contest.b]
    if left and isinstance(judge, Endpoint):
        say(f"judge {judge.name}: {judge.estimate([contest for _, contest in left])}")
    for start in track(range(0, len(left), AT_ONCE), f"judge {judge.name}"):
        part = left[start : start + AT_ONCE]
        opinions = judge.prefer([contest for _, contest in part])
        append_records(path, [_answered(to, said) for (to, _), said in zip(part, opinions, strict=True)])


def ask_again(judge: PairJudge, asked: Sequence[Asked], path: Path) -> None:
    """Ask some contests once more, if that was not done, without whatever the judge remembers."""
    known = [one for one in read_judgements(path) if one.judge == judge.name]
    if any(one.again for one in known):
        return
    told = {one.contest for one in known if one.preference is not None and one.why != IDENTICAL}
    some = [(to, contest) for to, contest in _named(judge, asked) if to.contest in told]
    some = sorted(some, key=lambda one: _order(repr(one[0].contest)))[:REPEATED]
    anew = getattr(judge, "again", judge.prefer)([contest for _, contest in some])
    append_records(path, [replace(_answered(to, said), again=True) for (to, _), said in zip(some, anew, strict=True)])


def _named(judge: PairJudge, asked: Sequence[Asked]) -> list[Asked]:
    return [(replace(to, judge=judge.name), contest) for to, contest in asked]


def _answered(to: Judgement, said: Opinion) -> Judgement:
    return replace(to, first=said.first, second=said.second, why=said.why)


def _of_prompt(ballot: Ballot) -> str:
    return _order(repr(ballot.prompt))


def _order(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def agreement_with_votes(judge: PairJudge, ballots: Sequence[Ballot]) -> dict[str, Any]:
    """How often the judge is on the side of these votes, ties one half, with its interval over prompts; {} without.

    Of at most `AGREEMENT` votes, or `AGREEMENT_OF_REWARD`, those of the first ballots.
    """
    chosen: list[tuple[Contest, float, float, int]] = []
    places: dict[str, int] = {}
    for ballot in ballots:
        place = places.setdefault(prompt_digest(ballot.prompt), len(places))
        ended = ballot.ended or (True,) * len(ballot.responses)
        for vote in ballot.votes:
            a, b = ballot.responses[vote.a], ballot.responses[vote.b]
            contest = Contest(ballot.prompt, a, b, ended[vote.a], ended[vote.b])
            chosen.append((contest, vote.p, vote.weight, place))
    most = AGREEMENT_OF_REWARD if isinstance(judge, Scored) else AGREEMENT
    chosen = [one for one in chosen if one[0].a != one[0].b][:most]
    if not chosen:
        return {}
    opinions = judge.prefer([contest for contest, *_ in chosen])
    pairs = zip(chosen, opinions, strict=True)
    known = [(said.preference, p, weight, at) for (_, p, weight, at), said in pairs if said.preference is not None]
    if not known:
        return {"votes": 0, "missing": len(chosen)}
    f, p, weight, prompt = (np.array(values, dtype=float) for values in zip(*known, strict=True))
    found = accuracy(VoteTable(f - 0.5, p, weight, tuple((int(one),) for one in prompt)))
    low, high = found.interval() if found.se is not None else (None, None)
    flips = [
        (said.first - 0.5) * (said.second - 0.5) < 0
        for said in opinions
        if said.first is not None and said.second is not None
    ]
    return {
        "accuracy": {"value": found.value, "se": found.se, "low": low, "high": high},
        "votes": len(known),
        "prompts": len(set(prompt.tolist())),
        "missing": len(chosen) - len(known),
        "flips": float(np.mean(flips)) if flips else None,
    }


# --- a whole study ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """The judges of a study: who they are, the votes that `reward` is fitted on, and ballots to test them.

    `held_out` are the ballots that policies are evaluated on, `learned` those that arms learn from: a judge that did
    not learn from these too is tested on both.
    """

    jury: Jury = field(default_factory=Jury)
    votes: TokenSet | None = None
    held_out: tuple[Ballot, ...] = ()
    learned: tuple[Ballot, ...] = ()
    digests: frozenset[str] = frozenset()  # of the prompts of those votes

    def __bool__(self) -> bool:
        return bool(self.jury.specs)

    def unseen(self, spec: JudgeSpec) -> list[Ballot]:
        """Ballots that the judge did not learn from as far as is known: the held-out ones first, each in an order that
        follows from the prompts."""
        known = self.digests if spec.kind == REWARD else (kept_digests(spec.where) if spec.where else None)
        ballots = [*sorted(self.held_out, key=_of_prompt), *sorted(self.learned, key=_of_prompt)]
        return [ballot for ballot in ballots if not known or prompt_digest(ballot.prompt) not in known]


def open_judge(spec: JudgeSpec, panel: Panel, judged: Judged, fit: Callable[[], RewardModel]) -> PairJudge:
    """The judge, ready to be asked; `fit` makes the reward model that `reward` is. Raises UserError for one that
    cannot judge."""
    if spec.kind == REWARD:
        return judge_by_reward(fit(), judged.models, micro_tokens=tokens_per_pass(judged.models.base.device))
    return open_named(spec, panel.jury, precision=judged.models.precision, device=str(judged.models.base.device))


def open_named(spec: JudgeSpec, jury: Jury, **settings: Any) -> PairJudge:
    """A judge that is there already, ready to be asked, in a precision and on a device. Raises UserError for one that
    cannot judge."""
    if spec.judge is not None:
        return spec.judge
    if spec.kind == CLASSIFIER:
        return open_classifier(spec.where, **settings)
    assert jury.wording is not None
    if spec.kind == MODEL:
        return open_local(spec.where, wording=jury.wording, **settings)
    return open_endpoint(spec.where, jury.model, wording=jury.wording, budget=jury.budget or None)


def describe_judges(panel: Panel, judged: Judged, *, test: bool) -> list[dict[str, Any]]:
    """What `study.json` says of the judges before the first run: each is opened once, and with `test` asked about
    held-out votes, so that one that cannot judge is known before anything is trained. What is fitted later tells itself
    then."""
    path = judged.folder / "study.json"
    known = {judge["name"]: judge for judge in read_info(judged.folder)["judges"]} if path.exists() else {}
    described: list[dict[str, Any]] = []
    for spec in panel.jury.specs:
        if spec.kind == REWARD:
            described.append({"name": spec.name, "description": "a reward model that is still to be fitted"})
            continue
        judge = open_judge(spec, panel, judged, _never)
        own = {"name": judge.name, "description": judge.description, "identity": dict(judge.identity)}
        agrees = known.get(judge.name, {}).get("agreement", {})
        unseen = panel.unseen(spec)
        if test and unseen and not agrees:
            say(f"judge {judge.name}: asked about held-out votes first")
            agrees = agreement_with_votes(judge, unseen)
        described.append(own | {"agreement": agrees})
        del judge
        if spec.kind != GIVEN:
            return_freed_memory()
    return described


def fitted_judges(
    described: Sequence[Mapping[str, Any]], panel: Panel, judged: Judged, fit: Callable[[], RewardModel]
) -> list[Mapping[str, Any]]:
    """What `study.json` says of the judges, now that the one that is fitted here was and has been tested: before any
    policy is trained, so that nobody waits for runs that it cannot tell apart."""
    specs = {spec.name: spec for spec in panel.jury.specs if spec.kind == REWARD}
    told = []
    for own in described:
        spec = specs.get(own["name"])
        if spec is not None and not own.get("agreement"):
            judge = open_judge(spec, panel, judged, fit)
            own = {"name": judge.name, "description": judge.description, "identity": dict(judge.identity)}
            own |= {"agreement": agreement_with_votes(judge, panel.unseen(spec))}
            say(f"judge {judge.name}: {no_axis(own) or tells_votes(own)}")
            del judge
            return_freed_memory()
        told.append(own)
    return told


def _never() -> RewardModel:
    raise AssertionError("is not fitted here")


def judge_study(
    panel: Panel, judged: Judged, fit: Callable[[], RewardModel] = _never, meet: Meet = arms_met
) -> dict[str, Any]:
    """Have every judge of the study say what it thinks of all run ends, and of those that `meet`; what `study.json` is
    to say of them."""
    if not panel:
        return {}
    opponents, study = draw_opponents(judged), read_study(judged.folder)
    ends = study.ends()
    asked = contests_of(judged, ends, meet(ends), [*study.samples, *opponents])
    known = judges_of(study)
    described = []
    for spec in panel.jury.specs:
        judge = open_judge(spec, panel, judged, fit)
        own: dict[str, Any] = {"name": judge.name, "description": judge.description, "identity": dict(judge.identity)}
        if spec.kind == REWARD:
            own["identity"] |= {"base": judged.models.base.sha256}
        if isinstance(judge, Scored):
            own["fit"] = dict(judge.reward.info)
        before = known.get(judge.name, {})
        path = judged.folder / JUDGEMENTS_FILE
        ask(judge, asked, path)
        ask_again(judge, asked, path)
        agrees = before.get("agreement") or agreement_with_votes(judge, panel.unseen(spec))
        if isinstance(judge, Endpoint):  # log-probs, JSON or a letter alone
            own["read"] = dict(Counter(before.get("read", {})) + judge.read)
        described.append(own | {"agreement": agrees})
        del judge
        if spec.kind != GIVEN:
            return_freed_memory()
    order = [*known, *(own["name"] for own in described)]
    described.sort(key=lambda own: order.index(own["name"]))  # whoever was named first answers
    return {"judges": described, "addressed": addressed([*study.samples, *opponents])}


def check_apart(judges: Sequence[Mapping[str, Any]], taught: Collection[str | None]) -> None:
    """Raises UserError if some arm learns from a judge: it would be asked how well it was obeyed.

    `taught` are the hashes of the reward models that arms learn from.
    """
    for judge in judges:
        own = judge.get("identity", {}).get("model")
        if own is not None and own in taught:
            raise UserError(
                f"--judge {judge['name']}: is the reward model that some arm learns from; name another judge"
            )


def addressed(samples: Sequence[Sample]) -> dict[str, int]:
    """How many responses of each run seem to speak to a judge."""
    return dict(Counter(sample.run for sample in samples if addresses_judge(sample.response)))
