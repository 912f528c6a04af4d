"""A settled plan met with its data and its models: where `compare` begins, and what `plan` foretells from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Ballot, Prompt, prompt_digests, split_by_prompt, tokenize
from ..judges import Judge, Jury
from ..model import Workbench, open_workbench
from ..preference import check_fitted
from ..training import AnyTraining
from .describing import describe_study
from .judging import Panel, describe_judges
from .making import prepare_trainings
from .meetings import Judged
from .overlap import check_overlap, prompts_of, trained_on
from .pilots import Fresh, fresh_ballots, validation_share
from .plan import Plan, StudyData, TrainingKey, make_data, training_and_held_out
from .questions import Questions, held_out_prompts, make_questions

FOR_JUDGE = 2  # the seed that says which training prompts a judge is fitted on, and no arm learns from


@dataclass(frozen=True)
class Opened:
    """A study before its first step: what it trains on, what it asks, and what `study.json` is to say of both."""

    plan: Plan
    bench: Workbench
    data: StudyData
    questions: Questions
    trainings: Mapping[TrainingKey, AnyTraining]
    fresh: Fresh
    panel: Panel
    info: dict[str, Any]


def open_plan(
    plan: Plan,
    ballots: Sequence[Ballot],
    folder: Path,
    *,
    model: str,
    reference: str | None,
    eval_ballots: Sequence[Ballot] | None,
    eval_fraction: float,
    prompts: Sequence[Prompt] | None,
    eval_prompts: int,
    votes_per_prompt: int | None,
    validation_fraction: float,
    samples: int,
    max_new_tokens: int,
    jury: Jury,
    others: Mapping[str, Judge],
    allow_overlap: bool,
    test_judges: bool = True,
) -> Opened:
    """Split, check for overlap, load, tokenise and plan every step; nothing is written.

    The arguments are those of `compare`; `eval_prompts` are held out at most; with `test_judges` judges are asked about
    held-out votes, which may cost. Raises UserError for what the user can
    mend.
    """
    settings = plan.settings
    validation_fraction = validation_share(plan, validation_fraction)
    train_ballots, held_out = training_and_held_out(ballots, eval_ballots, eval_fraction, eval_prompts)
    sets = {"the held-out part of --data" if eval_ballots is None else "--eval-data": prompts_of(held_out)}
    sets |= {"--prompts": list(prompts)} if prompts is not None else {}
    judged_by = [spec.where for spec in jury.specs if spec.where]
    caveats = check_overlap(sets, trained_on(train_ballots, model, *judged_by), allowed=allow_overlap)
    train_ballots, for_judge = split_by_prompt(train_ballots, jury.fraction if jury.fits else 0.0, seed=FOR_JUDGE)
    bench = open_workbench(
        model,
        reference=reference,
        precision=settings.precision,
        device=settings.device,
        template=settings.template_options,
        base=settings.base,
    )
    form = bench.base.form
    data = make_data(plan, train_ballots, held_out, form, votes_per_prompt, validation_fraction)
    asked = tuple(prompts) if prompts is not None else held_out_prompts(held_out, eval_prompts)
    questions, cuts = make_questions(
        asked, data.held_out, form, settings.max_length, samples, max_new_tokens, jury.gold, others
    )
    trainings = prepare_trainings(bench, plan, data)
    fresh = fresh_ballots(plan, data, {*asked, *prompts_of(held_out)}, form)
    for fitted in (folder / "rewards").glob("*"):
        check_fitted(fitted, plan.kind)
    votes = tokenize(for_judge, form, max_length=settings.max_length) if for_judge else None
    panel = Panel(
        jury, votes, tuple(held_out), tuple(train_ballots), prompt_digests({ballot.prompt for ballot in for_judge})
    )
    info = describe_study(plan, bench, ballots, data, questions, trainings, cuts) | {"caveats": caveats}
    info["judges"] = describe_judges(panel, Judged(folder, bench, questions), test=test_judges)
    info["data"] |= {"ballots_judge": len(votes.ballots)} if votes else {}
    info["data"] |= {"votes_per_prompt": votes_per_prompt} if votes_per_prompt is not None else {}
    info["data"] |= {"validation_fraction": validation_fraction} if plan.auto_lr else {}
    return Opened(plan, bench, data, questions, trainings, fresh, panel, info)
