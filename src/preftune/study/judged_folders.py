"""Policies that exist already, met: each samples responses to the same prompts, for judges or people to compare.

What comes of it is a study folder without training, which `preftune report` draws, and which goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..console import say
from ..data import Prompt, TokenSet, copy_digests, read_ballots, read_prompts
from ..errors import UserError
from ..evidence import (
    REFERENCE,
    StudyRecord,
    append_records,
    read_info,
    read_results,
    read_samples,
    read_study,
    write_json,
    write_records,
)
from ..judges import Named, settle_judges
from ..model import Workbench, open_workbench
from ..report import write_report
from ..stopping import only_writer
from ..training import describe_counts, make_settings, versions
from .evaluate import answer, summarise
from .folders import PolicyFolder, common_base, common_options, common_reference, find_policy
from .judging import Panel, check_apart, describe_judges, judge_study
from .limits import check_asked, check_precision
from .meetings import Judged, draw_opponents
from .overlap import check_overlap, prompts_of, trained_on
from .policy_folders import met
from .questions import Questions, held_out_prompts, make_questions

NOBODY = Panel()


@dataclass(frozen=True)
class Asking:
    """How policies are asked: against which reference (by default what they were trained from), for how many samples of
    how many tokens, by which machine, and how the reference is kept (by default as it was in training)."""

    reference: str | None = None
    samples: int = 1
    max_new_tokens: int = 64
    max_length: int = 1024
    micro_tokens: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    template_options: str | None = None
    base: str | None = None


def judge_folders(
    folders: Sequence[str],
    *,
    judge: Named | Sequence[Named],
    out: str | Path,
    prompts: str | None = None,
    data: str | None = None,
    reference: str | None = None,
    eval_prompts: int = 64,
    samples: int = 1,
    max_new_tokens: int = 64,
    max_length: int = 1024,
    micro_tokens: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    template_options: str | None = None,
    base: str | None = None,
    allow_overlap: bool = False,
    reading: Mapping[str, Any] | None = None,
    **judging: Any,
) -> StudyRecord:
    """Have judges compare policies with their reference, and with one another, on the same prompts; draw a report.

    The reference is what the policies were trained from, unless another is named; plain models need one. Its weights
    are kept in `base`, by default as they were in training. With `data`, its prompts are asked where `prompts` is left
    out, and judges are compared with its votes. `judging` are the options of judges, as `compare` has them. Raises
    UserError for what the user can mend.
    """
    check_precision(precision, base or "fp32")
    jury = settle_judges(judge, **judging)
    if not jury.specs or jury.gold:
        raise UserError("judge: name who is to judge, with --judge")
    if jury.fits:
        raise UserError("--judge reward: there are no votes here to fit it on; train one, and name it reward:DIR")
    found = [find_policy(folder) for folder in folders]
    check_names(found, "judge")
    ballots = read_ballots(data, **(reading or {})) if data else ()
    asked = read_prompts(prompts) if prompts else held_out_prompts(ballots, eval_prompts)
    if not asked or samples < 1:
        raise UserError("judge: nothing to judge; give --prompts FILE, or --data FILE, and --samples 1 or more")
    sets = {"--data": prompts_of(ballots)} if ballots else {}
    sets |= {"--prompts": list(asked)} if prompts else {}
    places = [spec.where for spec in jury.specs if spec.where]
    caveats = check_overlap(sets, trained_on((), *(one.path for one in found), *places), allowed=allow_overlap)
    asking = Asking(
        common_reference(found, reference, "judge"),
        samples,
        max_new_tokens,
        max_length,
        micro_tokens,
        precision,
        device,
        template_options,
        base,
    )
    return meet_policies(found, asked, asking, Path(out), Panel(jury, held_out=tuple(ballots)), caveats=caveats)


def ask_folders(
    folders: Sequence[str], *, prompts: str, out: str | Path, opponents: bool = False, **asking: Any
) -> StudyRecord:
    """Ask policies the same prompts, for people to compare what they say; judges are asked nothing.

    With `opponents` the reference answers once more, to be met. `asking` are fields of `Asking`. Raises UserError for
    what the user can mend.
    """
    how = Asking(**{"samples": 2} | asking)
    # two policies meet on samples of different numbers: those of one number share their luck
    check_asked(samples=how.samples, max_new_tokens=how.max_new_tokens, least=1 if opponents else 2)
    found = [find_policy(folder) for folder in folders]
    check_names(found, "arena")
    how = replace(how, reference=common_reference(found, how.reference, "arena"))
    asked = read_prompts(prompts)
    seen = trained_on((), *(one.path for one in found))
    caveats = check_overlap({"--prompts": asked}, seen, allowed=True)  # nobody is asked about these
    return meet_policies(found, asked, how, Path(out), opponents=opponents, caveats=caveats)


def meet_policies(
    found: Sequence[PolicyFolder],
    asked: Sequence[Prompt],
    asking: Asking,
    folder: Path,
    panel: Panel = NOBODY,
    *,
    opponents: bool = False,
    caveats: Sequence[str] = (),
) -> StudyRecord:
    """The samples of every policy and of the reference that is named, what the panel says of them, and a report."""
    options = common_options(found) if asking.template_options is None else asking.template_options
    with only_writer(folder):
        bench = open_workbench(
            str(asking.reference),
            precision=asking.precision,
            device=asking.device,
            template=options,
            where=f"--reference {asking.reference}",
            base=asking.base or common_base(found, "judge"),
        )
        questions, cuts = make_questions(
            asked,
            TokenSet((), {}, {}),
            bench.base.form,
            asking.max_length,
            asking.samples,
            asking.max_new_tokens,
            None,
            {},
        )
        say(f"{len(questions.prompts)} prompts; skipped or shortened: {describe_counts(cuts)}")
        judged = Judged(folder, bench, questions)
        info = describe(found, bench, questions, cuts, caveats)
        info["judges"] = describe_judges(panel, judged, test=True) if panel else judges_before(folder)
        check_apart(info["judges"], {one.record.get("reward", {}).get("sha256") for one in found})
        check_same(folder, info)
        write_json(folder / "study.json", info)
        budget = make_settings({"micro_tokens": asking.micro_tokens, "device": asking.device}).pass_tokens
        sample_all(folder, found, bench, questions, asking.device, budget)
        if opponents:
            draw_opponents(judged)
        info |= judge_study(panel, judged, meet=lambda ends: itertools.combinations(ends, 2))
        write_json(folder / "study.json", info)
        say(f"report: {write_report(folder)}")
    return read_study(folder)


def check_names(found: Sequence[PolicyFolder], command: str) -> None:
    """Raises UserError for two policies of one name, which no table could tell apart."""
    for name, count in Counter(folder.name for folder in found).items():
        if count > 1 or name == REFERENCE:
            raise UserError(f"{command}: {count} of the folders have the name {name}; rename or copy one")


def describe(
    found: Sequence[PolicyFolder],
    bench: Workbench,
    questions: Questions,
    cuts: Mapping[str, int],
    caveats: Sequence[str],
) -> dict[str, Any]:
    """`study.json` of policies that were there already: each is an arm with one run."""
    names = [folder.name for folder in found]
    content = hashlib.sha256(repr(questions.asked).encode("utf-8", "replace")).hexdigest()
    return {
        "title": f"{', '.join(names)} judged",
        "versions": versions(),
        "model": {"name": bench.base.name, "sha256": bench.base.sha256},
        "reference": {"name": bench.reference.name, "sha256": bench.reference.sha256},
        "data": {"prompts_eval": len(questions.prompts), "prompts_sha256": content, "shortened": dict(cuts)},
        "settings": {
            "samples": questions.samples,
            "max_new_tokens": questions.max_new_tokens,
            "precision": bench.precision,
        },
        "arms": names,
        "betas": [],
        "seeds": [0],
        "steps": dict.fromkeys(names, 0),
        "runs": "exchangeable",
        "arithmetic": 3,
        "caveats": list(caveats),
        "notes": ["These policies were there already: what is said is of them, and not of the methods that made them."],
    }


def check_same(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises UserError if the folder holds something else than this, half done."""
    if not (folder / "study.json").exists():
        return
    before = read_info(folder)
    for name in ("reference", "settings", "arms"):
        if before[name] != info[name]:
            raise UserError(f"{folder}: holds another judging ({name} differ); name a new --out")
    if before["data"].get("prompts_sha256", info["data"]["prompts_sha256"]) != info["data"]["prompts_sha256"]:
        raise UserError(f"{folder}: holds a judging on other prompts; name a new --out")


def judges_before(folder: Path) -> list[Any]:
    """The judges that a folder tells of: they stay where none is asked."""
    return list(read_info(folder).get("judges", [])) if (folder / "study.json").exists() else []


def sample_all(
    folder: Path, found: Sequence[PolicyFolder], bench: Workbench, questions: Questions, device: str, budget: int
) -> None:
    """The samples of the reference and of every policy, with their KL, and a row for each; what is whole stays."""
    path, samples = folder / "results.jsonl", folder / "samples.jsonl"
    done = {row.run for row in read_results(path)} if path.exists() else set()
    if samples.exists():  # those without their row are drawn again
        write_records(samples, [sample for sample in read_samples(samples) if sample.run in done])
    reference: list[Any] = []
    for one in [PolicyFolder(Path(), REFERENCE, {}), *found]:
        if one.name in done:
            continue
        with met(one, bench, device) as policy:
            drawn = answer(
                policy.model,
                None if one.name == REFERENCE else bench.reference.alone,
                questions,
                bench.base.form,
                run=one.name,
                step=0,
                layout=bench.layout,
                precision=bench.precision,
                micro_tokens=budget,
                merged=policy.merged,
            )
        reference = reference or drawn
        method = str(one.record.get("method", "model"))
        identity: dict[str, Any] = {"arm": one.name, "method": method, "beta": None, "seed": 0}
        if one.name != REFERENCE:  # so that nobody is asked about it on what it learned from
            copy_digests(one.path, folder / "runs" / one.name)
        append_records(samples, drawn)
        append_records(path, [summarise(drawn, reference, None, run=one.name, step=0, **identity)])
