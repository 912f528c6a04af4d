"""`train`: one run by any method, and whatever the method needs fitted first, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, split_by_prompt, tokenize
from ..errors import UserError, nearest
from ..evidence import held_out_alarms, read_metrics, run_alarms, say_alarms, write_json
from ..methods import AMORTIZED_IPO, METHODS, OnlineMethod
from ..model import Reward, open_workbench, remove_state
from ..preference import (
    Fitting,
    check_kind,
    check_preference,
    default_kind,
    fit_or_load,
    fit_reward,
    set_targets,
    settings_of,
)
from ..stopping import only_writer, stop_requests
from ..training import (
    Run,
    Settings,
    Training,
    budget,
    check_out,
    check_own,
    describe_counts,
    describe_target,
    describe_training_data,
    find_method,
    make_settings,
    open_reward,
    prepare,
    prepare_targets,
    say_training,
    train_and_measure,
    trained_on_chats,
    versions,
)


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
    **options: Any,
) -> Run:
    """Train with one method, and leave the result in a folder.

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
        options: the fields of `Settings`.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    if method != "reward" and method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, [*METHODS, 'reward'])}")
    check_own(method, options)
    settings = make_settings(options)
    kind = settle_kind(method, kind, reward, settings)
    if method == "reward":
        check_unused(beta=beta, reference=reference)
    else:
        find_method(method, beta)
    folder = check_out(Path(out), resume=resume)
    fraction = (0.1 if method == "reward" else 0.0) if eval_fraction is None else eval_fraction
    if not 0 <= fraction < 1:
        raise UserError(f"--eval-fraction {fraction}: must be at least 0 and below 1")
    training: Sequence[Ballot] = tuple(ballots)
    if eval_ballots is None:
        training, eval_ballots = split_by_prompt(ballots, fraction, seed=seed)
    with only_writer(folder), stop_requests():
        bench = open_workbench(model, reference=reference, precision=settings.precision, device=settings.device)
        tokens, held_out = (
            tokenize(part, bench.base.form, max_length=settings.max_length) for part in (training, eval_ballots)
        )
        job = Job(
            method, ballots, training, beta, Fitting(bench, tokens, held_out.ballots, settings, kind, seed, folder)
        )
        finished = job.train_reward(resume) if method == "reward" else job.train_policy(reward, resume)
        write_json(folder / "run.json", finished.record)
        remove_state(folder / "state")
    return finished


def settle_kind(method: str, kind: str | None, reward: str | Path | Reward | None, settings: Settings) -> str:
    """The kind of what is fitted to the votes. Raises UserError for one that the method or its settings cannot have."""
    if method == "reward":
        if reward is not None:
            raise UserError("--reward: is a reward model already; leave it out, or train a policy with it")
        kind = kind or ("lora" if settings.lora else "full")
        check_kind(kind, settings)
    elif METHODS[method] is AMORTIZED_IPO:
        kind = kind or default_kind([AMORTIZED_IPO], settings)
        check_preference(kind, settings)
        if reward is not None and (settings.head != "score" or settings.gamma is not None):
            other = f"--gamma {settings.gamma}" if settings.gamma is not None else f"--head {settings.head}"
            raise UserError(f"--reward: is a score that is there already, which {other} has no use for; leave one out")
    elif isinstance(METHODS[method], OnlineMethod):
        kind = kind or ("lora" if settings.lora else "full")
        if reward is None:
            check_kind(kind, settings_of(kind, settings))
    elif kind is not None or reward is not None:
        name = "kind" if kind is not None else "reward"
        raise UserError(f"--{name}: {method} learns from votes and uses no reward model; leave it out")
    return kind or ""


def check_unused(**given: Any) -> None:
    """Raises UserError for something that a reward model has none of."""
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name}: a reward model has none; leave it out")


@dataclass(frozen=True)
class Job:
    """A run about to start: the ballots that were given, those to train on, and what is fitted to their votes."""

    method: str
    given: Sequence[Ballot]
    training: Sequence[Ballot]
    beta: float | None
    fit: Fitting

    def train_policy(self, reward: str | Path | Reward | None, resume: bool) -> Run:
        """Fit what the method needs, train the policy, and save it."""
        bench, tokens, settings, folder = self.fit.bench, self.fit.tokens, self.fit.settings, self.fit.folder
        method = find_method(self.method, self.beta)
        training = prepare(method, self.training, tokens, bench, settings, self.fit.seed)
        say_training(bench, tokens, training, settings)
        judge = open_reward(reward, bench) if isinstance(reward, str | Path) else reward
        if isinstance(method, OnlineMethod) and judge is None:
            judge = fit_or_load(self.beside("reward-model"))
        told: Mapping[str, Any] = {}
        if method is AMORTIZED_IPO and isinstance(training, Training):
            targets = set_targets(self.beside("preference-model"), reward=judge)
            training = prepare_targets(training.method, targets, settings, bench.layout, self.fit.seed)
            told = {"preference": dict(targets.info)}
        target = describe_target(training, settings.loss_options(self.beta))
        if target:
            say(target)
        policy, measured = train_and_measure(
            bench,
            training,
            settings,
            judge,
            self.fit.held_out,
            beta=self.beta,
            seed=self.fit.seed,
            folder=folder,
            resume=resume,
            description=self.method,
        )
        policy.save(folder)
        metrics = read_metrics(folder / "metrics.jsonl")
        agreement = measured.get("accuracy", {})
        alarms = run_alarms(metrics) + held_out_alarms(agreement.get("value"), agreement.get("se"))
        say_alarms(alarms)
        record = {
            "method": self.method,
            "beta": self.beta,
            "seed": self.fit.seed,
            "model": {"name": bench.base.name, "sha256": bench.base.sha256},
            "reference": {"name": bench.reference.name, "sha256": bench.reference.sha256},
            **self.describe(),
            "target": target,
            **told,
            **({"held_out": measured} if measured else {}),
            "alarms": alarms,
            "budget": budget(training, metrics, settings),
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
            "settings": self.fit.settings.record(),
            "data": describe_training_data(self.given, self.fit.tokens),
        }
