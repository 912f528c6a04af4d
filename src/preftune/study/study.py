"""A study: arms × β × seeds on the same ballots with the same budget, evaluated the same way, in one folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Ballot, Prompt
from ..evidence import Result, StudyRecord, Verdict, read_study, verdict, write_json
from ..judges import Judge, Named, settle_judges
from ..model import with_threads
from ..report import write_report
from ..stopping import only_writer
from ..training import describe_counts
from .describing import continued
from .executors import open_executor
from .looking import check_hours, described_looks, make_looks
from .looks import Clock, reserved
from .making import make_runs
from .mending import mend_results
from .opening import open_plan
from .overlap import together, trained_on
from .placing import LOCAL, settle_placement
from .plan import Betas, settle_study
from .runs import Runner


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
    betas: Betas = None,
    seeds: Sequence[int] | None = None,
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
    until: str | None = None,
    hours: float | None = None,
    kind: str | None = None,
    judge: Named | Sequence[Named] | None = None,
    judge_fraction: float | None = None,
    judge_template: str | None = None,
    judge_model: str | None = None,
    judge_budget: str | None = None,
    others: Mapping[str, Judge] | None = None,
    title: str = "",
    command: str = "",
    notes: Sequence[str] = (),
    allow_overlap: bool = False,
    executor: str = LOCAL,
    workers: int | None = None,
    address: str | None = None,
    resources: str | None = None,
    **options: Any,
) -> Study:
    """Train every arm at every β and seed on identical votes, evaluate all of them alike, and draw the report.

    Calling it again with the same `out` goes on where it stopped; more arms, β, seeds or rates of label noise may be
    added then.

    Args:
        arms: such as `["dpo", "ipo", "ipo[reduction=mean]"]`, or one text with commas.
        ballots: preference data, from `read_ballots` or made by hand.
        model: a local folder, a GGUF file or a hub name.
        betas: strengths of the KL term: the same for every arm, or a mapping from an arm's name to its own. "auto", the
            default: found for each arm at the first seed, without label noise, by KL alone, so that the arms end at the
            same distances from the reference (`beta_search`).
        seeds: one run of every arm and β for each, by default at seed 0. What is random in a run's training follows
            from its seed, arm and β, so that runs are exchangeable; noise, fitted rewards and preferences follow from
            the seed alone.
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
        until: "verdict": look after 3, 6 and 12 seeds, on `eval_prompts` prompts, twice and four times as many, until
            every pair of arms is told apart (`looks`). β that are given are where the search for further ones starts.
        hours: no look begins that would end later than this, by the pace of the runs so far; the first one always does.
        kind: of the reward model that ppo, rloo, best-of-n and amortized-ipo use, one per seed and noise, fitted on the
            same votes: `full`, `lora` (the default with an adapter's rank) or `frozen`, for small machines (the default
            where only amortized-ipo uses it).
        judge: who says which of two responses is better; several in a list, the first of which the study answers by.
            `"reward"` (a reward model fitted on votes of `judge_fraction` of the training prompts, which no arm then
            trains on), `"reward:DIR"`, `"model:DIR"`, the address of an OpenAI-compatible endpoint, a function
            `(prompt, a, b) -> Pr(a ≻ b) | None`; or a `Judge`, the reward of a response where one is known (gold).
        judge_template: file of what a judge that reads is asked; `judge_model` is asked at an endpoint, within
            `judge_budget`.
        others: second opinions, by name: rewards of a response.
        title, command, notes: shown in the report.
        allow_overlap: ask prompts that were trained on too, with a caveat; without it they are an error.
        executor: who makes the runs: "local", where one of `workers` is this process and several are others, each with
            its share of the cores; "ray", at an `address` or here; or "slurm". These give each run its `resources`,
            such as `"gpu=1,cpu=4"`. Results are the same at the same threads a run.
        options: the fields of `Settings`, and options of the methods compared, for every arm whose method has them.
            With `lr="auto"`, short pilots on training prompts choose the rate of every arm that has none of its own,
            judged on validation prompts (a tenth of the training ones, if no other share is given).

    Raises:
        UserError: for anything in the input that the user can mend; nothing is written then.
    """
    started = time.monotonic()
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
        until=until,
        hours=hours,
        scored=bool(jury.gold or jury.specs),
        fits_judge=jury.fits,
        max_new_tokens=max_new_tokens,
        **options,
    )
    folder = Path(out)
    with only_writer(folder), with_threads(placement.threads):
        opening = partial(
            open_plan,
            plan,
            ballots,
            folder,
            model=model,
            reference=reference,
            eval_ballots=eval_ballots,
            eval_fraction=eval_fraction,
            prompts=prompts,
            eval_prompts=reserved(eval_prompts, until, folder),
            votes_per_prompt=votes_per_prompt,
            validation_fraction=validation_fraction,
            samples=samples,
            max_new_tokens=max_new_tokens,
            jury=jury,
            others=others or {},
            allow_overlap=allow_overlap,
        )
        opened = opening()
        bench, data, questions = opened.bench, opened.data, opened.questions
        told: dict[str, Any] = {
            "title": title or f"{', '.join(opened.info['arms'])} on {Path(str(model)).name}",
            "command": command,
        }
        told |= {"notes": list(notes), "seconds": {}}
        told |= described_looks(eval_prompts, len(questions.prompts), hours) if until else {}
        info = continued(folder, opened.info | told)
        if hours is not None and not any((folder / "runs").glob("*/run.json")):
            check_hours(hours, opened)
        write_json(folder / "study.json", info)
        say(f"layout: {bench.layout.name} ({bench.layout.reason})")
        count = f"{len(data.training.ballots)} ballots to train on, {len(data.held_out.ballots)} held out"
        say(f"{count}, {len(questions.prompts)} prompts")
        say(f"skipped: {describe_counts(info['data']['skipped'])}")
        for line in info["targets"].values():
            say(line)
        mend_results(folder)
        clock = Clock.of(folder, info["seconds"].get("study", 0.0), started)
        if info["looks"] and not until:  # grown by hand: as the last look was evaluated
            questions = questions.part(0, info["looks"]["done"][-1]["prompts"])
        digests = together(trained_on(data.ballots, model))  # not of the validation prompts
        runner = Runner(
            folder,
            bench,
            plan,
            data,
            questions,
            dict(opened.trainings),
            {},
            digests,
            when_done=clock.save,
            panel=opened.panel,
        )
        with open_executor(placement, opening, jury, folder, digests) as others_:
            runner = replace(runner, executor=others_)
            info = (make_looks if until else make_runs)(runner, info, opened.fresh, clock)
        comparison = Study(folder)
        sentence = comparison.verdict.sentence
        write_json(folder / "study.json", info | {"answered": sentence})
        say(sentence)
        say(f"report: {comparison.report()}")
    return comparison
