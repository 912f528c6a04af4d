"""A study: arms × β × seeds on the same ballots with the same budget, evaluated the same way, in one folder."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .ballots import Ballot, BallotSet, Prompt, split_by_prompt
from .console import say
from .errors import UserError
from .evaluate import Questions
from .judges import Judge
from .methods import AMORTIZED_IPO, Selection
from .online import PromptTraining, check_context
from .preferences import check_extra_responses
from .report import write_report
from .results import Result, StudyRecord, measured_against_a_policy, read_study, write_json
from .rewards import check_fitted
from .run import AnyTraining, check_out, describe_counts, describe_target, prepare, versions
from .settings import READS, flag, parse_arm
from .stopping import only_writer
from .stores import ARITHMETIC
from .study_plan import (
    Betas,
    Plan,
    StudyData,
    TrainingKey,
    check_shares,
    condition_name,
    held_out_prompts,
    make_data,
    make_plan,
    make_questions,
)
from .study_runs import Runner, fit_rewards
from .verdict import PROXY, Verdict, verdict
from .workbench import Workbench, open_workbench

PROXY_WORDS = (
    "the reward model that ppo, rloo and best-of-n learn from or select by, fitted on the training votes; its mean "
    "over the reference's samples of the same prompt is taken off"
)


EVALUATED = (  # what every row of results depends on, whatever the arms read
    *("samples", "max_new_tokens", "checkpoints", "optimiser_steps", "reduction"),
    *("max_length", "precision", "device"),
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
    with only_writer(folder):
        bench = open_workbench(
            model, reference=reference, precision=plan.settings.precision, device=plan.settings.device
        )
        if eval_ballots is None:
            distinct = len({ballot.prompt for ballot in ballots})
            fraction = min(eval_fraction, eval_prompts / max(distinct, 1))
            train_ballots, eval_ballots = split_by_prompt(ballots, fraction, seed=0)
        else:
            train_ballots = tuple(ballots)
        form, length = bench.base.form, plan.settings.max_length
        data = make_data(plan, train_ballots, eval_ballots, form, votes_per_prompt, validation_fraction)
        asked = tuple(prompts) if prompts is not None else held_out_prompts(eval_ballots, eval_prompts)
        questions, cuts = make_questions(
            asked, data.held_out, form, length, samples, max_new_tokens, judge, others or {}
        )
        trainings = prepare_trainings(bench, plan, data)
        info = describe_study(plan, bench, ballots, data, questions, trainings, cuts)
        info["data"] |= {"votes_per_prompt": votes_per_prompt} if votes_per_prompt is not None else {}
        info |= {"title": title or f"{', '.join(info['arms'])} on {Path(str(model)).name}", "command": command}
        info |= {"notes": list(notes), "seconds": {}}
        for fitted in (folder / "rewards").glob("*"):
            check_fitted(fitted, plan.kind)
        info = open_study(folder, info)
        say(f"layout: {bench.layout.name} ({bench.layout.reason})")
        held_out, trained_on = len(data.held_out.ballots), len(data.training.ballots)
        say(f"{trained_on} ballots to train on, {held_out} held out, {len(asked)} prompts")
        say(f"skipped: {describe_counts(info['data']['skipped'])}")
        for line in info["targets"].values():
            say(line)
        rewards = fit_rewards(folder, bench, plan, data, questions) if plan.needs_reward else {}
        runner = Runner(folder, bench, plan, data, questions, dict(trainings), rewards)
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
        (arm.name, *where): prepare(
            arm.method, data.ballots, data.votes[where].tokens, bench, arm.settings(plan.settings), where[0]
        )
        for arm in plan.arms
        for where in plan.conditions()
        if not isinstance(arm.method, Selection)
    }
    if not trainings:
        raise UserError("--methods: best-of-n trains nothing; name a method beside it that does")
    for arm in plan.arms:
        settings = arm.settings(plan.settings)
        for where in plan.conditions():
            training = trainings.get((arm.name, *where))
            if isinstance(training, PromptTraining):
                check_context(bench, training, settings)
            elif training and training.method is AMORTIZED_IPO:
                check_extra_responses(bench, data.votes[where].tokens, settings)
    return trainings


# --- study.json ------------------------------------------------------------------------------------------------------


def describe_study(
    plan: Plan,
    bench: Workbench,
    ballots: Sequence[Ballot],
    data: StudyData,
    questions: Questions,
    trainings: Mapping[TrainingKey, AnyTraining],
    cuts: Mapping[str, int],
) -> dict[str, Any]:
    """What `study.json` says of the comparison, its data and its machine."""
    settings = plan.settings.record() | {
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
        "data": describe_data(ballots, data, questions, trainings, cuts),
        "settings": settings,
        "arms": [arm.name for arm in plan.arms],
        "betas": list(plan.betas),
        "arm_betas": {arm: list(betas) for arm, betas in plan.arm_betas.items()},
        "seeds": list(plan.seeds),
        "noises": list(plan.noises),
        "failed": {},
        "arithmetic": ARITHMETIC,
        "gold": questions.judge and {"name": questions.judge.name, "description": questions.judge.description},
        "opinions": {name: judge.description for name, judge in questions.others.items()},
        "steps": {arm: training.steps for (arm, *_), training in trainings.items()}
        | {arm.name: max(arm.method.sizes) for arm in plan.arms if isinstance(arm.method, Selection)},
        "targets": describe_targets(plan, trainings),
    }


def describe_data(
    ballots: Sequence[Ballot],
    data: StudyData,
    questions: Questions,
    trainings: Mapping[TrainingKey, AnyTraining],
    cuts: Mapping[str, int],
) -> dict[str, Any]:
    """Counts: what was read, what is used, and why everything else is not."""
    if not isinstance(ballots, BallotSet):
        ballots = BallotSet(tuple(ballots), len(ballots), source="made in Python")
    skipped = Counter(ballots.skipped)
    skipped.update(data.training.skipped)
    shortened = Counter(data.training.shortened)
    for part in (data.held_out, data.validation):
        skipped.update(part.skipped)
        shortened.update(part.shortened)
    shortened.update(cuts)
    everything: tuple[Any, ...] = (data.training.ballots, data.held_out.ballots, questions.prompts)
    everything += (data.validation.ballots,) if data.validation.ballots else ()
    content = hashlib.sha256(repr(everything).encode()).hexdigest()
    reached = {
        key: len({i for step in t.plan for group in step.micro_batches for i in group}) for key, t in trainings.items()
    }
    flipped = {condition_name(*where): noisy.flipped for where, noisy in data.votes.items() if where[1]}
    return {
        "source": ballots.source,
        "sha256": ballots.sha256 or content,
        "tokens_sha256": content,
        "rows": ballots.rows,
        "ballots_train": len(data.training.ballots),
        "ballots_reached": max(reached.values()),
        "ballots_eval": len(data.held_out.ballots),
        "votes_train": sum(len(ballot.votes) for ballot in data.training.ballots),
        "votes_eval": sum(len(ballot.votes) for ballot in data.held_out.ballots),
        "prompts_eval": len(questions.prompts),
        "skipped": dict(skipped),
        "dropped": dict(ballots.dropped),
        "shortened": dict(shortened),
        "left_out": {arm: dict(t.left_out) for (arm, *_), t in trainings.items() if t.left_out},
        **({"ballots_validation": len(data.validation.ballots)} if data.validation.ballots else {}),
        **({"votes_flipped": flipped} if flipped else {}),
    }


def describe_targets(plan: Plan, trainings: Mapping[TrainingKey, AnyTraining]) -> dict[str, str]:
    """What IPO's target means at each β, by `arm @ beta=...`."""
    targets = {}
    first = plan.conditions()[0]
    for arm in plan.arms:
        for beta in plan.arm_betas.get(arm.name, ()) if (arm.name, *first) in trainings else ():
            options = arm.settings(plan.settings).loss_options(beta)
            target = describe_target(trainings[arm.name, *first], options)
            if target:
                targets[f"{arm.name} @ beta={beta:g}"] = target
    return targets


def open_study(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Start the study's folder, or continue it. Raises UserError when it was started with something else.

    Arms, β, seeds and rates of label noise may grow. What makes runs comparable may not change: how they are evaluated,
    and the settings that some arm reads of those that the study had.
    """
    path = folder / "study.json"
    if not path.exists():
        check_out(folder, resume=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, info)
        return info
    before = read_study(folder).info
    if measured_against_a_policy(before):
        raise UserError(f"{folder}: its held-out figures are of before 0.2 and wrong (adapters); name a new --out")
    counted = dict.fromkeys(EVALUATED)
    for arm in before["arms"]:
        counted |= dict.fromkeys(READS[parse_arm(arm).method.name])
    for label, old, new in (
        ("model", before["model"].get("sha256"), info["model"]["sha256"]),
        ("reference", before.get("reference", {}).get("sha256"), info["reference"]["sha256"]),
        ("data", before["data"].get("tokens_sha256"), info["data"]["tokens_sha256"]),
        *((f"--{flag(name)}", before["settings"].get(name), info["settings"][name]) for name in counted),
    ):
        if old != new:
            raise UserError(
                f"{folder}: this study was started with another {label} ({old!r:.20}, now {new!r:.20}); "
                "name a new --out"
            )
    merged = {
        name: before[name] + [value for value in info[name] if value not in before[name]]
        for name in ("arms", "seeds", "noises")
    }
    merged |= {"betas": sorted({*before["betas"], *info["betas"]}), "arm_betas": merge_betas(before, info)}
    merged |= {name: before[name] | info[name] for name in ("steps", "targets")}
    continued = info | merged | {"created": before["created"], "seconds": before["seconds"]}
    write_json(path, continued)
    return continued


def merge_betas(before: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, list[float]]:
    """The β of every arm that was or is asked for; before each arm had its own, all had all of the study's."""
    merged = before["arm_betas"] or {arm: before["betas"] for arm in before["arms"]}
    return merged | {
        arm: [*merged.get(arm, ()), *(beta for beta in betas if beta not in merged.get(arm, ()))]
        for arm, betas in info["arm_betas"].items()
    }
