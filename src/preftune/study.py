"""A study: arms × β × seeds on the same ballots with the same budget, evaluated the same way, in one folder."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .ballots import Ballot, BallotSet, Prompt, flip_votes, limit_votes, split_by_prompt
from .console import say
from .errors import UserError
from .evaluate import (
    Proxy,
    Questions,
    VoteTable,
    answer,
    best_of,
    make_samples,
    reference_table,
    score_rollouts,
    summarise,
    vote_table,
)
from .judges import Judge
from .methods import AMORTIZED_IPO, Method, Selection, best_of_n_kl
from .models import Policy, as_reference
from .online import PromptTraining, say_alarms
from .preference_model import RewardModel
from .preferences import check_preference, set_targets
from .report import write_report
from .results import (
    REFERENCE,
    Result,
    Sample,
    StudyRecord,
    append_records,
    read_metrics,
    read_results,
    read_samples,
    read_study,
    write_json,
)
from .rewards import check_kind, default_kind, fit_or_load, settings_of
from .rollouts import Rollout, sample_responses
from .run import (
    AnyTraining,
    Training,
    budget,
    check_out,
    describe_counts,
    describe_target,
    held_out_reference,
    prepare,
    prepare_targets,
    train_any,
    trained_on_chats,
    versions,
)
from .settings import Arm, Settings, make_settings, parse_arm, split_arms
from .stats import Estimate
from .tokens import TextFormat, TokenBallot, TokenSet, fit_prompt, tokenize, transcript
from .verdict import PROXY, Verdict, verdict
from .workbench import Workbench, open_workbench

PROXY_WORDS = (
    "the reward model that ppo, rloo and best-of-n learn from or select by, fitted on the training votes; its mean "
    "over the reference's samples of the same prompt is taken off"
)
TrainingKey = tuple[str, int, float]  # (arm, seed, noise)


@dataclass(frozen=True)
class Plan:
    """What a study compares, settled before anything is trained."""

    arms: tuple[Arm, ...]
    betas: tuple[float, ...]
    seeds: tuple[int, ...]
    noises: tuple[float, ...]
    settings: Settings
    checkpoints: int
    kind: str

    @property
    def needs_reward(self) -> bool:
        """Whether some arm learns from, or selects by, a reward model."""
        return any(not isinstance(arm.method, Method) for arm in self.arms)

    def conditions(self) -> list[tuple[int, float]]:
        """(seed, noise) of all sets of votes that are learned from."""
        return [(seed, noise) for noise in self.noises for seed in self.seeds]

    def runs(self) -> list[tuple[Arm, float | None, int, float]]:
        """(arm, β, seed, noise) of every run; an arm whose method has no β runs once per seed and noise."""
        return [
            (arm, beta, seed, noise)
            for seed, noise in self.conditions()
            for arm in self.arms
            for beta in (self.betas if arm.method.uses_reference else (None,))
        ]


@dataclass(frozen=True)
class Votes:
    """What the runs of one (seed, noise) learn from, and the votes taken out of it that only measure a log-loss."""

    tokens: TokenSet
    validation: tuple[TokenBallot, ...]
    flipped: int


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

    def report(self) -> Path:
        """Draw `report.html` anew from the folder's JSON files and return its path."""
        return write_report(self.folder)


def compare(
    arms: Sequence[str] | str,
    ballots: Sequence[Ballot],
    *,
    model: str,
    betas: Sequence[float] = (0.1,),
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
    **options: Any,
) -> Study:
    """Train every arm at every β and seed on identical votes, evaluate all of them alike, and draw the report.

    Calling it again with the same `out` goes on where it stopped; more arms, β, seeds or rates of label noise may be
    added then.

    Args:
        arms: such as `["dpo", "ipo", "ipo[reduction=mean]"]`, or one text with commas.
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        betas: strengths of the KL term.
        seeds: one run of every arm and β for each.
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
        options: the fields of `Settings`.

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    started = time.monotonic()
    plan = make_plan(arms, betas, seeds, label_noise, {**options, "max_new_tokens": max_new_tokens}, checkpoints, kind)
    check_shares(votes_per_prompt, validation_fraction)
    folder = Path(out)
    bench = open_workbench(model, reference=reference, precision=plan.settings.precision, device=plan.settings.device)
    if eval_ballots is None:
        distinct = len({ballot.prompt for ballot in ballots})
        fraction = min(eval_fraction, eval_prompts / max(distinct, 1))
        train_ballots, eval_ballots = split_by_prompt(ballots, fraction, seed=0)
    else:
        train_ballots = tuple(ballots)
    if votes_per_prompt is not None:
        train_ballots = limit_votes(train_ballots, votes_per_prompt, seed=0)
    train_ballots, validation_ballots = split_by_prompt(train_ballots, validation_fraction, seed=1)
    form, length = bench.base.form, plan.settings.max_length
    train_set = tokenize(train_ballots, form, max_length=length)
    eval_set = tokenize(eval_ballots, form, max_length=length)
    validation_set = tokenize(validation_ballots, form, max_length=length)
    votes = {where: noisy_votes(train_set, validation_set, *where) for where in plan.conditions()}
    asked = tuple(prompts) if prompts is not None else held_out_prompts(eval_ballots, eval_prompts)
    questions, cuts = make_questions(asked, eval_set, form, length, samples, max_new_tokens, judge, others or {})
    trainings = {
        (arm.name, *where): prepare(
            arm.method, train_ballots, votes[where].tokens, bench, arm.settings(plan.settings), where[0]
        )
        for arm in plan.arms
        for where in plan.conditions()
        if not isinstance(arm.method, Selection)
    }
    if not trainings:
        raise UserError("--methods: best-of-n trains nothing; name a method beside it that does")
    info = describe_study(plan, bench, ballots, train_set, eval_set, validation_set, votes, questions, trainings, cuts)
    info["data"] |= {"votes_per_prompt": votes_per_prompt} if votes_per_prompt is not None else {}
    info |= {"title": title or f"{', '.join(info['arms'])} on {Path(str(model)).name}", "command": command}
    info |= {"notes": list(notes), "seconds": {}}
    info = open_study(folder, info)
    say(f"layout: {bench.layout.name} ({bench.layout.reason})")
    say(f"{len(train_set.ballots)} ballots to train on, {len(eval_set.ballots)} held out, {len(asked)} prompts")
    say(f"skipped: {describe_counts(info['data']['skipped'])}")
    for line in info["targets"].values():
        say(line)
    rewards = fit_rewards(folder, bench, plan, votes, eval_set, questions) if plan.needs_reward else {}
    chat = trained_on_chats(train_ballots)
    runner = Runner(folder, bench, plan, questions, dict(trainings), votes, eval_set, chat, rewards)
    if rewards:
        info["opinions"] = {**info["opinions"], PROXY: PROXY_WORDS}
        models = {condition_name(*where): dict(reward.model.info) for where, reward in rewards.items()}
        info["reward"] = {"kind": plan.kind, **models}
        write_json(folder / "study.json", info)
    runner.evaluate_reference()
    for run in plan.runs():
        runner.run(*run)
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


def make_plan(
    arms: Sequence[str] | str,
    betas: Sequence[float],
    seeds: Sequence[int],
    noises: Sequence[float],
    options: Mapping[str, Any],
    checkpoints: int,
    kind: str | None = None,
) -> Plan:
    """Check and settle what is compared. Raises UserError for an empty or doubtful list."""
    names = split_arms(arms) if isinstance(arms, str) else list(arms)
    parsed = tuple(parse_arm(name) for name in names)
    named = (("methods", [arm.name for arm in parsed]), ("betas", betas), ("seeds", seeds), ("label-noise", noises))
    for label, values in named:
        if not values:
            raise UserError(f"--{label}: give at least one")
        if len(set(values)) < len(values):
            raise UserError(f"--{label}: one of them is given twice ({', '.join(map(str, values))})")
    for beta in betas:
        if not 0 < beta < math.inf:
            raise UserError(f"--betas {beta}: must be greater than 0")
    for noise in noises:
        if not 0 <= noise < 0.5:
            raise UserError(f"--label-noise {noise}: must be at least 0 and below 0.5")
    if checkpoints < 1:
        raise UserError(f"--checkpoints {checkpoints}: must be at least 1")
    settings = make_settings(options)
    if settings.kl_target:
        raise UserError("--kl-target: it moves β, by which a study compares; leave it out")
    kind = kind or default_kind([arm.method for arm in parsed], settings)
    plan = Plan(parsed, tuple(betas), tuple(seeds), tuple(map(float, noises)), settings, checkpoints, kind)
    if plan.needs_reward:
        check_kind(kind, settings_of(kind, settings))
    for arm in parsed:
        if arm.method is AMORTIZED_IPO:
            check_preference(kind, arm.settings(settings))
    return plan


def check_shares(votes_per_prompt: int | None, validation_fraction: float) -> None:
    """Raises UserError for a number of votes or a share that is none."""
    if votes_per_prompt is not None and votes_per_prompt < 1:
        raise UserError(f"--votes-per-prompt {votes_per_prompt}: must be at least 1")
    if not 0 <= validation_fraction < 1:
        raise UserError(f"--validation-fraction {validation_fraction}: must be at least 0 and below 1")


def noisy_votes(training: TokenSet, validation: TokenSet, seed: int, noise: float) -> Votes:
    """The training and validation ballots with every single vote flipped with probability `noise`."""
    ballots = (*training.ballots, *validation.ballots)
    votes, flipped = flip_votes([ballot.votes for ballot in ballots], noise, seed=seed)
    noisy = tuple(replace(ballot, votes=own) for ballot, own in zip(ballots, votes, strict=True))
    count = len(training.ballots)
    return Votes(replace(training, ballots=noisy[:count]), noisy[count:], flipped)


def held_out_prompts(ballots: Sequence[Ballot], limit: int) -> tuple[Prompt, ...]:
    """The distinct prompts of the ballots, at most `limit`, chosen by their content and not by their order."""
    distinct = {hashlib.sha256(repr(ballot.prompt).encode()).digest(): ballot.prompt for ballot in ballots}
    return tuple(distinct[key] for key in sorted(distinct)[:limit])


def make_questions(
    prompts: Sequence[Prompt],
    eval_set: TokenSet,
    form: TextFormat,
    max_length: int,
    samples: int,
    max_new_tokens: int,
    judge: Judge | None,
    others: Mapping[str, Judge],
) -> tuple[Questions, Counter[str]]:
    """What every policy is asked, and how many prompts were shortened to leave room for the answer, by reason."""
    if samples and max_new_tokens >= max_length:
        raise UserError(
            f"--max-new-tokens {max_new_tokens}: must leave room for a prompt within --max-length {max_length}"
        )
    cuts: Counter[str] = Counter()
    ids = []
    for prompt in prompts if samples else ():
        fitted, reasons = fit_prompt(prompt, form, max_length - max_new_tokens)
        cuts.update(f"evaluation {reason}" for reason in reasons)
        ids.append(tuple(fitted))
    texts = tuple(prompt if isinstance(prompt, str) else transcript(prompt) for prompt in prompts) if samples else ()
    questions = Questions(tuple(ids), texts, eval_set.ballots, samples, max_new_tokens, 0, judge, others)
    return questions, cuts


# --- study.json ------------------------------------------------------------------------------------------------------


def describe_study(
    plan: Plan,
    bench: Workbench,
    ballots: Sequence[Ballot],
    train_set: TokenSet,
    eval_set: TokenSet,
    validation_set: TokenSet,
    votes: Mapping[tuple[int, float], Votes],
    questions: Questions,
    trainings: Mapping[TrainingKey, AnyTraining],
    cuts: Mapping[str, int],
) -> dict[str, Any]:
    """What `study.json` says of the comparison, its data and its machine."""
    settings = asdict(plan.settings) | {
        "lr": plan.settings.learning_rate,
        "checkpoints": plan.checkpoints,
        "samples": questions.samples,
        "max_new_tokens": questions.max_new_tokens,
        "optimiser_steps": next(iter(trainings.values())).steps,
    }
    device = next(bench.base.model.parameters()).device
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"cpu_threads": torch.get_num_threads(), "device": str(device)},
        "model": {
            "name": bench.base.name,
            "sha256": bench.base.sha256,
            "parameters": sum(parameter.numel() for parameter in bench.base.model.parameters()),
            "layout": f"{bench.layout.name}: {bench.layout.reason}",
        },
        "reference": {"name": bench.reference.name, "sha256": bench.reference.sha256},
        "data": describe_data(ballots, train_set, eval_set, validation_set, votes, questions, trainings, cuts),
        "settings": settings,
        "arms": [arm.name for arm in plan.arms],
        "betas": list(plan.betas),
        "seeds": list(plan.seeds),
        "noises": list(plan.noises),
        "gold": questions.judge and {"name": questions.judge.name, "description": questions.judge.description},
        "opinions": {name: judge.description for name, judge in questions.others.items()},
        "steps": {arm: training.steps for (arm, *_), training in trainings.items()}
        | {arm.name: max(arm.method.sizes) for arm in plan.arms if isinstance(arm.method, Selection)},
        "targets": describe_targets(plan, trainings),
    }


def describe_data(
    ballots: Sequence[Ballot],
    train_set: TokenSet,
    eval_set: TokenSet,
    validation_set: TokenSet,
    votes: Mapping[tuple[int, float], Votes],
    questions: Questions,
    trainings: Mapping[TrainingKey, AnyTraining],
    cuts: Mapping[str, int],
) -> dict[str, Any]:
    """Counts: what was read, what is used, and why everything else is not."""
    if not isinstance(ballots, BallotSet):
        ballots = BallotSet(tuple(ballots), len(ballots), source="made in Python")
    skipped = Counter(ballots.skipped)
    skipped.update(train_set.skipped)
    shortened = Counter(train_set.shortened)
    for part in (eval_set, validation_set):
        skipped.update(part.skipped)
        shortened.update(part.shortened)
    shortened.update(cuts)
    everything: tuple[Any, ...] = (train_set.ballots, eval_set.ballots, questions.prompts)
    everything += (validation_set.ballots,) if validation_set.ballots else ()
    content = hashlib.sha256(repr(everything).encode()).hexdigest()
    reached = {
        key: len({i for step in t.plan for group in step.micro_batches for i in group}) for key, t in trainings.items()
    }
    flipped = {condition_name(*where): noisy.flipped for where, noisy in votes.items() if where[1]}
    return {
        "source": ballots.source,
        "sha256": ballots.sha256 or content,
        "tokens_sha256": content,
        "rows": ballots.rows,
        "ballots_train": len(train_set.ballots),
        "ballots_reached": max(reached.values()),
        "ballots_eval": len(eval_set.ballots),
        "votes_train": sum(len(ballot.votes) for ballot in train_set.ballots),
        "votes_eval": sum(len(ballot.votes) for ballot in eval_set.ballots),
        "prompts_eval": len(questions.prompts),
        "skipped": dict(skipped),
        "dropped": dict(ballots.dropped),
        "shortened": dict(shortened),
        "left_out": {arm: dict(t.left_out) for (arm, *_), t in trainings.items() if t.left_out},
        **({"ballots_validation": len(validation_set.ballots)} if validation_set.ballots else {}),
        **({"votes_flipped": flipped} if flipped else {}),
    }


def describe_targets(plan: Plan, trainings: Mapping[TrainingKey, AnyTraining]) -> dict[str, str]:
    """What IPO's target means at each β, by `arm @ beta=...`."""
    targets = {}
    first = plan.conditions()[0]
    for arm in plan.arms:
        for beta in plan.betas if (arm.name, *first) in trainings else ():
            options = arm.settings(plan.settings).loss_options(beta)
            target = describe_target(trainings[arm.name, *first], options)
            if target:
                targets[f"{arm.name} @ beta={beta:g}"] = target
    return targets


def open_study(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Start the study's folder, or continue it. Raises UserError when it was started with something else.

    Arms, β, seeds and rates of label noise may grow; what makes runs comparable may not change.
    """
    path = folder / "study.json"
    if not path.exists():
        check_out(folder, resume=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, info)
        return info
    before = read_study(folder).info
    for label, old, new in (
        ("model", before["model"].get("sha256"), info["model"]["sha256"]),
        ("reference", before.get("reference", {}).get("sha256"), info["reference"]["sha256"]),
        ("data", before["data"].get("tokens_sha256"), info["data"]["tokens_sha256"]),
        *(
            (f"--{name.replace('_', '-')}", before["settings"].get(name), value)
            for name, value in info["settings"].items()
        ),
    ):
        if old != new:
            raise UserError(
                f"{folder}: this study was started with another {label} ({old!r:.20}, now {new!r:.20}); "
                "name a new --out"
            )
    merged = {
        name: before[name] + [value for value in info[name] if value not in before[name]]
        for name in ("arms", "betas", "seeds", "noises")
    }
    targets = before["targets"] | info["targets"]
    continued = info | merged | {"targets": targets, "created": before["created"], "seconds": before["seconds"]}
    write_json(path, continued)
    return continued


# --- the reward models ------------------------------------------------------------------------------------------------


def condition_name(seed: int, noise: float) -> str:
    """A set of votes in words: its seed, and the noise where there is any."""
    return f"{seed}, noise {noise:g}" if noise else str(seed)


def condition_folder(seed: int, noise: float) -> str:
    """The same as a folder's name: `seed0`, `noise0.2-seed0`."""
    return f"noise{noise:g}-seed{seed}" if noise else f"seed{seed}"


@dataclass(frozen=True)
class StudyReward:
    """The reward model of a seed and noise, and its score of the reference's own samples, by prompt."""

    model: RewardModel
    reference: tuple[float, ...]


def fit_rewards(
    folder: Path,
    bench: Workbench,
    plan: Plan,
    votes: Mapping[tuple[int, float], Votes],
    eval_set: TokenSet,
    questions: Questions,
) -> dict[tuple[int, float], StudyReward]:
    """One reward model per seed and noise, in `folder/rewards`; what is there already is used again."""
    found = {}
    rollouts: list[Rollout] = []
    for where in plan.conditions():
        model = fit_or_load(
            bench,
            votes[where].tokens,
            eval_set.ballots,
            plan.settings,
            kind=plan.kind,
            seed=where[0],
            folder=folder / "rewards" / condition_folder(*where),
        )
        if questions.prompts and not rollouts:
            rollouts = reference_rollouts(bench, questions, questions.samples, questions.seed)
        scores = score_rollouts(model, rollouts, **_where(bench, plan)) if rollouts else []
        found[where] = StudyReward(model, tuple(float(np.mean(row)) for row in scores))
    return found


def reference_rollouts(bench: Workbench, questions: Questions, samples: int, seed: int | str) -> list[Rollout]:
    """Samples of the reference to the study's prompts."""
    return sample_responses(
        bench.reference.model,
        questions.prompts,
        stops=bench.base.form.stops,
        samples=samples,
        max_new_tokens=questions.max_new_tokens,
        seed=seed,
        precision=bench.precision,
    )


def _where(bench: Workbench, plan: Plan) -> dict[str, Any]:
    device = next(bench.base.model.parameters()).device
    return {"layout": bench.layout, "micro_tokens": plan.settings.micro_tokens, "device": device}


# --- running it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runner:
    """Trains and evaluates the runs of one study; what is in the folder already is not done again."""

    folder: Path
    bench: Workbench
    plan: Plan
    questions: Questions
    trainings: dict[TrainingKey, AnyTraining]
    votes: Mapping[tuple[int, float], Votes]
    eval_set: TokenSet
    chat: bool
    rewards: Mapping[tuple[int, float], StudyReward]
    preferences: dict[TrainingKey, Mapping[str, Any]] = field(default_factory=dict)

    def training_of(self, arm: Arm, seed: int, noise: float) -> AnyTraining:
        """What the runs of an arm train on; a preference is fitted, and its targets set, when they are needed first."""
        key = (arm.name, seed, noise)
        training = self.trainings[key]
        if arm.method is AMORTIZED_IPO and key not in self.preferences and isinstance(training, Training):
            settings = arm.settings(self.plan.settings)
            tokens, held_out, place = (
                self.votes[seed, noise].tokens,
                self.eval_set.ballots,
                self._place(arm, seed, noise),
            )
            targets = set_targets(self.bench, tokens, held_out, settings, seed, place, kind=self.plan.kind)
            self.trainings[key] = prepare_targets(arm.method, targets, settings, self.bench.layout, seed)
            self.preferences[key] = targets.info
        return self.trainings[key]

    def _place(self, arm: Arm, seed: int, noise: float) -> Path:
        """Where the arm's preference lies: the seed's reward model, unless the arm wants another one."""
        kind, settings = self.plan.kind, arm.settings(self.plan.settings)
        shared = settings_of(kind, settings) == settings_of(kind, self.plan.settings) and settings.head == "score"
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

        def proxy(rollouts: Sequence[Rollout]) -> list[list[float]]:
            scores = score_rollouts(own.model, rollouts, **_where(self.bench, self.plan))
            return [[s - start for s in row] for row, start in zip(scores, own.reference, strict=True)]

        return proxy

    def evaluate_reference(self) -> None:
        """The reference's own row: its samples are what every policy is paired with."""
        if not self._is_recorded(REFERENCE, 0):
            policy = Policy(self.bench.reference.model, self.bench.base.form)
            identity = {"run": REFERENCE, "arm": REFERENCE, "method": REFERENCE, "beta": None, "seed": 0, "noise": 0.0}
            self._evaluate(policy, self.plan.settings, identity, 0)

    def run(self, arm: Arm, beta: float | None, seed: int, noise: float) -> None:
        """Train one run, evaluating it at its checkpoints; leave `runs/<id>/policy`."""
        name = run_name(arm, beta, seed, noise)
        folder = self.folder / "runs" / name
        if (folder / "run.json").exists():
            say(f"{name}: done already")
            return
        settings = arm.settings(self.plan.settings)
        identity = {"run": name, "arm": arm.name, "method": arm.method.name, "beta": beta, "seed": seed, "noise": noise}
        if isinstance(arm.method, Selection):
            self._select(arm.method, identity, seed, noise)
            return

        def at_checkpoint(step: int, policy: Policy) -> None:
            if not self._is_recorded(name, step):
                self._evaluate(policy, settings, identity, step)

        started = time.monotonic()
        training = self.training_of(arm, seed, noise)
        policy = train_any(
            self.bench,
            training,
            settings,
            self.reward_of(seed, noise),
            beta=beta,
            seed=seed,
            folder=folder,
            resume=True,
            description=name,
            at_checkpoint=at_checkpoint,
            checkpoints=self.plan.checkpoints,
        )
        policy.save(folder)
        policy.close()
        metrics = read_metrics(folder / "metrics.jsonl")
        spent = budget(training, metrics, settings)
        found = say_alarms(metrics) if isinstance(training, PromptTraining) else []
        model, reference = self.bench.base, self.bench.reference
        record = identity | {"chat": self.chat, "settings": asdict(settings) | {"lr": settings.learning_rate}}
        record |= {"model": {"name": model.name, "sha256": model.sha256}}
        record |= {"reference": {"name": reference.name, "sha256": reference.sha256}}
        if (arm.name, seed, noise) in self.preferences:
            record |= {"preference": dict(self.preferences[arm.name, seed, noise])}
            target = describe_target(training, settings.loss_options(beta))
            record |= {"target": target} if target else {}
        record |= {"budget": spent, "alarms": found, "seconds": round(time.monotonic() - started, 1)}
        write_json(folder / "run.json", record)

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
        scores = score_rollouts(own.model, drawn, **_where(self.bench, self.plan))
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

    def _evaluate(self, policy: Policy, settings: Settings, identity: Mapping[str, Any], step: int) -> None:
        """Sample from one policy at a step of its training, and append what came of it."""
        layout, precision, micro_tokens = self.bench.layout, self.bench.precision, settings.micro_tokens
        is_reference = identity["run"] == REFERENCE
        where = (identity["seed"], identity["noise"])
        taken_out = () if is_reference else self.votes[where].validation
        table, validation = (
            self._vote_table(policy, ballots, settings, is_reference) for ballots in (self.questions.ballots, taken_out)
        )
        samples: list[Sample] = []
        if self.questions.prompts:
            samples = answer(
                policy.model,
                None if is_reference else partial(as_reference, policy, self.bench.reference),
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
        self, policy: Policy, ballots: Sequence[TokenBallot], settings: Settings, is_reference: bool
    ) -> VoteTable | None:
        """The votes of the ballots as the policy sees them; None if there are none."""
        if not ballots or is_reference:
            return reference_table(ballots) if ballots else None
        return vote_table(
            policy.model,
            ballots,
            held_out_reference(self.bench, ballots, settings.micro_tokens),
            layout=self.bench.layout,
            precision=self.bench.precision,
            micro_tokens=settings.micro_tokens,
            reduction=settings.reduction,
        )

    def _reference_samples(self) -> list[Sample]:
        path = self.folder / "samples.jsonl"
        return [sample for sample in read_samples(path) if sample.run == REFERENCE] if path.exists() else []

    def _is_recorded(self, run: str, step: int) -> bool:
        path = self.folder / "results.jsonl"
        return path.exists() and any(row.run == run and row.step == step for row in read_results(path))


def describe_result(result: Result) -> str:
    """The measures of one row that exist, each with its standard error, on one line."""
    measures = ("gain", "kl", "length", "accuracy", "log_loss")
    values = {name: (getattr(result, name), getattr(result, f"{name}_se")) for name in measures}
    return ", ".join(f"{name} {Estimate(value, se)}" for name, (value, se) in values.items() if value is not None)


def run_name(arm: Arm, beta: float | None, seed: int, noise: float = 0.0) -> str:
    """A run's id and folder: `ipo-beta0.1-seed0`, `ipo-beta0.1-noise0.2-seed0`, an arm's options in it."""
    parts = [slug(arm.name), f"beta{beta:g}" if beta is not None else "", condition_folder(seed, noise)]
    return "-".join(filter(None, parts))


def slug(name: str) -> str:
    """An arm's name as a part of a folder's."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
