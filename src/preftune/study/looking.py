"""A study that goes on until its verdict: one predeclared look (`looks`) after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..console import say
from ..errors import UserError
from ..evidence import read_study, verdict, write_json
from .beta_search import START
from .looks import Clock, Look, schedule, why_ended
from .making import make_runs
from .opening import Opened
from .pilots import Fresh
from .probing import probe, work
from .runs import Runner


def described_looks(first: int, available: int, hours: float | None) -> dict[str, Any]:
    """What `study.json` says of looks before the first run."""
    looks = schedule(first, available)
    record = {"schedule": [vars(look) for look in looks], "hours": hours, "done": [], "ended": ""}
    return {"looks": record, "seeds": list(range(looks[0].seeds))}


def make_looks(runner: Runner, info: dict[str, Any], fresh: Fresh, clock: Clock) -> dict[str, Any]:
    """Make look after look, as they were declared, until one has the verdict, is the last, or hours are used up."""
    path, done = runner.folder / "study.json", info["looks"]["done"]
    looks = [Look(**look) for look in info["looks"]["schedule"]]
    while not (ended := conclude(runner.folder, looks, info, clock)):
        look = looks[len(done)]
        say(f"look {len(done) + 1} of {len(looks)}: {look.seeds} seeds on {look.prompts} prompts, at α = {look.alpha}")
        info |= {"seeds": sorted({*info["seeds"], *runner.plan.seeds[: look.seeds]})}
        write_json(path, info)
        plan = replace(runner.plan, seeds=runner.plan.seeds[: look.seeds])
        asked = runner.questions.part(0, look.prompts)
        info = make_runs(replace(runner, plan=plan, questions=asked, grows=True), info, fresh, clock)
        done.append({**vars(look), "hours": round(clock.seconds() / 3600, 4)})
        write_json(path, info)
    info["looks"]["ended"] = ended
    say(f"no look follows: {ended}")
    return info


def conclude(folder: Path, looks: Sequence[Look], info: Mapping[str, Any], clock: Clock) -> str:
    """Write down what the last look that is done said; why none follows (`why_ended`).

    The next one is taken to need as long a run as those so far did.
    """
    done, hours = info["looks"]["done"], info["looks"]["hours"]
    if not done or len(info["seeds"]) > done[-1]["seeds"]:  # a look that has begun is made, whatever the hours
        return ""
    answer, count = verdict(read_study(folder)), len(done)
    done[-1] |= {"verdicts": [pair.verdict for pair in answer.comparisons], "sentence": answer.sentence}
    known = looks[count - 1].seeds
    more = clock.seconds() * (looks[count].seeds - known) / known if count < len(looks) else 0.0
    return why_ended(looks, count, answer.comparisons, hours, clock.seconds() / 3600, more / 3600)


def check_hours(hours: float, opened: Opened) -> None:
    """Raises UserError if one run would take longer than that: extrapolated from one step."""
    plan, bench, questions = opened.plan, opened.bench, opened.questions
    (arm, _, _), training = next(iter(opened.trainings.items()))
    first = {arm: (training, plan.arm_betas.get(arm, (START,))[0])}
    measured = probe(bench, first, opened.data.training.ballots, questions, plan.settings.pass_tokens)
    answers = plan.checkpoints * len(questions.prompts) * questions.samples
    needed = (measured.training[arm] * work(bench, training) + answers * measured.sampling) / 3600
    if needed > hours:
        raise UserError(f"--hours {hours:g}: one run of {arm} takes about {needed:.2g} hours here; give more")
    say(f"one run of {arm} takes about {needed:.2g} hours here")
