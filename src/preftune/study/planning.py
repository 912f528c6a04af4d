"""What a study would be, before it is one: its runs, what they share, time and memory, what it could see.

`plan_study` takes what `compare` takes and settles, reads, tokenises and plans as it does. Then it measures one step of
each kind of work (`probing`) and multiplies. Nothing is written into the study's folder; of a study that is there
already, the runs that are done are named and only the rest is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import Ballot, Prompt
from ..evidence import REFERENCE, Comparison, Outlook, PlannedEnd, StudyRecord, outlook, read_study, verdict
from ..judges import Named, settle_judges
from ..methods import Selection
from ..model import Workbench, response_keys, with_threads
from ..training import AnyTraining, Arm, PromptTraining, checkpoint_steps, parse_arm, replanned
from .beta_search import MOST, assumed_betas
from .describing import continued
from .naming import condition_folder, run_name, run_seed
from .opening import open_plan
from .pilots import SHARE
from .placing import LOCAL, Placement, settle_placement
from .plan import Betas, Plan, StudyData, TrainingKey, settle_study
from .probing import Probe, probe, work
from .questions import Questions
from .rates import FURTHER, RATES
from .timing import by_the_clock

REWARD_STEP = 3  # forward passes that a step of training costs a token: a backward pass is about two


@dataclass(frozen=True)
class PlannedRun:
    """A run to be made: optimiser steps, tokens through the policy in all of them (`at_most`: no more than that, since
    they are sampled), evaluations, and whether it is `done` in the study's folder already."""

    name: str
    arm: str
    beta: float | None
    seed: int
    noise: float
    steps: int
    tokens: int
    at_most: bool
    evaluations: int
    work: int
    done: bool


@dataclass(frozen=True)
class Shared:
    """What is computed once: reference log-probs of `responses` in `tokens` tokens, of which so many are `stored` and
    not computed again; reward models; responses of the reference, of which best-of-n selects for every n."""

    responses: int
    stored: int
    tokens: int
    rewards: tuple[str, ...]
    rewards_left: int
    selected: int


@dataclass(frozen=True)
class Forecast:
    """A study that could be made. `seconds` are of what is left to do, by part; `outlook` is what the whole study could
    tell apart, `found` what the runs that are there tell; `scored`: something gives samples a reward. `searching` are
    the arms whose β is assumed, since it is still to be found, and `piloted` those whose learning rate is. `wall` are
    seconds by the clock where `placement` has the runs made."""

    runs: tuple[PlannedRun, ...]
    shared: Shared
    probe: Probe
    seconds: Mapping[str, float]
    outlook: tuple[Outlook, ...]
    ends: tuple[PlannedEnd, ...]
    found: tuple[Comparison, ...]
    prompts: int
    samples: int
    scored: bool
    searching: tuple[str, ...]
    piloted: tuple[str, ...]
    info: Mapping[str, Any]
    placement: Placement
    wall: float


def plan_study(
    arms: Sequence[str] | str,
    ballots: Sequence[Ballot],
    *,
    model: str,
    betas: Betas = None,
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
    judge: Named | Sequence[Named] | None = None,
    judge_fraction: float | None = None,
    judge_template: str | None = None,
    judge_model: str | None = None,
    judge_budget: str | None = None,
    allow_overlap: bool = False,
    executor: str = LOCAL,
    workers: int | None = None,
    address: str | None = None,
    resources: str | None = None,
    **options: Any,
) -> Forecast:
    """The study that `compare` would make of the same arguments. Raises UserError for what it would refuse."""
    placement = settle_placement(executor, workers, address, resources)
    jury = settle_judges(
        judge,
        judge_fraction=judge_fraction,
        judge_template=judge_template,
        judge_model=judge_model,
        judge_budget=judge_budget,
    )
    plan = settle_study(
        arms,
        betas=betas,
        seeds=seeds,
        label_noise=label_noise,
        checkpoints=checkpoints,
        kind=kind,
        votes_per_prompt=votes_per_prompt,
        validation_fraction=validation_fraction,
        eval_fraction=eval_fraction,
        eval_prompts=eval_prompts,
        samples=samples,
        max_new_tokens=max_new_tokens,
        fits_judge=jury.fits,
        **options,
    )
    folder = Path(out)
    before = read_study(folder) if (folder / "study.json").exists() else None
    searching, piloted = still_to_find(plan, before)
    plan = with_betas(plan, before)
    opened = open_plan(
        plan,
        ballots,
        folder,
        model=model,
        reference=reference,
        eval_ballots=eval_ballots,
        eval_fraction=eval_fraction,
        prompts=prompts,
        eval_prompts=eval_prompts,
        votes_per_prompt=votes_per_prompt,
        validation_fraction=validation_fraction,
        samples=samples,
        max_new_tokens=max_new_tokens,
        jury=jury,
        others={},
        allow_overlap=allow_overlap,
        test_judges=False,
    )
    bench, data, questions, trainings = opened.bench, opened.data, opened.questions, opened.trainings
    info = continued(folder, opened.info)
    runs = planned_runs(plan, bench, trainings, questions, folder, before)
    shared = what_is_shared(plan, bench, trainings, data, questions, folder, runs)
    first = first_trainings(plan, bench, trainings)
    with with_threads(placement.threads):
        measured = probe(bench, first, data.training.ballots, questions, plan.settings.pass_tokens)
    seconds = seconds_of(plan, bench, data, questions, runs, shared, measured, before)
    ends = planned_ends(info)
    return Forecast(
        runs,
        shared,
        measured,
        seconds,
        outlook(ends, len(questions.prompts), samples),
        ends,
        verdict(before).comparisons if before and before.samples else (),
        len(questions.prompts),
        samples,
        bool(jury.gold or jury.specs or (before and (before.info["gold"] or before.info["judges"]))),
        searching,
        piloted,
        info,
        placement,
        by_the_clock(seconds, each_run(runs, seconds, measured), len({*searching, *piloted}), placement.workers),
    )


def still_to_find(plan: Plan, before: StudyRecord | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The arms whose β, and those whose learning rate, `study.json` does not have yet."""
    info = before.info if before else {"search": {}, "pilots": {}}
    searching = () if info["search"].get("ended") else plan.searching
    return searching, tuple(arm.name for arm in plan.piloted if arm.name not in info["pilots"])


def with_betas(plan: Plan, before: StudyRecord | None) -> Plan:
    """The plan with the β that a search has found, or would come to if the arms were alike."""
    found = before.info["search"].get("chosen", {}) if before else {}
    assumed = assumed_betas(alone=len(plan.seeds) == 1)
    return replace(
        plan, arm_betas={**plan.arm_betas, **{arm: tuple(found.get(arm, assumed)) for arm in plan.searching}}
    )


# --- the runs ---------------------------------------------------------------------------------------------------------


def planned_runs(
    plan: Plan,
    bench: Workbench,
    trainings: Mapping[TrainingKey, AnyTraining],
    questions: Questions,
    folder: Path,
    before: StudyRecord | None,
) -> tuple[PlannedRun, ...]:
    """Every run of the plan, each with its own order of the data."""
    return tuple(_planned_run(plan, bench, trainings, questions, folder, before, *run) for run in plan.runs())


def _planned_run(
    plan: Plan,
    bench: Workbench,
    trainings: Mapping[TrainingKey, AnyTraining],
    questions: Questions,
    folder: Path,
    before: StudyRecord | None,
    arm: Arm,
    beta: float | None,
    seed: int,
    noise: float,
) -> PlannedRun:
    name = run_name(arm, beta, seed, noise)
    if isinstance(arm.method, Selection):
        there = {row.step for row in before.results if row.run == name} if before else set()
        done = there >= set(arm.method.sizes)
        return PlannedRun(name, arm.name, beta, seed, noise, 0, 0, False, len(arm.method.sizes), 0, done)
    training = own_training(bench, trainings, arm, beta, seed, noise)
    most = tokens_of(bench, training)
    done = (folder / "runs" / name / "run.json").exists()
    evaluations = len(checkpoint_steps(training.steps, plan.checkpoints))
    at_most = isinstance(training, PromptTraining) or extra_responses(training) > 0
    units = work(bench, training) if isinstance(training, PromptTraining) else most
    return PlannedRun(name, arm.name, beta, seed, noise, training.steps, most, at_most, evaluations, units, done)


def own_training(
    bench: Workbench,
    trainings: Mapping[TrainingKey, AnyTraining],
    arm: Arm,
    beta: float | None,
    seed: int,
    noise: float,
) -> AnyTraining:
    """What a run trains on, in the order that it has."""
    return replanned(trainings[arm.name, seed, noise], bench.layout, run_seed(seed, arm.name, beta))


def tokens_of(bench: Workbench, training: AnyTraining) -> int:
    """Tokens through the policy in all steps; of what is sampled, as if every response had its longest length."""
    if not isinstance(training, PromptTraining):
        added = extra_responses(training) * int(getattr(training.recipe.options, "max_new_tokens", 0))
        return work(bench, training) + added * sum(len(part) for step in training.plan for part in step.micro_batches)
    options, copies = training.recipe.options, 1
    if bench.layout.name == "padded":
        copies = options.rollouts
    asked = [training.prompts[i] for step in training.plan for part in step.micro_batches for i in part]
    longest = options.rollouts * options.max_new_tokens
    return int(training.passes * sum(copies * len(prompt) + longest for prompt in asked))


def extra_responses(training: AnyTraining) -> int:
    """Responses that are sampled to each ballot before training."""
    return int(getattr(training.recipe.options, "extra_responses", 0))


def first_trainings(
    plan: Plan, bench: Workbench, trainings: Mapping[TrainingKey, AnyTraining]
) -> dict[str, tuple[AnyTraining, float | None]]:
    """The training of the first run of each arm that trains, and its β."""
    first: dict[str, tuple[AnyTraining, float | None]] = {}
    for arm, beta, seed, noise in plan.runs():
        if arm.name not in first and not isinstance(arm.method, Selection):
            first[arm.name] = own_training(bench, trainings, arm, beta, seed, noise), beta
    return first


# --- what they share --------------------------------------------------------------------------------------------------


def what_is_shared(
    plan: Plan,
    bench: Workbench,
    trainings: Mapping[TrainingKey, AnyTraining],
    data: StudyData,
    questions: Questions,
    folder: Path,
    runs: Sequence[PlannedRun],
) -> Shared:
    """What all runs that are not done need of the reference, each response once, and the reward models."""
    groups = [questions.ballots, *(data.votes[where].validation for where in plan.conditions())]
    for (arm, beta, seed, noise), run in zip(plan.runs(), runs, strict=True):
        if run.done or isinstance(arm.method, Selection) or not arm.method.uses_reference:
            continue
        training = own_training(bench, trainings, arm, beta, seed, noise)
        if not isinstance(training, PromptTraining):
            reached = dict.fromkeys(i for step in training.plan for part in step.micro_batches for i in part)
            groups.append(tuple(training.ballots[i] for i in reached))
    ballots = {tuple(response_keys(ballot)): ballot for group in groups for ballot in group}
    keys = {key for own in ballots for key in own}
    stored = bench.store.logprobs(sorted(keys))
    tokens = sum(bench.layout.size(ballot) for own, ballot in ballots.items() if not set(own) <= stored.keys())
    fits = any(arm.method.needs for arm in plan.arms)
    rewards = tuple(condition_folder(*where) for where in plan.conditions()) if fits else ()
    left = [name for name in rewards if not (folder / "rewards" / name / "done.json").exists()]
    selected = max((max(a.method.sizes) for a in plan.arms if isinstance(a.method, Selection)), default=0)
    return Shared(len(keys), len(stored), tokens, rewards, len(left), selected * len(questions.prompts))


# --- how long ---------------------------------------------------------------------------------------------------------


def seconds_of(
    plan: Plan,
    bench: Workbench,
    data: StudyData,
    questions: Questions,
    runs: Sequence[PlannedRun],
    shared: Shared,
    measured: Probe,
    before: StudyRecord | None,
) -> dict[str, float]:
    """Seconds of what is left, by part.

    An evaluation samples, compares policy and reference at every token (two forward passes; a third one scores with the
    learned reward) and meets the held-out votes. A reward model is fitted in one pass over the votes: a forward pass
    where it reads frozen features, else `REWARD_STEP` of them. Loading, saving, judging and extra responses are not
    counted.
    """
    left = [run for run in runs if not run.done]
    selecting = {arm.name for arm in plan.arms if isinstance(arm.method, Selection)}
    answers = len(questions.prompts) * measured.answer
    sampling = len(questions.prompts) * questions.samples * measured.sampling
    held_out = sum(map(bench.layout.size, questions.ballots)) + sum(map(bench.layout.size, data.validation.ballots))
    once = sampling + measured.forward * ((3 if plan.needs_reward else 2) * answers + held_out)
    drawn = shared.selected * (measured.sampling + measured.forward * measured.answer / max(questions.samples, 1))
    trained = sum(map(bench.layout.size, data.training.ballots))
    frozen = plan.kind == "frozen"  # whose features are stored: all that are fitted read the same
    fits = min(shared.rewards_left, 1) if frozen else REWARD_STEP * shared.rewards_left
    searching, piloted = still_to_find(plan, before)
    each = {run.arm: measured.training.get(run.arm, 0.0) * run.work for run in runs}
    evaluated = {run.arm: run.evaluations for run in runs}
    further = MOST - len(assumed_betas(alone=len(plan.seeds) == 1))
    start = before is None or not any(row.run == REFERENCE for row in before.results)
    return {
        "reference": measured.forward * shared.tokens,
        "reward models": measured.forward * trained * fits,
        "pilots, at most": sum((RATES + FURTHER) / SHARE * each[arm] for arm in piloted),
        "training": sum(measured.training[run.arm] * run.work for run in left if run.arm not in selecting),
        "evaluation": (sampling if start else 0.0)
        + sum(drawn if run.arm in selecting else run.evaluations * once for run in left),
        "further runs of the search for β, at most": sum(
            further * (each[arm] + evaluated[arm] * once) for arm in searching
        ),
    }


def each_run(runs: Sequence[PlannedRun], seconds: Mapping[str, float], measured: Probe) -> list[float]:
    """Seconds of each run that is left: its training, and its share of all evaluations."""
    left = [run for run in runs if not run.done]
    one = seconds["evaluation"] / max(1, sum(run.evaluations for run in left))
    return [measured.training.get(run.arm, 0.0) * run.work + one * run.evaluations for run in left]


# --- what it could see ------------------------------------------------------------------------------------------------


def planned_ends(info: Mapping[str, Any]) -> tuple[PlannedEnd, ...]:
    """Where the runs of the whole study are to end, those of `study.json` that are there among them."""
    methods = {arm: parse_arm(arm).method for arm in info["arms"]}
    return tuple(
        PlannedEnd(arm, beta, seed, float(noise), step)
        for arm, method in methods.items()
        for beta in info["arm_betas"].get(arm, (None,))
        for seed in info["seeds"]
        for noise in info["noises"]
        for step in (method.sizes if isinstance(method, Selection) else (0,))
    )
