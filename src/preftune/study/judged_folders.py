"""Policies that exist already, judged: each samples responses to the same prompts, and judges compare them.

What comes of it is a study folder without training, which `preftune report` draws, and which goes on where it stopped.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import say
from ..data import TokenSet, read_ballots, read_prompts
from ..errors import UserError
from ..evidence import REFERENCE, StudyRecord, append_records, read_results, read_study, write_json
from ..judges import Named, settle_judges
from ..model import Policy, Workbench, open_workbench
from ..report import write_report
from ..stopping import only_writer
from ..training import describe_counts, make_settings, versions
from .evaluate import answer, summarise
from .folders import PolicyFolder, common_options, common_reference, find_policy
from .judging import Panel, check_apart, describe_judges, judge_study
from .meetings import Judged
from .overlap import check_overlap, prompts_of, trained_on
from .policies import check_tokenizer, load_policy
from .questions import Questions, held_out_prompts, make_questions


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
    allow_overlap: bool = False,
    reading: Mapping[str, Any] | None = None,
    **judging: Any,
) -> StudyRecord:
    """Have judges compare policies with their reference, and with one another, on the same prompts; draw a report.

    The reference is what the policies were trained from, unless another is named; plain models need one. With `data`,
    its prompts are asked where `prompts` is left out, and judges are compared with its votes. `judging` are the options
    of judges, as `compare` has them. Raises UserError for what the user can mend.
    """
    jury = settle_judges(judge, **judging)
    if not jury.specs or jury.gold:
        raise UserError("judge: name who is to judge, with --judge")
    if jury.fits:
        raise UserError("--judge reward: there are no votes here to fit it on; train one, and name it reward:DIR")
    found = [find_policy(folder) for folder in folders]
    check_names(found)
    ballots = read_ballots(data, **(reading or {})) if data else ()
    asked = read_prompts(prompts) if prompts else held_out_prompts(ballots, eval_prompts)
    if not asked or samples < 1:
        raise UserError("judge: nothing to judge; give --prompts FILE, or --data FILE, and --samples 1 or more")
    sets = {"--data": prompts_of(ballots)} if ballots else {}
    sets |= {"--prompts": list(asked)} if prompts else {}
    places = [spec.where for spec in jury.specs if spec.where]
    caveats = check_overlap(sets, trained_on((), *(one.path for one in found), *places), allowed=allow_overlap)
    start = common_reference(found, reference, "judge")
    options = common_options(found) if template_options is None else template_options
    folder = Path(out)
    with only_writer(folder):
        bench = open_workbench(
            start, precision=precision, device=device, template=options, where=f"--reference {start}"
        )
        nothing = TokenSet((), {}, {})
        questions, cuts = make_questions(asked, nothing, bench.base.form, max_length, samples, max_new_tokens, None, {})
        say(f"{len(questions.prompts)} prompts; skipped or shortened: {describe_counts(cuts)}")
        judged, panel = Judged(folder, bench, questions), Panel(jury, held_out=tuple(ballots))
        info = describe(found, bench, questions, cuts, caveats) | {"judges": describe_judges(panel, judged, test=True)}
        check_apart(info["judges"], {one.record.get("reward", {}).get("sha256") for one in found})
        check_same(folder, info)
        write_json(folder / "study.json", info)
        budget = make_settings({"micro_tokens": micro_tokens, "device": device}).pass_tokens
        sample_all(folder, found, bench, questions, device, budget)
        info |= judge_study(panel, judged, meet=lambda ends: itertools.combinations(ends, 2))
        write_json(folder / "study.json", info)
        say(f"report: {write_report(folder)}")
    return read_study(folder)


def check_names(found: Sequence[PolicyFolder]) -> None:
    """Raises UserError for two policies of one name, which no table could tell apart."""
    for name, count in Counter(folder.name for folder in found).items():
        if count > 1 or name == REFERENCE:
            raise UserError(f"judge: {count} of the folders have the name {name}; rename or copy one")


def describe(
    found: Sequence[PolicyFolder], bench: Workbench, questions: Questions, cuts: Mapping[str, int], caveats: list[str]
) -> dict[str, Any]:
    """`study.json` of policies that were there already: each is an arm with one run."""
    names = [folder.name for folder in found]
    return {
        "title": f"{', '.join(names)} judged",
        "versions": versions(),
        "model": {"name": bench.base.name, "sha256": bench.base.sha256},
        "reference": {"name": bench.reference.name, "sha256": bench.reference.sha256},
        "data": {"prompts_eval": len(questions.prompts), "shortened": dict(cuts)},
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
        "caveats": caveats,
        "notes": ["These policies were there already: what is said is of them, and not of the methods that made them."],
    }


def check_same(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises UserError if the folder holds something else than this, half done."""
    if not (folder / "study.json").exists():
        return
    before = read_study(folder).info
    for name in ("reference", "settings", "arms"):
        if before[name] != info[name]:
            raise UserError(f"{folder}: holds another judging ({name} differ); name a new --out")


def sample_all(
    folder: Path, found: Sequence[PolicyFolder], bench: Workbench, questions: Questions, device: str, budget: int
) -> None:
    """The samples of the reference and of every policy, with their KL, and a row for each; what is there stays."""
    path = folder / "results.jsonl"
    done = {row.run for row in read_results(path)} if path.exists() else set()
    reference: list[Any] = []
    for one in [PolicyFolder(Path(), REFERENCE, {}), *found]:
        if one.name in done:
            continue
        base = bench.base if one.name == REFERENCE else load_policy(one, device)
        check_tokenizer(base, bench, one)
        drawn = answer(
            base.model,
            None if one.name == REFERENCE else bench.reference.alone,
            questions,
            bench.base.form,
            run=one.name,
            step=0,
            layout=bench.layout,
            precision=bench.precision,
            micro_tokens=budget,
            merged=Policy(base.model, bench.base.form).merged,
        )
        reference = reference or drawn
        method = str(one.record.get("method", "model"))
        identity: dict[str, Any] = {"arm": one.name, "method": method, "beta": None, "seed": 0}
        append_records(folder / "samples.jsonl", drawn)
        append_records(path, [summarise(drawn, reference, None, run=one.name, step=0, **identity)])
