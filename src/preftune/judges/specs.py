"""Who is to judge, as a person names him: settled before anything is loaded. No torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Prompt
from ..errors import UserError
from .judge import Judge
from .opinions import Caller, PairJudge
from .wording import Wording, read_wording

REWARD, CLASSIFIER, MODEL, ENDPOINT, GIVEN = "reward", "reward:", "model:", "http", "given"
FRACTION = 0.3  # of the training prompts, whose votes a judge is fitted on that no arm learns from

Named = str | Judge | PairJudge | Callable[[Prompt, str, str], float | None]


@dataclass(frozen=True)
class JudgeSpec:
    """A judge of two responses: its kind, where it is (a folder, a hub name, an address), or itself if it was given."""

    name: str
    kind: str
    where: str = ""
    judge: PairJudge | None = None


@dataclass(frozen=True)
class Jury:
    """Who judges the samples of a study: `gold` is a reward, where one is known, `specs` compare two responses.

    The rest is for those that are not given in Python: the template that is read, an endpoint's model and budget, and
    the share of the training prompts that a reward model is fitted on.
    """

    gold: Judge | None = None
    specs: tuple[JudgeSpec, ...] = ()
    wording: Wording | None = None
    model: str = ""
    budget: str = ""
    fraction: float = FRACTION

    @property
    def fits(self) -> bool:
        """Whether a judge is to be fitted to votes that are taken out of the training ones."""
        return any(spec.kind == REWARD for spec in self.specs)


def settle_judges(
    judge: Named | Sequence[Named] | None = None,
    *,
    judge_template: str | None = None,
    judge_model: str | None = None,
    judge_budget: str | int | None = None,
    judge_fraction: float | None = None,
    flag: str = "judge",
) -> Jury:
    """The judges in the order in which they are named: the first is the one that a study answers by.

    Raises UserError for one that cannot be, one that is named twice, and an option that none of them has use for; it
    says by which `flag` they were named.
    """
    named = [judge] if judge is None or isinstance(judge, str) or not isinstance(judge, Sequence) else list(judge)
    gold = [one for one in named if isinstance(one, Judge)]
    specs = tuple(_spec(one, flag) for one in named if one is not None and not isinstance(one, Judge))
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--{flag} {twice[0]}: is named twice")
    if len(gold) > 1:
        raise UserError("judge: two rewards are given; give one, and the other among `others`")
    kinds = {spec.kind for spec in specs}
    given: dict[str, tuple[Any, set[str]]] = {
        "judge-template": (judge_template, {MODEL, ENDPOINT}),
        "judge-model": (judge_model, {ENDPOINT}),
        "judge-budget": (judge_budget, {ENDPOINT}),
        "judge-fraction": (judge_fraction, {REWARD}),
    }
    for option, (value, users) in given.items():
        if value is not None and not users & kinds:
            raise UserError(f"--{option} {value}: no judge has use for it; leave it out, or name one with --{flag}")
    if ENDPOINT in kinds and not judge_model:
        raise UserError(f"--{flag} {names[0]}: say which model is asked there: --judge-model NAME")
    fraction = FRACTION if judge_fraction is None else judge_fraction
    if not 0 < fraction < 1:
        raise UserError(f"--judge-fraction {fraction}: must be above 0 and below 1")
    wording = read_wording(judge_template) if {MODEL, ENDPOINT} & kinds else None
    told = "" if judge_budget is None else str(judge_budget)
    return Jury(gold[0] if gold else None, specs, wording, judge_model or "", told, fraction)


def _spec(named: Named, flag: str) -> JudgeSpec:
    if not isinstance(named, str):
        if isinstance(named, PairJudge):
            return JudgeSpec(named.name, GIVEN, judge=named)
        if callable(named):
            name = getattr(named, "__name__", type(named).__name__)
            about = (inspect.getdoc(named) or f"the Python function {name}").splitlines()[0]
            return JudgeSpec(name, GIVEN, judge=Caller(name, about, named))
        raise UserError(f"judge {named!r:.60}: must be a name, a function, or have a method `prefer`")
    if named == REWARD:
        return JudgeSpec(named, REWARD)
    if named.startswith(("http://", "https://")):
        return JudgeSpec(named, ENDPOINT, named)
    for kind in (CLASSIFIER, MODEL):
        if named.startswith(kind) and named != kind:
            return JudgeSpec(named, kind, named.removeprefix(kind))
    raise UserError(
        f"--{flag} {named}: must be reward, reward:DIR, model:DIR, or the http address of an OpenAI-compatible endpoint"
    )
