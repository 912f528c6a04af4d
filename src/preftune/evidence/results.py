"""The records of a study folder, read and written: `study.json`, `results.jsonl`, `samples.jsonl`, metrics.

Everything in a report can be computed again from these files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..errors import UserError
from .judgements import CONTROLS, JUDGEMENTS_FILE, OPPONENTS_FILE, PEOPLE_FILE, HumanVote, Judgement
from .rows import Lines, latest, load_json, read_file, read_lines, real
from .shapes import SHAPES, misfit

REFERENCE = "reference"  # the run id and arm of the frozen start: its row has step 0
STUDY_FILE = "study.json"
RESULTS_FILE = "results.jsonl"
SAMPLES_FILE = "samples.jsonl"
METRICS_FILE = "metrics.jsonl"
RUNS_FOLDER = "runs"
# what study.json holds, with the value of what it leaves out; `gold` is null or an object with a name
_EMPTY_INFO: dict[str, Any] = {
    "title": "",
    "command": "",
    "created": "",
    "versions": {},
    "machine": {},
    "model": {},
    "reference": {},
    "data": {},
    "settings": {},
    "arms": [],
    "betas": [],
    "arm_betas": {},
    "seeds": [],
    "noises": [0.0],
    "steps": {},
    "budgets": {},  # what each run cost, by run
    "preferences": {},  # what amortized IPO was told by, by run
    "reward": {},  # the learned reward: its kind, and what each one is worth
    "calibration": {},  # bins of predicted and observed held-out votes, by run
    "search": {},  # for the β of arms that were given none: what was tried, and why
    "looks": {},  # the predeclared looks of a study that goes on until its verdict, and those that are done
    "answered": "",  # the sentence that whoever made the study was told at its end
    "grown": [],  # what was added by hand after that
    "opinions": {},
    "addressed": {},  # how many of a run's responses seem to speak to a judge, by run
    "judges": [],  # who compared samples: name, description, what its opinions depend on, how it agrees with votes
    "targets": {},
    "pilots": {},  # what chose the learning rate of an arm, by arm
    "notes": [],
    "caveats": [],
    "seconds": {},
    "failed": {},  # why, by run
    "gold": None,
    "runs": "",  # "exchangeable" where what is random in a run is its own; before 0.3 the runs of a seed shared it
    "arithmetic": 0,  # how reference log-probs were computed and stored; studies of before 0.2 do not tell
}
LARGEST = 1e100  # of a KL or a reward: the square of a larger one is no number
LONGEST_NAME = 300  # characters of a run, an arm or a gold reward
_KINDS: dict[type, str] = {str: "text", list: "list", dict: "object", int: "whole number"}
SELECTION = "best-of-n"
WITHOUT_BETA = ("sft", SELECTION)
TRUSTED_ARITHMETIC = 3
HELD_OUT = ("accuracy", "accuracy_se", "log_loss", "log_loss_se", "validation", "validation_se")
AGAINST_A_POLICY = (
    "This study trained adapters with a version of before 0.2, which measured held-out votes against its first policy "
    "and not against the reference: its accuracies and log-losses are left out. preftune evaluate measures them anew."
)


@dataclass(frozen=True)
class Result:
    """One run at one checkpoint, on the held-out prompts and ballots. Means over prompts; `_se` is their standard
    error, clustered by prompt. `None` where a quantity does not exist (no gold: no reward; the reference: no β)."""

    run: str  # folder name under runs/, or "reference"
    arm: str
    method: str
    beta: float | None
    seed: int
    step: int
    noise: float = 0.0  # the rate at which the votes that it learned from were flipped
    reward: float | None = None  # gold or judge, in its own units
    reward_se: float | None = None
    gain: float | None = None  # reward minus the reference's on the same prompts (paired)
    gain_se: float | None = None
    win_rate: float | None = None  # against the reference's samples on the same prompts, ties one half
    win_rate_se: float | None = None
    kl: float | None = None  # KL(policy || reference), nats per response
    kl_se: float | None = None
    length: float | None = None  # tokens per sampled response, end-of-text included
    length_se: float | None = None
    ended: float | None = None  # share of samples that ended before --max-new-tokens
    accuracy: float | None = None  # share of held-out vote weight that agrees with the sign of the margin, ties half
    accuracy_se: float | None = None
    log_loss: float | None = None  # nats per vote of σ(c·Δlog-ratio), c cross-fitted on the other half of the prompts
    log_loss_se: float | None = None
    validation: float | None = None  # log-loss, as above, on votes that were taken out of the training ones
    validation_se: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)  # further means, e.g. a second opinion, each with `_se`


@dataclass(frozen=True)
class Sample:
    """One sampled response of one run at one checkpoint. Its text is untrusted."""

    run: str
    step: int
    prompt_id: int
    prompt: str
    sample: int
    response: str
    tokens: int
    ended: bool
    kl: float  # nats, summed over the response's steps
    reward: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


Asked = tuple[str, float | None, int, float]  # arm, β, seed, noise


@dataclass(frozen=True)
class StudyRecord:
    """A study folder as read: `info` is study.json; `metrics` has the optimiser steps of each run, by run id.

    `notes` say in plain words what could not be read, so that a page drawn from an interrupted study says so. `asked`
    are the runs that were asked for, where they are not all combinations of what `info` has. `judgements` are what
    judges said of samples, `opponents` the samples of what runs were judged against, and of the controls, `people` the
    votes of people.
    """

    folder: Path
    info: Mapping[str, Any]
    results: tuple[Result, ...]
    samples: tuple[Sample, ...]
    metrics: Mapping[str, tuple[Mapping[str, float], ...]]
    notes: tuple[str, ...] = ()
    asked: tuple[Asked, ...] | None = None
    judgements: tuple[Judgement, ...] = ()
    opponents: tuple[Sample, ...] = ()
    people: tuple[HumanVote, ...] = ()

    def noises(self) -> tuple[float, ...]:
        """The rates of label noise that were asked for or have been evaluated."""
        return tuple(dict.fromkeys([*map(float, self.info["noises"]), *(row.noise for row in self.trained())]))

    def at_noise(self, noise: float) -> StudyRecord:
        """The study as if it had this rate of label noise alone."""
        results = tuple(row for row in self.results if row.run == REFERENCE or row.noise == noise)
        runs = {row.run for row in results}
        return replace(
            self,
            info={**self.info, "noises": [noise]},
            results=results,
            samples=tuple(sample for sample in self.samples if sample.run in runs),
            metrics={run: steps for run, steps in self.metrics.items() if run in runs},
            asked=self.asked and tuple(run for run in self.asked if run[3] == noise),
            judgements=tuple(one for one in self.judgements if one.run in {*runs, *CONTROLS}),
            people=tuple(vote for vote in self.people if vote.run in runs),
        )

    def expected(self) -> tuple[Asked, ...]:
        """(arm, β, seed, noise) of every run that was asked for; an arm without β has one run per seed."""
        if self.asked is not None:
            return self.asked
        return tuple(
            (arm, beta, seed, float(noise))
            for arm in self.info["arms"]
            for beta in self.betas_of(arm)
            for seed in self.info["seeds"]
            for noise in self.info["noises"]
        )

    def betas_of(self, arm: str) -> tuple[float | None, ...]:
        """The β of an arm's runs: its own, or the study's where it says no more; (None,) if its method has none."""
        if arm.split("[")[0] in WITHOUT_BETA or any(row.arm == arm and row.beta is None for row in self.results):
            return (None,)
        return tuple(self.info.get("arm_betas", {}).get(arm, self.info["betas"]))

    def trained(self) -> tuple[Result, ...]:
        """The rows of the runs, the reference left out."""
        return tuple(row for row in self.results if row.run != REFERENCE)

    def reference(self) -> Result | None:
        """The row of the frozen start, if it has been evaluated."""
        return next((row for row in self.results if row.run == REFERENCE), None)

    def finals(self) -> tuple[Result, ...]:
        """The last evaluated checkpoint of each run, in the order of the file."""
        last: dict[str, Result] = {}
        for row in self.trained():
            if row.run not in last or row.step > last[row.run].step:
                last[row.run] = row
        return tuple(last.values())

    def ends(self) -> tuple[Result, ...]:
        """The rows of finished runs at their end, and every row of a selection (best-of-n)."""
        chosen = tuple(row for row in self.trained() if row.method == SELECTION)
        finished = (row for row in self.finals() if row.step >= self.last_step(row.arm) and row.method != SELECTION)
        return (*finished, *chosen)

    def last_step(self, arm: str) -> int:
        """The step at which the arm's runs end; by default, that of the longest run."""
        longest = max((row.step for row in self.trained() if row.method != SELECTION), default=0)
        return int(self.info["steps"].get(arm, longest))

    def unfinished(self) -> tuple[Asked, ...]:
        """The expected runs that have not reached their arm's last step (by default, that of the longest run)."""
        finals = [row for row in self.finals() if row.step >= self.last_step(row.arm)]
        done = {(row.arm, row.beta, row.seed, row.noise) for row in finals}
        return tuple(key for key in self.expected() if key not in done)


def read_results(path: Path) -> tuple[Result, ...]:
    """The rows of `results.jsonl`; a later line on the same run and step replaces an earlier one.

    Raises UserError that names the file and line of anything that is no Result.
    """
    return _results(read_lines(path)[0], path)


def read_samples(path: Path) -> tuple[Sample, ...]:
    """The rows of `samples.jsonl`; a later line on the same run, step, prompt and sample replaces an earlier one.

    Raises UserError that names the file and line of anything that is no Sample.
    """
    return _samples(read_lines(path)[0], path)


def read_metrics(path: Path) -> tuple[Mapping[str, float], ...]:
    """One mapping per optimiser step, in file order; a later line on the same step replaces an earlier one.

    Raises UserError that names the file and line of anything that is no mapping from names to numbers.
    """
    return _metrics(read_lines(path)[0], path)


def read_info(folder: Path) -> Mapping[str, Any]:
    """What `study.json` says. Raises UserError if the folder is no study."""
    return _read_info(folder / STUDY_FILE)


def read_study(folder: Path) -> StudyRecord:
    """Everything in a study folder. An interrupted study reads as far as it went; `notes` say what is cut off.

    Raises UserError if the folder is no study, or for a line that is no record.
    """
    info = read_info(folder)
    metrics_paths = sorted((folder / RUNS_FOLDER).glob(f"*/{METRICS_FILE}"))
    paths = [folder / RESULTS_FILE, folder / SAMPLES_FILE, *metrics_paths]
    judged = [folder / name for name in (JUDGEMENTS_FILE, OPPONENTS_FILE, PEOPLE_FILE)]
    content = {path: read_lines(path) if path.exists() else ([], False) for path in [*paths, *judged]}
    torn = [path.relative_to(folder) for path, (_, cut) in content.items() if cut]
    results = _results(content[paths[0]][0], paths[0])
    notes = [f"The last line of {name} was cut off by an interruption and is left out." for name in torn]
    if measured_against_a_policy(info):
        nothing: dict[str, Any] = dict.fromkeys(HELD_OUT)
        results = tuple(replace(row, **nothing) if row.run != REFERENCE else row for row in results)
        notes.append(AGAINST_A_POLICY)
    return StudyRecord(
        folder=folder,
        info=info,
        results=results,
        samples=_samples(content[paths[1]][0], paths[1]),
        metrics={path.parent.name: _metrics(content[path][0], path) for path in metrics_paths},
        notes=tuple(notes),
        judgements=latest(Judgement, content[judged[0]][0], judged[0], attrgetter("contest")),
        opponents=_samples(content[judged[1]][0], judged[1]),
        people=latest(HumanVote, content[judged[2]][0], judged[2], attrgetter("where")),
    )


def read_judgements(path: Path) -> tuple[Judgement, ...]:
    """The rows of `judgements.jsonl`; a later line on the same contest replaces an earlier one.

    Raises UserError that names the file and line of anything that is no Judgement.
    """
    return latest(Judgement, read_lines(path)[0], path, attrgetter("contest"))


def measured_against_a_policy(info: Mapping[str, Any]) -> bool:
    """Whether a study's held-out log-ratios may be against its first policy: it has adapters and is of before 0.2.

    Such a study took the reference log-probs of held-out votes from the shared model, the first run's adapter in it.
    """
    adapted = info["settings"].get("lora") or any(re.search(r"\blora=[1-9]", arm) for arm in info["arms"])
    return bool(adapted) and info["arithmetic"] < TRUSTED_ARITHMETIC


def _read_info(path: Path) -> Mapping[str, Any]:
    try:
        info = load_json(read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path.parent} is no study folder: it has no {path.name}; `preftune compare` makes one"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}); put a copy of it back, or begin again with a new --out"
        ) from None
    if not isinstance(info, dict):
        raise UserError(f"{path} should hold one JSON object")
    for name, empty in _EMPTY_INFO.items():
        if name != "gold" and not isinstance(info.get(name, empty), type(empty)):
            raise UserError(f"{path}: `{name}` should be of the kind {_KINDS[type(empty)]}, got {info[name]!r:.60}")
    for name, kinds in (("arms", (str,)), ("betas", (int, float)), ("seeds", (int,)), ("noises", (int, float))):
        if name not in info and name != "noises":  # which a study without label noise need not tell
            raise UserError(f"{path}: `{name}` is missing; it says which runs the study has")
        if strange := [item for item in info.get(name, ()) if type(item) not in kinds]:
            raise UserError(f"{path}: `{name}` holds {strange[0]!r:.60}, which is no {kinds[-1].__name__}")
    for name, shape in SHAPES.items():
        if info.get(name) and (problem := misfit(info[name], shape, name)):
            raise UserError(f"{path}: {problem}")
    _check_names({"gold.name": (info.get("gold") or {}).get("name")}, str(path))
    for arm in info["arms"]:
        _check_names({"arms": arm}, str(path))
    return _EMPTY_INFO | info


def _check_names(named: Mapping[str, Any], where: str) -> None:
    """Raises UserError for a name that is no name: charts and tables would be as wide as it is."""
    for name, value in named.items():
        if isinstance(value, str) and len(value) > LONGEST_NAME:
            raise UserError(f"{where}: `{name}` has {len(value)} characters; a name has {LONGEST_NAME} at most")


def _results(lines: Lines, path: Path) -> tuple[Result, ...]:
    for number, row in lines:
        _check_names({name: row.get(name) for name in ("run", "arm", "method")}, f"{path}, line {number}")
    return latest(Result, lines, path, attrgetter("run", "step"))


def _samples(lines: Lines, path: Path) -> tuple[Sample, ...]:
    for number, row in lines:
        for name in ("kl", "reward"):
            value: Any = row.get(name)
            if type(value) in (int, float) and LARGEST < abs(value) < math.inf:
                raise UserError(f"{path}, line {number}: `{name}` is {float(value):g}, beyond {LARGEST:g}")
    return latest(Sample, lines, path, attrgetter("run", "step", "prompt_id", "sample"))


def _metrics(lines: Lines, path: Path) -> tuple[Mapping[str, float], ...]:
    steps: dict[float, Mapping[str, float]] = {}
    for number, row in lines:
        where = f"{path}, line {number}"
        if "step" not in row:
            raise UserError(f"{where}: `step` is missing; each line needs the number of its optimiser step")
        values = {name: real(value, where, name) for name, value in row.items()}
        steps[values["step"]] = values
    return tuple(steps.values())
