"""Policies of a study met with its prompts and held-out votes: their samples and rows.

A policy that is finished is loaded again
where prompts came since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import TokenBallot, reference_table
from ..evidence import (
    HELD_OUT,
    REFERENCE,
    Estimate,
    Result,
    Sample,
    VoteTable,
    write_json,
)
from ..methods import Selection, best_of_n_kl
from ..model import Policy, Workbench
from ..training import Recipe, held_out_reference, vote_table
from .evaluate import Proxy, answer, best_of, calibration, make_samples, summarise
from .plan import Plan, StudyData
from .questions import Questions
from .rewards import StudyReward, above_reference, reference_rollouts, score_rollouts
from .rows import Rows, rows_apart

CALIBRATION = "calibration.json"  # in the folder of a run: what its margins predict of held-out votes, in bins


@dataclass(frozen=True)
class Evaluator:
    """Asks policies; what is recorded in the folder already is not asked again.

    `grows`: prompts may have come since a policy was recorded; only then are its samples looked through. `apart`: rows
    are left beside their runs (`rows`), for the process that writes the study's folder.
    """

    folder: Path
    bench: Workbench
    plan: Plan
    data: StudyData
    questions: Questions
    rewards: Mapping[tuple[int, float], StudyReward]
    grows: bool = False
    apart: bool = False

    def rows(self, run: str) -> Rows:
        """The rows of a run, and where to add one."""
        return rows_apart(self.folder, run) if self.apart else Rows(self.folder, self.folder)

    def evaluate_reference(self) -> None:
        """The reference's own row: its samples are what every policy is paired with."""
        identity = {"run": REFERENCE, "arm": REFERENCE, "method": REFERENCE, "beta": None, "seed": 0, "noise": 0.0}
        with self.bench.reference.alone() as model:
            policy = Policy(model, self.bench.base.form)
            if not self.is_recorded(REFERENCE, 0):
                self.evaluate(policy, self.plan.reward_recipe, identity, 0)
            elif self.grows:
                self.answer_more(lambda: policy, self.plan.reward_recipe, identity, 0)

    def _append(self, samples: Sequence[Sample], result: Result) -> None:
        """Append samples and their row of results."""
        self.rows(result.run).append(samples, result)
        say(f"{result.run}, step {result.step}: {describe_result(result)}")

    def evaluate(self, policy: Policy, recipe: Recipe, identity: Mapping[str, Any], step: int) -> None:
        """Sample from one policy at a step of its training, and append what came of it."""
        is_reference = identity["run"] == REFERENCE
        taken_out = () if is_reference else self.data.votes[identity["seed"], identity["noise"]].validation
        table, validation = (
            self._vote_table(policy, ballots, recipe, is_reference) for ballots in (self.questions.ballots, taken_out)
        )
        samples = self._answer(policy, recipe, identity, step, self.questions)
        reference = samples if is_reference else self._samples_of(REFERENCE, 0)
        if table is not None and not is_reference:
            folder = self.folder / "runs" / identity["run"]
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / CALIBRATION, calibration(table, identity["method"], identity["beta"]))
        self._append(samples, summarise(samples, reference, table, validation, **identity, step=step))

    def _answer(
        self, policy: Policy, recipe: Recipe, identity: Mapping[str, Any], step: int, questions: Questions
    ) -> list[Sample]:
        """The policy's responses to the prompts of these questions."""
        if not questions.prompts:
            return []
        is_reference = identity["run"] == REFERENCE
        with self.bench.reference.at_hand():
            return answer(
                policy.model,
                None if is_reference else self.bench.reference.alone,
                questions,
                self.bench.base.form,
                run=identity["run"],
                step=step,
                layout=self.bench.layout,
                precision=self.bench.precision,
                micro_tokens=recipe.settings.pass_tokens,
                merged=policy.merged,
                proxy=None if is_reference else self.proxy_of(identity["seed"], identity["noise"], questions),
            )

    def answer_more(self, policy: Callable[[], Policy], recipe: Recipe, identity: Mapping[str, Any], step: int) -> None:
        """Let a policy that is finished answer the prompts that came since, and add its row anew, of all of them."""
        run = identity["run"]
        known = self._samples_of(run, step)
        start = answered(known)
        own = [sample for sample in known if sample.prompt_id < start]
        row = next(row for row in self.rows(run).results(run) if row.step == step)
        left = self.questions.part(start)
        added = self._answer(policy(), recipe, identity, step, left) if left.prompts else []
        reference = own + added if run == REFERENCE else self._samples_of(REFERENCE, 0)
        kept = {name: getattr(row, name) for name in HELD_OUT}
        anew = replace(summarise(own + added, reference, None, **identity, step=step), **kept)
        if added or anew != row:  # so also where an interruption came between samples and row
            self._append(added, anew)

    def _lacks(self, run: str, step: int) -> bool:
        """Whether prompts came since."""
        return self.grows and answered(self._samples_of(run, step)) < len(self.questions.prompts)

    def last_step(self, run: str) -> int:
        """The last step at which a run was evaluated."""
        return max(row.step for row in self.rows(run).results(run))

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

    def _samples_of(self, run: str, step: int) -> list[Sample]:
        return self.rows(run).samples(run, step)

    def is_recorded(self, run: str, step: int) -> bool:
        """Whether it was evaluated there."""
        return any(row.step == step for row in self.rows(run).results(run))

    def select(self, method: Selection, identity: Mapping[str, Any], seed: int, noise: float) -> None:
        """A row for every n: the best of n samples of the reference, by the seed's reward model."""
        run = identity["run"]
        left = [n for n in method.sizes if not self.is_recorded(run, n) or self._lacks(run, n)]
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
            samples = make_samples(chosen, kl, self.questions, form, run=run, step=n, proxy=proxy)
            self._append(samples, summarise(samples, self._samples_of(REFERENCE, 0), None, **identity, step=n))

    def proxy_of(self, seed: int, noise: float, questions: Questions) -> Proxy | None:
        """What that reward model thinks of samples, less what it thinks of the reference's to the same prompt."""
        if not self.rewards:
            return None
        own = self.rewards[seed, noise]
        start = own.reference[questions.first : questions.first + len(questions.prompts)]
        return above_reference(own.model, start, self.bench, self.plan.settings.pass_tokens)


def answered(samples: Sequence[Sample]) -> int:
    """How many prompts, from the first on, have all their samples."""
    counts = list(Counter(sample.prompt_id for sample in samples).values())
    return counts.count(max(counts, default=0))


def describe_result(result: Result) -> str:
    """The measures of one row that exist, each with its standard error, on one line."""
    measures = ("gain", "kl", "length", "accuracy", "log_loss")
    values = {name: (getattr(result, name), getattr(result, f"{name}_se")) for name in measures}
    return ", ".join(f"{name} {Estimate(value, se)}" for name, (value, se) in values.items() if value is not None)
