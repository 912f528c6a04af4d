"""The runs of a study: trained, evaluated at checkpoints, left in its folder; what is there is not done again."""

from __future__ import annotations

import json
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..console import say
from ..data import TokenBallot, keep_digests, reference_table
from ..errors import Interrupted, UserError
from ..evidence import (
    REFERENCE,
    Estimate,
    Result,
    Sample,
    VoteTable,
    append_records,
    held_out_alarms,
    read_metrics,
    read_results,
    read_samples,
    run_alarms,
    say_alarms,
    write_json,
)
from ..methods import AMORTIZED_IPO, Selection, best_of_n_kl
from ..model import Policy, RewardModel, Workbench, return_freed_memory
from ..preference import Fitting, reward_recipe, set_targets
from ..stopping import stop_requests
from ..training import (
    AnyTraining,
    Arm,
    Recipe,
    Training,
    budget,
    describe_target,
    held_out_reference,
    prepare_targets,
    replanned,
    train_any,
    trained_on_chats,
    vote_table,
)
from .evaluate import Proxy, answer, best_of, make_samples, summarise
from .naming import condition_folder, run_name, run_seed, slug
from .plan import Plan, StudyData, TrainingKey
from .questions import Questions
from .rewards import StudyReward, above_reference, reference_rollouts, score_rollouts

FAILED = "failed.json"  # in the folder of a run that failed: why


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

    def training_of(self, arm: Arm, seed: int, noise: float) -> AnyTraining:
        """What the runs of an arm train on, each in an order of its own; a preference is fitted, and its targets set,
        when they are needed first."""
        key = (arm.name, seed, noise)
        training = self.trainings[key]
        if arm.method is AMORTIZED_IPO and key not in self.preferences and isinstance(training, Training):
            recipe = self.plan.recipe(arm)
            tokens, held_out = self.data.votes[seed, noise].tokens, self.data.held_out.ballots
            place = self._place(arm, seed, noise)
            targets = set_targets(
                Fitting(self.bench, tokens, held_out, recipe, self.plan.kind, seed, place, self.digests)
            )
            self.trainings[key] = prepare_targets(recipe, targets, self.bench.layout, seed)
            self.preferences[key] = targets.info
        return self.trainings[key]

    def _place(self, arm: Arm, seed: int, noise: float) -> Path:
        """Where the arm's preference lies: the seed's reward model, unless the arm wants another one."""
        kind, recipe = self.plan.kind, self.plan.recipe(arm)
        shared = reward_recipe(kind, recipe) == reward_recipe(kind, self.plan.reward_recipe)
        shared = shared and recipe.options.head == "score"
        name = condition_folder(seed, noise)
        return self.folder / "rewards" / (name if shared else f"{slug(arm.name)}-{name}")

    def reward_of(self, seed: int, noise: float) -> RewardModel | None:
        """The reward model of a seed and noise, where the study has one."""
        return self.rewards[seed, noise].model if self.rewards else None

    def proxy_of(self, seed: int, noise: float) -> Proxy | None:
        """What that reward model thinks of samples, less what it thinks of the reference's to the same prompt."""
        if not self.rewards:
            return None
        own = self.rewards[seed, noise]
        return above_reference(own.model, own.reference, self.bench, self.plan.settings.pass_tokens)

    def evaluate_reference(self) -> None:
        """The reference's own row: its samples are what every policy is paired with."""
        if not self._is_recorded(REFERENCE, 0):
            identity = {"run": REFERENCE, "arm": REFERENCE, "method": REFERENCE, "beta": None, "seed": 0, "noise": 0.0}
            with self.bench.reference.alone() as model:
                self._evaluate(Policy(model, self.bench.base.form), self.plan.reward_recipe, identity, 0)

    def run_all(self) -> dict[str, str]:
        """Do every run of the plan; returns why some of them failed, by run.

        One that fails is marked with its reason, and tried again when the study goes on; the others are done.
        """
        failed = {}
        for arm, beta, seed, noise in self.plan.runs():
            name = run_name(arm, beta, seed, noise)
            mark = self.folder / "runs" / name / FAILED
            try:
                mark.unlink(missing_ok=True)
                self.run(arm, beta, seed, noise)
            except Interrupted:
                raise
            except Exception as error:
                failed[name] = reason_of(error)
                mark.parent.mkdir(parents=True, exist_ok=True)
                write_json(mark, {"reason": failed[name], "traceback": traceback.format_exc()})
                say(f"{name}: failed ({failed[name]}); the study goes on")
            return_freed_memory()
        return failed

    def run(self, arm: Arm, beta: float | None, seed: int, noise: float) -> None:
        """Train one run, evaluating it at its checkpoints; leave `runs/<id>/policy`."""
        name = run_name(arm, beta, seed, noise)
        folder = self.folder / "runs" / name
        if (folder / "run.json").exists():
            say(f"{name}: done already")
            return
        recipe = self.plan.recipe(arm)
        identity = {"run": name, "arm": arm.name, "method": arm.method.name, "beta": beta, "seed": seed, "noise": noise}
        if isinstance(arm.method, Selection):
            self._select(arm.method, identity, seed, noise)
            return

        def at_checkpoint(step: int, policy: Policy) -> None:
            if not self._is_recorded(name, step):
                self._evaluate(policy, recipe, identity, step)

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
            policy.save(folder)
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
        if (arm.name, seed, noise) in self.preferences:
            record |= {"preference": dict(self.preferences[arm.name, seed, noise])}
            target = describe_target(training, beta)
            record |= {"target": target} if target else {}
        record |= {"budget": spent, "alarms": found, "seconds": round(time.monotonic() - started, 1)}
        write_json(folder / "run.json", record)

    def _held_out_alarms(self, run: str) -> list[str]:
        path = self.folder / "results.jsonl"
        rows = [row for row in read_results(path) if row.run == run] if path.exists() else []
        if not rows:
            return []
        last = max(rows, key=lambda row: row.step)
        accuracy, log_loss = (
            None if value is None else Estimate(value, se)
            for value, se in ((last.accuracy, last.accuracy_se), (last.log_loss, last.log_loss_se))
        )
        return held_out_alarms(accuracy, log_loss, sum(len(ballot.votes) for ballot in self.questions.ballots))

    def records(self) -> dict[str, dict[str, Any]]:
        """What each finished run says of itself, by run: what it cost, and what it was told by."""
        paths = sorted((self.folder / "runs").glob("*/run.json"))
        return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}

    def _select(self, method: Selection, identity: Mapping[str, Any], seed: int, noise: float) -> None:
        """A row for every n: the best of n samples of the reference, by the seed's reward model."""
        left = [n for n in method.sizes if not self._is_recorded(identity["run"], n)]
        if not left or not self.questions.prompts:
            return
        drawn = reference_rollouts(self.bench, self.questions, max(method.sizes), f"{method.name}/{seed}")
        own = self.rewards[seed, noise]
        scores = score_rollouts(own.model, drawn, self.bench, self.plan.settings.pass_tokens)
        start = own.reference
        for n in left:
            chosen = best_of(drawn, scores, n)
            proxy = [[max(row[:n]) - at] for row, at in zip(scores, start, strict=True)]
            kl = [[best_of_n_kl(n)] for _ in chosen]
            form = self.bench.base.form
            samples = make_samples(chosen, kl, self.questions, form, run=identity["run"], step=n, proxy=proxy)
            self._record(samples, self._reference_samples(), None, None, identity, n)

    def _record(
        self,
        samples: Sequence[Sample],
        reference: Sequence[Sample],
        table: VoteTable | None,
        validation: VoteTable | None,
        identity: Mapping[str, Any],
        step: int,
    ) -> None:
        """Append samples and their row of results; the row comes last and says that both are whole."""
        result = summarise(samples, reference, table, validation, **identity, step=step)
        append_records(self.folder / "samples.jsonl", samples)
        append_records(self.folder / "results.jsonl", [result])
        say(f"{identity['run']}, step {step}: {describe_result(result)}")

    def _evaluate(self, policy: Policy, recipe: Recipe, identity: Mapping[str, Any], step: int) -> None:
        """Sample from one policy at a step of its training, and append what came of it."""
        layout, precision, micro_tokens = self.bench.layout, self.bench.precision, recipe.settings.pass_tokens
        is_reference = identity["run"] == REFERENCE
        where = (identity["seed"], identity["noise"])
        taken_out = () if is_reference else self.data.votes[where].validation
        table, validation = (
            self._vote_table(policy, ballots, recipe, is_reference) for ballots in (self.questions.ballots, taken_out)
        )
        samples: list[Sample] = []
        if self.questions.prompts:
            with self.bench.reference.at_hand():
                samples = answer(
                    policy.model,
                    None if is_reference else self.bench.reference.alone,
                    self.questions,
                    self.bench.base.form,
                    run=identity["run"],
                    step=step,
                    layout=layout,
                    precision=precision,
                    micro_tokens=micro_tokens,
                    merged=policy.merged,
                    proxy=None if is_reference else self.proxy_of(*where),
                )
        reference = samples if is_reference else self._reference_samples()
        self._record(samples, reference, table, validation, identity, step)

    def _vote_table(
        self, policy: Policy, ballots: Sequence[TokenBallot], recipe: Recipe, is_reference: bool
    ) -> VoteTable | None:
        """The votes of the ballots as the policy sees them; None if there are none."""
        if not ballots or is_reference:
            return reference_table(ballots) if ballots else None
        return vote_table(
            policy.model,
            ballots,
            held_out_reference(self.bench, ballots, recipe.settings.pass_tokens),
            layout=self.bench.layout,
            precision=self.bench.precision,
            micro_tokens=recipe.settings.pass_tokens,
            reduction=recipe.reduction,
        )

    def _reference_samples(self) -> list[Sample]:
        path = self.folder / "samples.jsonl"
        return [sample for sample in read_samples(path) if sample.run == REFERENCE] if path.exists() else []

    def _is_recorded(self, run: str, step: int) -> bool:
        path = self.folder / "results.jsonl"
        return path.exists() and any(row.run == run and row.step == step for row in read_results(path))


def reason_of(error: Exception) -> str:
    """Why something failed, in one line; what is not meant for a person has its kind before it."""
    text = " ".join(str(error).split())
    shown = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return textwrap.shorten(shown, 300)


def describe_result(result: Result) -> str:
    """The measures of one row that exist, each with its standard error, on one line."""
    measures = ("gain", "kl", "length", "accuracy", "log_loss")
    values = {name: (getattr(result, name), getattr(result, f"{name}_se")) for name in measures}
    return ", ".join(f"{name} {Estimate(value, se)}" for name, (value, se) in values.items() if value is not None)
