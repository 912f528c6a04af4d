"""The runs of a study: trained, evaluated at checkpoints, left in its folder; what is there is not done again."""

from __future__ import annotations

import json
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import keep_digests
from ..errors import Interrupted, UserError
from ..evidence import (
    Estimate,
    held_out_alarms,
    read_metrics,
    read_record,
    run_alarms,
    say_alarms,
    write_json,
)
from ..methods import AMORTIZED_IPO, Selection
from ..model import (
    Policy,
    RewardModel,
    Workbench,
    load_base,
    measure_export,
    remove_state,
    return_freed_memory,
)
from ..preference import Fitting, fit_or_load, reward_recipe, set_targets
from ..stopping import only_writer, stop_requests
from ..training import (
    FAILED,
    AnyTraining,
    Arm,
    Recipe,
    Training,
    budget,
    describe_target,
    prepare_targets,
    replanned,
    train_any,
    trained_on_chats,
)
from .asking import CALIBRATION, Evaluator
from .judging import Panel
from .meetings import Judged
from .mending import finished, is_finished
from .naming import condition_folder, run_name, run_seed, slug
from .plan import Plan, StudyData, TrainingKey
from .questions import Questions
from .rewards import StudyReward
from .tasks import Executor

Identity = tuple[Arm, float | None, int, float]  # (arm, β, seed, noise) of a run


@dataclass(frozen=True)
class Runner:
    """Trains and evaluates the runs of one study; what is in the folder already is not done again."""

    folder: Path
    bench: Workbench
    plan: Plan
    data: StudyData
    questions: Questions
    trainings: dict[TrainingKey, AnyTraining]
    rewards: Mapping[tuple[int, float], StudyReward]
    digests: frozenset[str]
    preferences: dict[TrainingKey, Mapping[str, Any]] = field(default_factory=dict)
    when_done: Callable[[], None] = lambda: None  # after every run
    panel: Panel = field(default_factory=Panel)
    grows: bool = False  # prompts may have come since runs were finished (`Evaluator`)
    apart: bool = False  # this is a worker's: rows are gathered by somebody else (`rows`)
    executor: Executor | None = None  # who makes the runs, if not this process

    @property
    def evaluator(self) -> Evaluator:
        """Who asks the policies of this study."""
        questions, rewards = self.questions, self.rewards
        return Evaluator(self.folder, self.bench, self.plan, self.data, questions, rewards, self.grows, self.apart)

    def at_rates(self, rates: Mapping[str, float]) -> Runner:
        """The same with the learning rates that were chosen for some arms."""
        plan = replace(self.plan, rates=rates)
        recipes = {arm.name: plan.recipe(arm) for arm in plan.arms}
        trainings = {key: replace(training, recipe=recipes[key[0]]) for key, training in self.trainings.items()}
        return replace(self, plan=plan, trainings=trainings)

    def training_of(self, arm: Arm, seed: int, noise: float) -> AnyTraining:
        """What the runs of an arm train on, each in an order of its own; a preference is fitted, and its targets set,
        when they are needed first."""
        key = (arm.name, seed, noise)
        training = self.trainings[key]
        if arm.method is AMORTIZED_IPO and key not in self.preferences and isinstance(training, Training):
            recipe = self.plan.fitting_recipe(arm)
            tokens, held_out = self.data.votes[seed, noise].tokens, self.data.held_out.ballots
            place = self._place(arm, seed, noise)
            targets = set_targets(
                Fitting(self.bench, tokens, held_out, recipe, self.plan.kind, seed, place, self.digests)
            )
            self.trainings[key] = prepare_targets(self.plan.recipe(arm), targets, self.bench.layout, seed)
            self.preferences[key] = targets.info
        return self.trainings[key]

    def _place(self, arm: Arm, seed: int, noise: float) -> Path:
        """Where the arm's preference lies: the seed's reward model, unless the arm wants another one."""
        kind, recipe = self.plan.kind, self.plan.fitting_recipe(arm)
        shared = reward_recipe(kind, recipe) == reward_recipe(kind, self.plan.reward_recipe)
        shared = shared and recipe.options.head == "score"
        name = condition_folder(seed, noise)
        return self.folder / "rewards" / (name if shared else f"{slug(arm.name)}-{name}")

    def reward_of(self, seed: int, noise: float) -> RewardModel | None:
        """The reward model of a seed and noise, where the study has one."""
        return self.rewards[seed, noise].model if self.rewards else None

    def judged_by(self) -> RewardModel:
        """The reward model that judges, on votes that no arm learns from; fitted when it is needed first."""
        assert self.panel.votes is not None
        place, recipe, kind = self.folder / "judges" / "reward", self.plan.reward_recipe, self.plan.judge_kind
        held_out = self.data.held_out.ballots
        return fit_or_load(Fitting(self.bench, self.panel.votes, held_out, recipe, kind, 0, place, self.panel.digests))

    @property
    def judging(self) -> Judged:
        """What the judges of this study need of it."""
        return Judged(self.folder, self.bench, self.questions)

    def attempt(self, arm: Arm, beta: float | None, seed: int, noise: float) -> str:
        """Do one run; why it failed, if it did: then that is marked in its folder."""
        name, reason = run_name(arm, beta, seed, noise), ""
        mark = self.folder / "runs" / name / FAILED
        with only_writer(mark.parent, wait=True):  # a worker may outlive who started it
            try:
                mark.unlink(missing_ok=True)
                self.run(arm, beta, seed, noise)
            except Interrupted:
                raise
            except Exception as error:
                reason = reason_of(error)
                mark_failed(mark, reason, traceback.format_exc())
                say(f"{name}: failed ({reason}); the study goes on")
        return_freed_memory()
        self.when_done()
        return reason

    def run(self, arm: Arm, beta: float | None, seed: int, noise: float) -> None:
        """Train one run, evaluating it at its checkpoints; leave `runs/<id>/policy`."""
        name = run_name(arm, beta, seed, noise)
        folder = self.folder / "runs" / name
        recipe, asking = self.plan.recipe(arm), self.evaluator
        identity = {"run": name, "arm": arm.name, "method": arm.method.name, "beta": beta, "seed": seed, "noise": noise}
        if is_finished(folder, {row.step for row in asking.rows(name).results(name)}):
            remove_state(folder / "state")
            say(f"{name}: done already")
            if self.grows:
                asking.answer_more(lambda: self._saved(folder), recipe, identity, asking.last_step(name))
            return
        if isinstance(arm.method, Selection):
            asking.select(arm.method, identity, seed, noise)
            return

        def at_checkpoint(step: int, policy: Policy) -> None:
            if not asking.is_recorded(name, step):
                asking.evaluate(policy, recipe, identity, step)

        with stop_requests() as stopping:
            self._train(arm, recipe, identity, folder, at_checkpoint)
        if stopping():
            raise Interrupted(f"{name}: finished; stopped before the next run")

    def _train(
        self,
        arm: Arm,
        recipe: Recipe,
        identity: dict[str, Any],
        folder: Path,
        at_checkpoint: Callable[[int, Policy], None],
    ) -> None:
        """Train and save a policy, and leave its record."""
        started = time.monotonic()
        beta, seed, noise = identity["beta"], identity["seed"], identity["noise"]
        own_seed = run_seed(seed, arm.name, beta)
        training = replanned(self.training_of(arm, seed, noise), self.bench.layout, own_seed)
        policy = train_any(
            self.bench,
            training,
            self.reward_of(seed, noise),
            beta=beta,
            seed=own_seed,
            folder=folder,
            resume=True,
            description=identity["run"],
            at_checkpoint=at_checkpoint,
            checkpoints=self.plan.checkpoints,
        )
        with closing(policy):
            merge_into = recipe.settings.merge_into
            policy.save(folder, merge_into=merge_into)
            exported = measure_export(policy, folder, self.data.training.ballots, self.bench.layout, merge_into)
        keep_digests(folder, self.digests)
        metrics = read_metrics(folder / "metrics.jsonl")
        spent = budget(training, metrics)
        found = run_alarms(metrics) + self._held_out_alarms(identity["run"])
        say_alarms(found)
        model, reference = self.bench.base, self.bench.reference
        record = identity | {
            "chat": trained_on_chats(self.data.ballots),
            "settings": recipe.record(),
        }
        record |= {"model": {"name": model.name, "sha256": model.sha256}}
        record |= {"reference": {"name": reference.name, "sha256": reference.sha256}}
        record |= {"exported": exported} if exported else {}
        if (arm.name, seed, noise) in self.preferences:
            record |= {"preference": dict(self.preferences[arm.name, seed, noise])}
            target = describe_target(training, beta)
            record |= {"target": target} if target else {}
        record |= {"budget": spent, "alarms": found, "seconds": round(time.monotonic() - started, 1)}
        write_json(folder / "run.json", record | finished(folder, len(metrics)))
        remove_state(folder / "state")

    def _held_out_alarms(self, run: str) -> list[str]:
        rows = self.evaluator.rows(run).results(run)
        if not rows:
            return []
        last = max(rows, key=lambda row: row.step)
        accuracy, log_loss = (
            None if value is None else Estimate(value, se)
            for value, se in ((last.accuracy, last.accuracy_se), (last.log_loss, last.log_loss_se))
        )
        return held_out_alarms(accuracy, log_loss, sum(len(ballot.votes) for ballot in self.questions.ballots))

    def _saved(self, folder: Path) -> Policy:
        """The policy of a finished run, as it was written down."""
        return Policy(load_base(str(folder / "policy"), device=self.bench.base.device).model, self.bench.base.form)

    def records(self) -> dict[str, dict[str, Any]]:
        """What each finished run says of itself, by run: what it cost, and what it was told by."""
        paths = sorted((self.folder / "runs").glob("*/run.json"))
        return {path.parent.name: read_record(path) for path in paths}

    def calibrations(self) -> dict[str, list[dict[str, float]]]:
        """The bins of each run that has been evaluated on held-out votes, at its last checkpoint."""
        found = {}
        for path in sorted((self.folder / "runs").glob(f"*/{CALIBRATION}")):
            if bins := json.loads(path.read_text(encoding="utf-8")):
                found[path.parent.name] = bins
        return found


def mark_failed(mark: Path, reason: str, trace: str) -> None:
    """Leave in the folder of a run why it failed."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"reason": reason, "traceback": trace})


def reason_of(error: Exception) -> str:
    """Why something failed, in one line; what is not meant for a person has its kind before it."""
    text = " ".join(str(error).split())
    shown = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return textwrap.shorten(shown, 300)
