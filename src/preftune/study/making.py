"""The runs of a study, and what must be there before them: reward models, learning rates, the reference, β."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..console import say
from ..errors import UserError
from ..evidence import PROXY, write_json
from ..methods import AMORTIZED_IPO, Selection
from ..model import Workbench
from ..preference import check_extra_responses
from ..training import AnyTraining, PromptTraining, check_context, prepare
from .beta_search import MOST, kept, search_betas
from .describing import describe_targets
from .handing import attempt_all, kl_of_runs
from .judging import check_apart, fitted_judges, judge_study
from .looks import Clock
from .naming import condition_name
from .piloting import settle_rates
from .pilots import Fresh
from .plan import Plan, StudyData, TrainingKey
from .rewards import fit_rewards
from .runs import Runner

PROXY_WORDS = (
    "the reward model that ppo, rloo and best-of-n learn from or select by, fitted on the training votes; its mean "
    "over the reference's samples of the same prompt is taken off"
)


def make_runs(runner: Runner, info: dict[str, Any], fresh: Fresh, clock: Clock) -> dict[str, Any]:
    """Do every run of the runner's plan; `study.json` with what is known of it afterwards."""
    plan, path = runner.plan, runner.folder / "study.json"
    if plan.needs_reward:
        rewards = fit_rewards(runner.folder, runner.bench, plan, runner.data, runner.questions, runner.digests)
        info["opinions"] = {**info["opinions"], PROXY: PROXY_WORDS}
        models = {condition_name(*where): dict(reward.model.info) for where, reward in rewards.items()}
        info["reward"] = {"kind": plan.kind, **models}
        write_json(path, info)
        check_apart(info["judges"], {reward.model.sha256 for reward in rewards.values()})
        runner = replace(runner, rewards=rewards)
    if runner.panel.jury.fits:
        info["judges"] = fitted_judges(info["judges"], runner.panel, runner.judging, runner.judged_by)
        write_json(path, info)
    runner = settle_rates(runner, info, fresh) if plan.auto_lr else runner
    runner.evaluator.evaluate_reference()
    if plan.searching:
        runner, info = find_betas(runner, info)
    info["failed"] = attempt_all(runner, runner.plan.runs())
    records = runner.records()
    info["budgets"] = {name: record["budget"] for name, record in records.items() if "budget" in record}
    info["preferences"] = {name: record["preference"] for name, record in records.items() if "preference" in record}
    info["calibration"] = runner.calibrations()
    info["targets"] |= {name: record["target"] for name, record in records.items() if "target" in record}
    info |= judge_study(runner.panel, runner.judging, runner.judged_by)
    clock.save()
    info = info | {"seconds": {"study": clock.seconds()}}
    write_json(path, info)
    return info


def find_betas(runner: Runner, info: dict[str, Any]) -> tuple[Runner, dict[str, Any]]:
    """Run the search for the β of the arms that have none yet; the runner and `study.json` with what was found.

    It follows from the KL of its runs alone, and finished runs are not done again: a study that was interrupted comes
    to the same β. One that has ended is not made again.
    """
    plan, known = runner.plan, info["search"]
    alone = len(plan.seeds) == 1
    if known.get("ended") and known["alone"] == alone and set(plan.searching) <= set(known["chosen"]):
        chosen = {arm: kept(plan.arm_betas.get(arm, ()), known["chosen"][arm]) for arm in plan.searching}
        return replace(runner, plan=replace(plan, arm_betas=chosen, searching=())), info
    say(f"β is found by KL, at seed {plan.seeds[0]}, in at most {MOST} runs of each arm ({', '.join(plan.searching)})")
    path = runner.folder / "study.json"
    write_json(path, info | {"search": {"ended": False}})
    search = search_betas(plan.searching, partial(kl_of_runs, runner), say, alone=alone, given=plan.arm_betas)
    for arm in plan.searching:
        missed = ", ".join(f"{target**2:.2g}" for target in search.missed(arm))
        say(f"{arm}: β {', '.join(f'{beta:g}' for beta in search.chosen[arm])}")
        if missed:
            say(f"{arm}: no run ended near {missed} nats")
    plan = replace(plan, arm_betas=search.chosen, searching=())
    betas = {arm: sorted({*info["arm_betas"].get(arm, ()), *own}) for arm, own in search.chosen.items()}
    found = {"arm_betas": info["arm_betas"] | betas, "betas": sorted({*info["betas"], *plan.betas})}
    found |= {"search": {"ended": True, "seed": plan.seeds[0], "alone": alone, **search.record()}}
    found |= {"targets": info["targets"] | describe_targets(plan, runner.trainings)}
    info = info | found
    write_json(path, info)
    return replace(runner, plan=plan), info


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
