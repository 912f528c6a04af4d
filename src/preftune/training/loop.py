"""THE training loop, shared by every method, and the order in which it sees the data."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler

from ..data import pack
from ..errors import UserError
from ..methods import Terms, reported


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
) -> list[Step]:
    """Which ballots each optimiser step sees, a function of its arguments only, so that a resumed run goes on alike.

    Every epoch is a new shuffle of all ballots, cut into batches of `batch_size`; the last one is smaller rather than
    dropped. `steps` sets the number of steps and goes over `epochs`, in as many epochs as it takes.
    """
    count = len(sizes)
    per_epoch = math.ceil(count / batch_size)
    total = math.ceil(epochs * per_epoch) if steps is None else steps
    plan = []
    order: list[int] = []
    for number in range(1, total + 1):
        epoch, position = divmod(number - 1, per_epoch)
        if position == 0:
            order = random.Random(f"{seed}/{epoch}").sample(range(count), count)
        batch = order[position * batch_size : (position + 1) * batch_size]
        groups = pack([sizes[i] for i in batch], micro_tokens)
        micro_batches = tuple(tuple(batch[i] for i in sorted(group)) for group in groups)
        plan.append(Step(number, micro_batches, sum(masses[i] for i in batch)))
    return plan


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

    The gradient is therefore the same however a step is cut into micro-batches. `loss_of` maps a micro-batch to a
    summed loss; `after_step` gets the step's metrics (log, save, evaluate) and may raise to stop.
    """
    for step in plan:
        start = time.perf_counter()
        sums: dict[str, Any] = defaultdict(float)
        for micro_batch in step.micro_batches:
            terms = loss_of(micro_batch)
            (terms.loss / step.mass).backward()
            for name, value in {**terms.sums, "loss": reported(terms.loss)}.items():
                sums[name] += value
        grad_norm = float(nn.utils.clip_grad_norm_(parameters, clip_norm))
        if not math.isfinite(grad_norm):
            raise UserError(f"step {step.number}: the gradient is not finite; lower --lr, or use fp32")
        rate = float(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        tokens = sum(map(tokens_of, step.micro_batches))
        seconds = time.perf_counter() - start
        totals = {name: float(value) for name, value in sums.items()}
        weight = totals.pop("weight")
        metrics = {name: total / (step.mass if name == "loss" else weight) for name, total in totals.items()}
        speed = {"tokens": tokens, "tokens_per_second": tokens / seconds}
        after_step(step, metrics | {"grad_norm": grad_norm, "lr": rate} | speed)


def linear_schedule(optimizer: AdamW, *, warmup: float, steps: int, done: int = 0) -> LRScheduler:
    """The learning rate rises over the first `warmup` share of the steps and falls linearly to 0 at the end.

    `done` steps are over already: the schedule goes on from there.
    """
    rising = max(1, round(warmup * steps))

    def factor(number: int) -> float:
        index = done + number
        return min((index + 1) / rising, (steps - index) / max(1, steps - rising), 1.0) if index < steps else 0.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
