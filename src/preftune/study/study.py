"""A study: arms × β × seeds on the same ballots with the same budget, evaluated the same way, in one folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, Prompt, split_by_prompt
from ..errors import UserError
from ..evidence import PROXY, Result, StudyRecord, Verdict, read_study, verdict, write_json
from ..judges import Judge
from ..methods import AMORTIZED_IPO, Selection
from ..model import Workbench, open_workbench
from ..preference import check_extra_responses, check_fitted
from ..report import write_report
from ..stopping import only_writer
from ..training import AnyTraining, PromptTraining, check_context, describe_counts, prepare
from .describing import describe_study, open_study
from .naming import condition_name
from .overlap import check_overlap, prompts_of, together, trained_on
from .plan import Betas, Plan, StudyData, TrainingKey, check_shares, make_data, make_plan
from .questions import held_out_prompts, make_questions
from .rewards import fit_rewards
from .runs import Runner

PROXY_WORDS = (
    "the reward model that ppo, rloo and best-of-n learn from or select by, fitted on the training votes; its mean "
    "over the reference's samples of the same prompt is taken off"
)


@dataclass(frozen=True)
class Study:
    """A finished study: its rows of results, its verdict, and its folder."""

    folder: Path

    @property
    def study(self) -> StudyRecord:
        return read_study(self.folder)

    @property
    def results(self) -> tuple[Result, ...]:
        return self.study.results

    @property
    def verdict(self) -> Verdict:
        return verdict(self.study)

    @property
    def failed(self) -> Mapping[str, str]:
        """The runs that failed, and why."""
        failed: Mapping[str, str] = self.study.info["failed"]
        return failed

    def report(self) -> Path:
        """Draw `report.html` anew from the folder's JSON files and return its path."""
        return write_report(self.folder)


def compare(
    arms: Sequence[str] | str,
    ballots: Sequence[Ballot],
    *,
    model: str,
    betas: Betas = (0.1,),
    seeds: Sequence[int] = (0,),
    label_noise: Sequence[float] = (0.0,),
    out: str | Path,
    reference: str | None = None,
    eval_ballots: Sequence[Ballot] | None = None,
    eval_fraction: float = 0.1,
    prompts: Sequence[Prompt] | None = None,
    eval_prompts: int = 64,
    votes_per_prompt: int | None = None,
    validation_fraction: float = 0.0,
    samples: int = 1,
    max_new_tokens: int = 64,
    checkpoints: int = 3,
    kind: str | None = None,
    judge: Judge | None = None,
    others: Mapping[str, Judge] | None = None,
    title: str = "",
    command: str = "",
    notes: Sequence[str] = (),
    allow_overlap: bool = False,
    **options: Any,
) -> Study:
    """Train every arm at every β and seed on identical votes, evaluate all of them alike, and draw the report.

    Calling it again with the same `out` goes on where it stopped; more arms, β, seeds or rates of label noise may be
    added then.

    Args:
        arms: such as `["dpo", "ipo", "ipo[reduction=mean]"]`, or one text with commas.
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        betas: strengths of the KL term: the same for every arm, or a mapping from an arm's name to its own.
        seeds: one run of every arm and β for each. What is random in a run's training follows from its seed, arm and β,
            so that runs are exchangeable; noise, fitted rewards and preferences follow from the seed alone.
        label_noise: rates at which single training and validation votes are flipped, each on its own and by seed; one
            run of everything for each. Evaluation votes, prompts and `judge` are never touched.
        out: the study's folder.
        reference: another model to take as the reference; by default the model itself.
        eval_ballots: ballots to evaluate on; by default `eval_fraction` of the prompts are held out, at most
            `eval_prompts` of them.
        prompts: prompts to sample from; by default those of the held-out ballots, at most `eval_prompts` of them.
        votes_per_prompt: train on so many single votes of a prompt at most, chosen by chance, the same for every run.
        validation_fraction: share of the training prompts that nobody trains on; every checkpoint tells its log-loss on
            their votes, which are as noisy as the training ones.
        samples: responses per prompt, at most `max_new_tokens` long; 0 samples leave KL and rewards out.
        checkpoints: evaluations per run, evenly spaced.
        kind: of the reward model that ppo, rloo, best-of-n and amortized-ipo use, one per seed and noise, fitted on the
            same votes: `full`, `lora` (the default with an adapter's rank) or `frozen`, for small machines (the default
            where only amortized-ipo uses it).
        judge: the reward of a response, where one is known (`gold`); `others` are second opinions.
        title, command, notes: shown in the report.
        allow_overlap: ask prompts that were trained on too, with a caveat; without it they are an error.
        options: the fields of `Settings`, and options of the methods compared, for every arm whose method has them.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    started = time.monotonic()
    plan = make_plan(arms, betas, seeds, label_noise, {**options, "max_new_tokens": max_new_tokens}, checkpoints, kind)
    check_shares(votes_per_prompt, validation_fraction)
    folder = Path(out)
    if eval_ballots is None:
        distinct = len({ballot.prompt for ballot in ballots})
        fraction = min(eval_fraction, eval_prompts / max(distinct, 1))
        train_ballots, held_out = split_by_prompt(ballots, fraction, seed=0)
    else:
        train_ballots, held_out = tuple(ballots), tuple(eval_ballots)
    sets = {"the held-out part of --data" if eval_ballots is None else "--eval-data": prompts_of(held_out)}
    sets |= {"--prompts": list(prompts)} if prompts is not None else {}
    seen = trained_on(train_ballots, model)
    caveats = check_overlap(sets, seen, allowed=allow_overlap)
    with only_writer(folder):
        bench = open_workbench(
            model,
            reference=reference,
            precision=plan.settings.precision,
            device=plan.settings.device,
            template=plan.settings.template_options,
        )
        form, length = bench.base.form, plan.settings.max_length
        data = make_data(plan, train_ballots, held_out, form, votes_per_prompt, validation_fraction)
        asked = tuple(prompts) if prompts is not None else held_out_prompts(held_out, eval_prompts)
        questions, cuts = make_questions(
            asked, data.held_out, form, length, samples, max_new_tokens, judge, others or {}
        )
        trainings = prepare_trainings(bench, plan, data)
        info = describe_study(plan, bench, ballots, data, questions, trainings, cuts)
        info["data"] |= {"votes_per_prompt": votes_per_prompt} if votes_per_prompt is not None else {}
        info |= {"title": title or f"{', '.join(info['arms'])} on {Path(str(model)).name}", "command": command}
        info |= {"notes": list(notes), "caveats": caveats, "seconds": {}}
        for fitted in (folder / "rewards").glob("*"):
            check_fitted(fitted, plan.kind)
        info = open_study(folder, info)
        say(f"layout: {bench.layout.name} ({bench.layout.reason})")
        count = f"{len(data.training.ballots)} ballots to train on, {len(data.held_out.ballots)} held out"
        say(f"{count}, {len(questions.prompts)} prompts")
        say(f"skipped: {describe_counts(info['data']['skipped'])}")
        for line in info["targets"].values():
            say(line)
        digests = together(seen)
        rewards = fit_rewards(folder, bench, plan, data, questions, digests) if plan.needs_reward else {}
        runner = Runner(folder, bench, plan, data, questions, dict(trainings), rewards, digests)
        if rewards:
            info["opinions"] = {**info["opinions"], PROXY: PROXY_WORDS}
            models = {condition_name(*where): dict(reward.model.info) for where, reward in rewards.items()}
            info["reward"] = {"kind": plan.kind, **models}
            write_json(folder / "study.json", info)
        runner.evaluate_reference()
        info["failed"] = runner.run_all()
        records = runner.records()
        info["budgets"] = {name: record["budget"] for name, record in records.items() if "budget" in record}
        info["preferences"] = {name: record["preference"] for name, record in records.items() if "preference" in record}
        info["targets"] |= {name: record["target"] for name, record in records.items() if "target" in record}
        seconds = info["seconds"].get("study", 0.0) + time.monotonic() - started
        write_json(folder / "study.json", info | {"seconds": {"study": round(seconds, 1)}})
        comparison = Study(folder)
        say(comparison.verdict.sentence)
        say(f"report: {comparison.report()}")
    return comparison


def prepare_trainings(bench: Workbench, plan: Plan, data: StudyData) -> dict[TrainingKey, AnyTraining]:
    """What the runs of every arm, seed and noise train on. Raises UserError for an arm that cannot train."""
    trainings = {
        (arm.name, *where): prepare(plan.recipe(arm), data.ballots, data.votes[where].tokens, bench, where[0])
        for arm in plan.arms
        for where in plan.conditions()
        if not isinstance(arm.method, Selection)
    }
    if not trainings:
        raise UserError("--methods: best-of-n trains nothing; name a method beside it that does")
    for arm in plan.arms:
        for where in plan.conditions():
            training = trainings.get((arm.name, *where))
            if isinstance(training, PromptTraining):
                check_context(bench, training)
            elif training and training.method is AMORTIZED_IPO:
                check_extra_responses(bench, data.votes[where].tokens, training.recipe.options)
    return trainings
