"""What one step of each kind of a study's work takes here: measured through the code that does the work, in a
temporary folder, nothing of it kept.

What is timed was done once before: the first time, memory is asked for and kernels are chosen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from ..data import BranchBatch, TokenBallot
from ..errors import Interrupted
from ..model import Workbench, fill_store, last_states, return_freed_memory
from ..training import AnyTraining, PromptTraining, train_any
from .questions import Questions
from .rewards import reference_rollouts

MICRO_BATCHES = 4  # of a step, and of the reference, are timed at most
STEPS = 3  # on votes are timed, of which the median counts: other work may come between
RESPONSES = 64  # sampled at once are timed at most; a whole batch of the study may be larger, and then takes less each


@dataclass(frozen=True)
class Probe:
    """Seconds on this machine: `forward` per token of the reference's log-probs, `logprob` per log-prob, `sampling` per
    sampled response, `training` per unit of `work` of each arm. `answer` is the tokens of a prompt with its sampled
    responses as they are laid out; `memory` the peak in bytes, of the process or of the GPU."""

    forward: float
    logprob: float
    sampling: float
    answer: float
    training: Mapping[str, float]
    memory: int
    device: str


def work(bench: Workbench, training: AnyTraining) -> int:
    """What the time of a training is proportional to: tokens through the policy, or prompts that are sampled from."""
    return sum(_work_of(bench, training, part) for step in training.plan for part in step.micro_batches)


def _work_of(bench: Workbench, training: AnyTraining, indices: Sequence[int]) -> int:
    if isinstance(training, PromptTraining):
        return len(indices)
    return sum(bench.layout.size(training.ballots[i]) for i in indices)


def probe(
    bench: Workbench,
    trainings: Mapping[str, tuple[AnyTraining, float | None]],
    ballots: Sequence[TokenBallot],
    questions: Questions,
    micro_tokens: int,
) -> Probe:
    """Measure; `trainings` are what the first run of each arm trains on, and its β, `ballots` those of the data.

    Raises Interrupted after a request to stop, and UserError for what would stop a run at its first steps.
    """
    with TemporaryDirectory(prefix="preftune-plan-") as temporary:
        folder = Path(temporary)
        if bench.base.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.base.device)
        forward, logprob = _reference(bench, ballots, micro_tokens, folder)
        sampling, answer = _sampling(bench, questions)
        training = {}
        for place, (arm, (planned, beta)) in enumerate(trainings.items()):
            try:
                training[arm] = _training(bench, planned, beta, folder / str(place), arm)
            except Interrupted:  # which says where its state is saved: in a folder that goes with this
                raise Interrupted("stopped; nothing is kept of a probe") from None
            return_freed_memory()
    return Probe(forward, logprob, sampling, answer, training, peak_memory(bench), str(bench.base.device))


def _fresh(bench: Workbench, folder: Path) -> Workbench:
    """The workbench with an empty store of its own, so that what is computed is not read."""
    return replace(bench, store=type(bench.store)(folder, bench.store.key))


def _reference(
    bench: Workbench, ballots: Sequence[TokenBallot], micro_tokens: int, folder: Path
) -> tuple[float, float]:
    """Seconds per token and per log-prob of the reference."""
    groups = [[ballots[i] for i in group] for group in bench.layout.groups(ballots, micro_tokens)[:MICRO_BATCHES]]
    tokens = sum(bench.layout.size(ballot) for group in groups for ballot in group)
    responses = sum(len(ballot.responses) for group in groups for ballot in group)
    seconds = 0.0
    for name in ("first", "second"):
        store = _fresh(bench, folder / name).store
        started = _now(bench)
        fill_store(store, bench.reference, groups, layout=bench.layout, precision=bench.precision)
        seconds = _now(bench) - started
    return seconds / max(tokens, 1), seconds / max(responses, 1)


def _sampling(bench: Workbench, questions: Questions) -> tuple[float, float]:
    """Seconds per sampled response of one batch, and tokens of a prompt with its responses."""
    if not questions.prompts:
        return 0.0, 0.0
    count = max(1, RESPONSES // questions.samples)
    asked = replace(questions, prompts=questions.prompts[:count])
    reference_rollouts(bench, replace(asked, prompts=asked.prompts[:1], max_new_tokens=2), 1, "plan")
    started = _now(bench)
    rollouts = reference_rollouts(bench, asked, questions.samples, "plan")
    seconds = _now(bench) - started
    tokens = sum(bench.layout.size(rollout.ballot) for rollout in rollouts)
    return seconds / (len(rollouts) * questions.samples), tokens / len(rollouts)


def _training(bench: Workbench, training: AnyTraining, beta: float | None, folder: Path, arm: str) -> float:
    """Seconds per unit of `work`, from steps of real training. The first one, which is not timed, has the micro-batch
    with the most tokens, for the peak of memory."""
    first = training.plan[0]
    if isinstance(training, PromptTraining):  # the second step samples for itself, which is work enough
        timed, whole, largest = 1, first.micro_batches, first.micro_batches[0][:1]
    else:
        every = (part for step in training.plan for part in step.micro_batches)
        timed, whole = STEPS, first.micro_batches[:MICRO_BATCHES]
        largest = max(every, key=lambda part: _work_of(bench, training, part))
    steps = tuple(
        replace(first, number=number, micro_batches=parts, mass=_mass(training, parts))
        for number, parts in enumerate([(largest,), *[whole] * timed], start=1)
    )
    short: AnyTraining = replace(with_targets(training), plan=steps)
    times: list[float] = []
    policy = train_any(
        _fresh(bench, folder),
        short,
        Placeholder(bench),
        beta=beta,
        seed=0,
        folder=folder,
        resume=False,
        description=f"{arm}: probe",
        at_checkpoint=lambda step, policy: times.append(_now(bench)),
        checkpoints=len(steps),
    )
    policy.close()
    seconds = median(after - before for before, after in pairwise(times))
    return seconds / sum(_work_of(bench, training, part) for part in whole)


def _mass(training: AnyTraining, parts: Sequence[Sequence[int]]) -> float:
    if isinstance(training, PromptTraining):
        return float(sum(map(len, parts)))
    return float(sum(training.method.mass(training.ballots[i]) for part in parts for i in part))


def with_targets(training: AnyTraining) -> AnyTraining:
    """The training with a target of v = ½ for every vote, where a preference is to be fitted that is not there yet: a
    step costs the same."""
    if isinstance(training, PromptTraining) or training.method.needs != "preference":
        return training
    ballots = tuple(replace(ballot, logits=(0.0,) * len(ballot.votes)) for ballot in training.ballots)
    return replace(training, ballots=ballots)


@dataclass(frozen=True)
class Placeholder:
    """In the place of a reward model that is not fitted yet: it costs a forward pass of the reference, and says nothing
    of value."""

    bench: Workbench
    sha256: str = "probe"

    @torch.no_grad()
    def scores(self, batch: BranchBatch) -> Tensor:
        """A number of every response, `[B]`."""
        with self.bench.reference.alone() as model:
            return last_states(model, batch, self.bench.precision).mean(-1)


def _now(bench: Workbench) -> float:
    """The time when all that was asked of the device is done, in seconds."""
    if bench.base.device.type == "cuda":
        torch.cuda.synchronize(bench.base.device)
    return time.perf_counter()


def peak_memory(bench: Workbench) -> int:
    """The most bytes that tensors had on the GPU since the probe began, or that the process ever had in main memory; 0
    where nobody counts."""
    if bench.base.device.type == "cuda":
        return torch.cuda.max_memory_allocated(bench.base.device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
