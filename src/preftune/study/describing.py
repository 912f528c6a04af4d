"""What `study.json` says of a study, and whether a study goes on from what its folder holds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..data import Ballot, BallotSet
from ..errors import UserError
from ..evidence import measured_against_a_policy, read_study
from ..methods import Selection, flag
from ..model import ARITHMETIC, Workbench, parameter_count
from ..training import AnyTraining, Settings, check_out, describe_target, parse_arm, versions
from .naming import condition_name
from .plan import Plan, StudyData, TrainingKey
from .questions import Questions

EVALUATED = (  # what every row of results depends on, whatever the arms read
    *("samples", "max_new_tokens", "checkpoints", "optimiser_steps", "reduction"),
    *("max_length", "precision", "device"),
)


EXCHANGEABLE = "exchangeable"  # what is random in a run's training is its own; its votes are the seed's


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
    settings = plan.record() | {
        "checkpoints": plan.checkpoints,
        "samples": questions.samples,
        "max_new_tokens": questions.max_new_tokens,
        "optimiser_steps": next(iter(trainings.values())).steps,
    }
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"cpu_threads": torch.get_num_threads(), "device": str(bench.base.device)},
        "model": {
            "name": bench.base.name,
            "sha256": bench.base.sha256,
            "parameters": parameter_count(bench.base.model),
            "kept_as": bench.base.kept_as,
            "bytes": sum(parameter.nbytes for parameter in bench.base.model.parameters()),
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
        "runs": EXCHANGEABLE,
        "failed": {},
        "arithmetic": ARITHMETIC,
        "gold": questions.judge and {"name": questions.judge.name, "description": questions.judge.description},
        "judges": [],
        "addressed": {},
        "opinions": {name: judge.description for name, judge in questions.others.items()},
        "steps": {arm: training.steps for (arm, *_), training in trainings.items()}
        | {arm.name: max(arm.method.sizes) for arm in plan.arms if isinstance(arm.method, Selection)},
        "targets": describe_targets(plan, trainings),
        "pilots": {},
        "search": {},
        "looks": {},
        "answered": "",
        "grown": [],
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
        **({"noted": dict(ballots.noted)} if ballots.noted else {}),
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
            target = describe_target(trainings[arm.name, *first], beta)
            if target:
                targets[f"{arm.name} @ beta={beta:g}"] = target
    return targets


def continued(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """What `study.json` is to say, also of what the folder holds already; nothing is written. Raises UserError when the
    study there was started with something else.

    Arms, β, seeds and rates of label noise may grow. What makes runs comparable may not change: how they are evaluated,
    and what the results of some arm of the study depend on.
    """
    if not (folder / "study.json").exists():
        check_out(folder, resume=False)
        return info
    before = read_study(folder).info
    if measured_against_a_policy(before):
        raise UserError(f"{folder}: its held-out figures are of before 0.2 and wrong (adapters); name a new --out")
    if before["runs"] != info["runs"]:
        raise UserError(
            f"{folder}: its runs of one seed share the order of their data, as versions before 0.3 made them; "
            "name a new --out"
        )
    looks = continued_looks(folder, before, info)
    then, now = before["settings"], info["settings"]  # of a method compared only then, or only now, one has the options
    counted: dict[str, Any] = dict.fromkeys(EVALUATED)
    for arm in before["arms"]:
        counted |= parse_arm(arm).recipe(Settings(), {}).counting()
    for label, old, new in (
        ("--base", then.get("base", "fp32"), now["base"]),
        ("model", before["model"].get("sha256"), info["model"]["sha256"]),
        ("reference", before.get("reference", {}).get("sha256"), info["reference"]["sha256"]),
        ("--lr", then.get("lr"), now["lr"]),  # before the data: with auto, prompts are taken out of them
        ("data", before["data"].get("tokens_sha256"), info["data"]["tokens_sha256"]),
        *((f"--{flag(name)}", then[name], now[name]) for name in counted if name in now and name in then),
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
    merged |= {name: before[name] | info[name] for name in ("steps", "targets", "settings", "pilots")}
    merged |= {name: before[name] for name in ("search", "answered")}
    merged |= {"judges": continued_judges(folder, before, info)}
    merged |= {"looks": looks, "grown": [*before["grown"], *added(before, info)]}
    return info | merged | {"created": before["created"], "seconds": before["seconds"]}


def continued_looks(folder: Path, before: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """The looks that were declared at the start, with the hours of now. Raises UserError for other ones."""
    then, now = before["looks"], info["looks"]
    if now and not then:
        raise UserError(
            f"{folder}: was begun without --until; looks are declared before the first run: name a new --out"
        )
    if then and not now and not then["ended"]:
        raise UserError(f"{folder}: its looks have not ended; go on with --until verdict, or name a new --out")
    if now and then["schedule"] != now["schedule"]:
        raise UserError(f"{folder}: its looks were declared with another --eval-prompts; name a new --out")
    return {**then, "hours": now["hours"], "ended": ""} if now else dict(then)


def continued_judges(folder: Path, before: Mapping[str, Any], info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The judges that the study had, in their order, with what is known of them, and those that come.

    Raises UserError for one that is left out, or is another one than it was.
    """
    now = {judge["name"]: judge for judge in info["judges"]}
    for judge in before["judges"]:
        name = judge["name"]
        if name not in now:
            raise UserError(f"{folder}: was judged by {name}; give the same --judge, or name a new --out")
        then, identity = judge.get("identity"), now[name].get("identity")
        if then is not None and identity is not None and json.loads(json.dumps(identity)) != then:
            raise UserError(f"{folder}: judge {name} is another one than it was; name a new --out")
    had = [judge["name"] for judge in before["judges"]]
    return [*before["judges"], *(judge for name, judge in now.items() if name not in had)]


def added(before: Mapping[str, Any], info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What comes by hand to a study whose answer has been seen: arms, β, rates of label noise, and seeds.

    Those that its looks declared are no such seeds.
    """
    if not before["answered"]:
        return []
    names = {"methods": "arms", "label noise": "noises"} | ({} if info["looks"] else {"seeds": "seeds"})
    found = {word: [value for value in info[name] if value not in before[name]] for word, name in names.items()}
    had = {judge["name"] for judge in before["judges"]}
    found["judges"] = [judge["name"] for judge in info["judges"] if judge["name"] not in had]
    known = merge_betas(before, {"arm_betas": {}})
    for arm, betas in info["arm_betas"].items():
        found[f"β of {arm}"] = [beta for beta in betas if arm in known and beta not in known[arm]]
    found = {word: values for word, values in found.items() if values}
    return [{"when": info["created"], "added": found, "after": before["answered"]}] if found else []


def merge_betas(before: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, list[float]]:
    """The β of every arm that was or is asked for; before each arm had its own, all had all of the study's."""
    merged = before["arm_betas"] or {arm: before["betas"] for arm in before["arms"]}
    return merged | {
        arm: [*merged.get(arm, ()), *(beta for beta in betas if beta not in merged.get(arm, ()))]
        for arm, betas in info["arm_betas"].items()
    }
