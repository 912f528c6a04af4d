"""`train`: one run by any method, and whatever the method needs fitted first, in one folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, keep_digests, split_by_prompt, tokenize
from ..evidence import Estimate, held_out_alarms, read_metrics, run_alarms, say_alarms, write_json
from ..launch import launched
from ..methods import REWARD
from ..model import Reward, measure_export, open_workbench, ranks, remove_state
from ..preference import Fitting, fit_or_load, fit_reward, set_targets
from ..stopping import only_writer, stop_requests
from ..training import (
    Run,
    budget,
    describe_counts,
    describe_target,
    describe_training_data,
    open_reward,
    prepare,
    prepare_targets,
    say_training,
    train_and_measure,
    trained_on_chats,
    versions,
)
from .overlap import check_overlap, prompts_of, together, trained_on
from .settling import settle_run


@contextmanager
def _together() -> Iterator[None]:
    """Within it this process is one of those that torchrun started, if it started several."""
    if launched() is None:
        yield
        return
    from ..model import joined  # which loads what several processes need

    with joined():
        yield


@_together()
def train(
    method: str,
    ballots: Sequence[Ballot],
    *,
    model: str,
    out: str | Path,
    beta: float | None = None,
    reference: str | None = None,
    eval_ballots: Sequence[Ballot] | None = None,
    eval_fraction: float | None = None,
    kind: str | None = None,
    reward: str | Path | Reward | None = None,
    seed: int = 0,
    resume: bool = False,
    allow_overlap: bool = False,
    **options: Any,
) -> Run:
    """Train with one method, and leave the result in a folder.

    Several processes that torchrun started train one policy together, and leave what one would.

    Every method but `reward` writes `out/policy/` (a folder that transformers loads), `out/metrics.jsonl` (a line per
    optimiser step) and `out/run.json` (settings, versions, counts of everything skipped or shortened and, when ballots
    are held out, accuracy and log-loss on them). `reward` fits a Bradley–Terry reward model: `out/reward/` (with `full`
    and `lora` a folder that transformers loads as a sequence classifier), and in `out/run.json` how good it is on
    held-out votes beside a TF-IDF and a length baseline; `policy` of the result is then the `RewardModel`.

    Args:
        method: `dpo`, `ipo`, `amortized-ipo`, `sft`, `ppo`, `rloo` or `reward`.
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        out: the folder to make; it must be new or empty, unless `resume`.
        beta: strength of the KL term; `sft` and `reward` have none.
        reference: another model to take as the reference; by default the start.
        eval_ballots: ballots to evaluate on; or `eval_fraction` of the prompts, held out (by default none, for `reward`
            a tenth).
        kind: of the reward model that is fitted: `full`, `lora` (the default with an adapter's rank) or `frozen`, for
            small machines (the default for `amortized-ipo`).
        reward: for `ppo`, `rloo` and `amortized-ipo`, a reward model in the place of one fitted to the same votes: its
            folder, or anything with `scores` and `sha256`.
        seed: order of the data, initial adapter and heads.
        resume: go on with an interrupted run.
        allow_overlap: evaluate on prompts that were trained on too, with a caveat; without it they are an error.
        options: the fields of `Settings`, and the method's own.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    settled = settle_run(
        method,
        out=out,
        beta=beta,
        reference=reference,
        eval_fraction=eval_fraction,
        kind=kind,
        reward=reward,
        resume=resume,
        **options,
    )
    recipe, settings, folder = settled.recipe, settled.recipe.settings, settled.folder
    ranks().meet()  # whoever comes late finds the folder as all did
    training: Sequence[Ballot] = tuple(ballots)
    asked = "--eval-data"
    if eval_ballots is None:
        asked = "--eval-fraction"
        training, eval_ballots = split_by_prompt(ballots, settled.eval_fraction, seed=seed)
    seen = trained_on(training, model, reward)
    caveats = check_overlap({asked: prompts_of(eval_ballots)}, seen, allowed=allow_overlap)
    with only_writer(folder) if ranks().leads else nullcontext(), stop_requests():
        bench = open_workbench(
            model,
            reference=reference,
            precision=settings.precision,
            device=settings.device,
            template=settings.template_options,
            base=settings.base,
        )
        tokens, held_out = (
            tokenize(part, bench.base.form, max_length=settings.max_length) for part in (training, eval_ballots)
        )
        fit = Fitting(bench, tokens, held_out.ballots, recipe, settled.kind, seed, folder, together(seen))
        job = Job(ballots, training, beta, fit, caveats)
        finished = job.train_reward(resume) if recipe.method is REWARD else job.train_policy(reward, resume)
        if ranks().leads:
            write_json(folder / "run.json", finished.record)
            remove_state(folder / "state")
    return finished


@dataclass(frozen=True)
class Job:
    """A run about to start: the ballots that were given, those to train on, and what is fitted to their votes."""

    given: Sequence[Ballot]
    training: Sequence[Ballot]
    beta: float | None
    fit: Fitting
    caveats: Sequence[str]

    @property
    def chats(self) -> bool:
        """Whether some prompt is a chat."""
        return any(not isinstance(ballot.prompt, str) for ballot in self.given)

    def train_policy(self, reward: str | Path | Reward | None, resume: bool) -> Run:
        """Fit what the method needs, train the policy, and save it."""
        bench, tokens, recipe, folder = self.fit.bench, self.fit.tokens, self.fit.recipe, self.fit.folder
        settings = recipe.settings
        training = prepare(recipe, self.training, tokens, bench, self.fit.seed)
        say_training(bench, tokens, training)
        judge = open_reward(reward, bench, chats=self.chats) if isinstance(reward, str | Path) else reward
        if recipe.method.needs == "reward" and judge is None:
            judge = fit_or_load(self.beside("reward-model"))
        told: Mapping[str, Any] = {}
        if recipe.method.needs == "preference":
            targets = ranks().led(lambda: set_targets(self.beside("preference-model"), reward=judge))
            training = prepare_targets(recipe, targets, bench.layout, self.fit.seed)
            told = {"preference": dict(targets.info)}
        elif judge is not None:
            told = {"reward": {"sha256": judge.sha256}}
        target = describe_target(training, self.beta)
        if target:
            say(target)
        policy, measured = train_and_measure(
            bench,
            training,
            judge,
            self.fit.held_out,
            beta=self.beta,
            seed=self.fit.seed,
            folder=folder,
            resume=resume,
            description=recipe.method.name,
        )
        policy, exported = policy.whole(), {}
        if ranks().leads:
            policy.save(folder, merge_into=settings.merge_into)
            exported = measure_export(policy, folder, tokens.ballots, bench.layout, settings.merge_into)
            keep_digests(folder, self.fit.digests)
        ranks().meet()
        metrics = read_metrics(folder / "metrics.jsonl")
        votes = sum(len(ballot.votes) for ballot in self.fit.held_out)
        accuracy, log_loss = (_estimate(measured.get(name)) for name in ("accuracy", "log_loss"))
        alarms = run_alarms(metrics) + held_out_alarms(accuracy, log_loss, votes)
        say_alarms(alarms)
        record = {
            "method": recipe.method.name,
            "beta": self.beta,
            "seed": self.fit.seed,
            "model": {"name": bench.base.name, "sha256": bench.base.sha256},
            "reference": {"name": bench.reference.name, "sha256": bench.reference.sha256},
            **self.describe(),
            "target": target,
            **told,
            **({"exported": exported} if exported else {}),
            **({"held_out": measured} if measured else {}),
            "alarms": alarms,
            "budget": budget(training, metrics),
            "versions": versions(),
        }
        record["data"]["left_out"] = dict(training.left_out)
        return Run(policy.model, policy.form.tokenizer, metrics, folder, record)

    def train_reward(self, resume: bool) -> Run:
        """Fit a reward model, and say how good it is."""
        bench, tokens, folder = self.fit.bench, self.fit.tokens, self.fit.folder
        say(f"layout: {bench.layout.name} ({bench.layout.reason})")
        skipped, held_out = describe_counts(tokens.skipped), len(self.fit.held_out)
        say(f"{len(tokens.ballots)} ballots, {held_out} held out; skipped: {skipped}")
        say(f"shortened: {describe_counts(tokens.shortened)}")
        reward = fit_reward(self.fit, resume=resume)
        record = {
            "method": "reward",
            "kind": self.fit.kind,
            "seed": self.fit.seed,
            "model": {"name": bench.base.name, "sha256": bench.base.sha256},
            "reward": {"sha256": reward.sha256, "center": reward.center, **reward.info},
            **self.describe(),
            "versions": versions(),
        }
        log = folder / "metrics.jsonl"
        metrics = read_metrics(log) if log.exists() else ()  # frozen features take no steps
        return Run(reward, bench.base.tokenizer, metrics, folder, record)

    def beside(self, name: str) -> Fitting:
        """What is fitted before the policy, in a folder within the run's."""
        return replace(self.fit, folder=self.fit.folder / name)

    def describe(self) -> dict[str, Any]:
        """What every run says of its data and settings."""
        return {
            "chat": trained_on_chats(self.training),
            "layout": asdict(self.fit.bench.layout),
            "settings": self.fit.recipe.record(),
            "data": describe_training_data(self.given, self.fit.tokens),
            "caveats": list(self.caveats),
        }


def _estimate(measured: Mapping[str, float | None] | None) -> Estimate | None:
    return None if not measured or measured["value"] is None else Estimate(measured["value"], measured["se"])
