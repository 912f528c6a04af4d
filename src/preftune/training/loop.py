"""THE training loop, shared by every method, and the order in which it sees the data."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler

from ..data import pack
from ..errors import NotFinite, UserError
from ..methods import Terms, reported
from ..model import ranks

MOST_STEPS = 10_000_000  # all of them are planned before the first
SHOWN = 8  # ballots of a step in a message


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number from 1, its micro-batches, and what its loss is divided by.

    A micro-batch is whatever the loss function takes: for ballots, their indices. A step is `whole` if training can
    be saved after it and gone on with; steps on the same samples are whole with the last of them.
    """

    number: int
    micro_batches: tuple[Any, ...]
    mass: float
    whole: bool = True


def plan_steps(
    sizes: Sequence[int],
    masses: Sequence[float],
    *,
    batch_size: int,
    micro_tokens: int,
    seed: int,
    epochs: float = 1,
    steps: int | None = None,
    world: int = 1,
) -> list[Step]:
    """Which ballots each optimiser step sees, a function of its arguments only, so that a resumed run goes on alike.

    Every epoch is a new shuffle of all ballots, cut into batches of `batch_size`; the last one is smaller rather than
    dropped. `steps` sets the number of steps and goes over `epochs`, in as many epochs as it takes. The number of
    processes, `world`, changes how batches are cut into micro-batches, and nothing else.
    """
    count = len(sizes)
    per_epoch = math.ceil(count / batch_size)
    total = math.ceil(epochs * per_epoch) if steps is None else steps
    if total > MOST_STEPS:
        given = f"--epochs {epochs:g}" if steps is None else f"--steps {steps}"
        raise UserError(f"{given}: would be {total:g} steps; the most is {MOST_STEPS:,}")
    plan = []
    order: list[int] = []
    for number in range(1, total + 1):
        epoch, position = divmod(number - 1, per_epoch)
        if position == 0:
            order = random.Random(f"{seed}/{epoch}").sample(range(count), count)
        batch = order[position * batch_size : (position + 1) * batch_size]
        own = [sizes[i] for i in batch]
        groups = even_groups(pack(own, micro_tokens), own, world)
        micro_batches = tuple(tuple(batch[i] for i in sorted(group)) for group in groups)
        plan.append(Step(number, micro_batches, sum(masses[i] for i in batch)))
    return plan


def even_groups(groups: Sequence[Sequence[int]], sizes: Sequence[int], world: int) -> list[list[int]]:
    """Micro-batches for so many processes, which each take one in every round.

    The largest are cut in two until there is one for everybody in each round, or nothing is left to cut, and those of
    about the same size are in the same round, so that nobody waits long.
    """
    found = [list(group) for group in groups]
    if world == 1:
        return found

    def size(group: Sequence[int]) -> int:
        return sum(sizes[i] for i in group)

    while len(found) % world and (wide := [group for group in found if len(group) > 1]):
        largest = max(wide, key=size)
        found.remove(largest)
        halves: tuple[list[int], list[int]] = ([], [])
        for index in sorted(largest, key=lambda i: (-sizes[i], i)):
            min(halves, key=size).append(index)
        found += halves
    return sorted(found, key=lambda group: (-size(group), group))


def run_loop(
    plan: Iterable[Step],
    loss_of: Callable[[Any], Terms],
    *,
    optimizer: AdamW,
    scheduler: LRScheduler,
    parameters: Sequence[nn.Parameter],
    clip_norm: float,
    tokens_of: Callable[[Any], int],
    after_step: Callable[[Step, Mapping[str, float]], None],
) -> None:
    """Train: for every step accumulate its micro-batches, each loss divided by the mass of the whole step, and move.

    The gradient is therefore the same however a step is cut into micro-batches, and by however many processes.
    `loss_of` maps a micro-batch to a
    summed loss; `after_step` gets the step's metrics (log, save, evaluate) and may raise to stop. Raises NotFinite,
    naming the step and its ballots, before weights move by a loss or a gradient that is not finite.
    """
    for step in plan:
        start = time.perf_counter()
        sums: dict[str, Any] = defaultdict(float)
        own = ranks().own(step.micro_batches)
        for number, (micro_batch, counts) in enumerate(own, 1):
            with told(step):
                terms = loss_of(micro_batch)
            ranks().accumulate(last=number == len(own))
            ((terms.loss if counts else terms.loss * 0) / step.mass).backward()
            for name, value in {**terms.sums, "loss": reported(terms.loss)}.items():
                sums[name] += value if counts else 0 * value
        grad_norm = ranks().clip(parameters, clip_norm)
        totals = ranks().summed({name: float(value) for name, value in sums.items()})
        for what, value in (("loss", totals["loss"]), ("gradient", grad_norm)):
            if not math.isfinite(value):
                raise NotFinite(diverged(step, f"the {what} is not finite"))
        rate = float(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        tokens = sum(map(tokens_of, step.micro_batches))
        seconds = time.perf_counter() - start
        weight = totals.pop("weight")
        metrics = {name: total / (step.mass if name == "loss" else weight) for name, total in totals.items()}
        speed = {"tokens": tokens, "tokens_per_second": tokens / seconds}
        after_step(step, metrics | {"grad_norm": grad_norm, "lr": rate} | speed)


@contextmanager
def told(step: Step) -> Iterator[None]:
    """What is not finite within it is told with the step. At the first one nothing has been trained yet."""
    try:
        yield
    except NotFinite as error:
        if step.number == 1:
            raise
        raise NotFinite(diverged(step, str(error).partition("; ")[0])) from None


def diverged(step: Step, what: str) -> str:
    """What is not finite, at which step and on which ballots, and what to do."""
    groups = [micro_batch for micro_batch in step.micro_batches if isinstance(micro_batch, tuple)]
    seen = [i for group in groups for i in group if isinstance(i, int)]
    places = ", ".join(map(str, seen[:SHOWN])) + ", …" * (len(seen) > SHOWN)
    where = f" (ballots {places} of those that are trained on, from 0)" if seen else ""
    return f"step {step.number}{where}: {what}; lower --lr, look at --beta and the weights of votes, or use fp32"


def linear_schedule(optimizer: AdamW, *, warmup: float, steps: int, done: int = 0) -> LRScheduler:
    """The learning rate rises over the first `warmup` share of the steps and falls linearly to 0 at the end.

    `done` steps are over already: the schedule goes on from there.
    """
    rising = max(1, round(warmup * steps))

    def factor(number: int) -> float:
        index = done + number
        return min((index + 1) / rising, (steps - index) / max(1, steps - rising), 1.0) if index < steps else 0.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
