"""Token ids to one tensor layout for every method: a prompt once, then its responses as branches.

Shapes: R rows, T tokens in a row, N predicted tokens, B responses ("branches").

`branch` layout: one row without padding; each prompt is followed by its responses, a response sees its prompt and
itself, and its positions continue from the end of the prompt. `padded` layout: one right-padded row per response, the
prompt repeated; for architectures that cannot take the first, and the oracle for it in tests. Both answer the same
question, so everything downstream reads only `source_N`, `target_N`, `branch_N` and `last_B`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Nothing waits for a GPU to have it, which would first end all that it has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Branches(Protocol):
    """A prompt and the responses that continue it, as token ids."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def responses(self) -> Sequence[Sequence[int]]: ...


@dataclass(frozen=True)
class BranchBatch:
    """Token ids laid out for one forward pass, and where the response tokens are predicted."""

    ids_RT: Tensor
    positions_RT: Tensor
    source_N: Tensor  # index into the R·T hidden states of the one that predicts each response token
    target_N: Tensor  # the response token
    branch_N: Tensor  # the response that it belongs to, in order of ballots and of responses within them
    last_B: Tensor  # index into the R·T hidden states of each response's last token
    branches: int
    plan: BranchPlan | None  # how the branch layout attends; None: padded
    padding_RT: Tensor | None  # padded layout: 1 for a token, 0 for padding

    @property
    def unique_tokens(self) -> int:
        """Tokens that the model runs over, padding excluded."""
        return self.ids_RT.numel() if self.padding_RT is None else int(self.padding_RT.sum())

    def lengths_B(self) -> Tensor:
        """Number of predicted tokens of each response."""
        ones_N = torch.ones_like(self.branch_N)
        return ones_N.new_zeros(self.branches).index_add(0, self.branch_N, ones_N)  # bincount would wait for a GPU

    def to(self, device: torch.device) -> BranchBatch:
        """The same batch on another device."""
        if self.ids_RT.device == device:
            return self
        moved = {name: sent(value, device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        plan = None if self.plan is None else self.plan.to(device)
        return BranchBatch(**{**vars(self), **moved, "plan": plan})


class BranchPlan:
    """Where each prompt with its branches lies in the row, and what sees what there.

    A plain object on purpose: hooks that rebuild containers of tensors (sharding) pass it through untouched.
    `spans` are (start, end of the prompt, end) of each ballot, `lengths` those of its branches; `segment_T` is 0 on a
    prompt, k on its k-th branch. `by_ballot` keeps attention from taking all ballots in one call; `refusals` are the
    reasons for which it did not; `varlen` is what it keeps here of that call.
    """

    def __init__(
        self,
        spans: tuple[tuple[int, int, int], ...],
        lengths: tuple[tuple[int, ...], ...],
        segment_T: Tensor,
        positions_T: Tensor | None,
        *,
        by_ballot: bool = False,
    ) -> None:
        self.spans = spans
        self.lengths = lengths
        self.segment_T = segment_T
        self.positions_T = positions_T if positions_T is not None else _positions(spans, lengths)
        self.by_ballot = by_ballot
        self.refusals: set[str] = set()
        self.varlen: Any = None
        self._masks: dict[tuple[int, int, int, int | None], Tensor] = {}

    def to(self, device: torch.device) -> BranchPlan:
        """The same plan on another device."""
        moved = sent(self.segment_T, device), sent(self.positions_T, device)
        return BranchPlan(self.spans, self.lengths, *moved, by_ballot=self.by_ballot)

    @property
    def windows(self) -> set[int | None]:
        """The windows that were asked for so far."""
        return {window for *_, window in self._masks}

    def visible(self, start: int, stop: int, first_query: int, window: int | None) -> Tensor:
        """Boolean `[stop − first_query, stop − start]`: may the token in row i of the queries see key j.

        Keys run from `start`, queries from `first_query`, both to `stop`, within one ballot. `window` counts by
        position, so that a branch's window reaches back into its prompt as in a sequence of its own.
        """
        key = (start, stop, first_query, window)
        if key not in self._masks:
            self._masks[key] = self._visible(slice(first_query, stop), slice(start, stop), window)
        return self._masks[key]

    def _visible(self, queries: slice, keys: slice, window: int | None) -> Tensor:
        segment_q, segment_k = self.segment_T[queries, None], self.segment_T[None, keys]
        distance = self.positions_T[queries, None] - self.positions_T[None, keys]
        seen = ((segment_k == 0) | (segment_k == segment_q)) & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    def dense(self) -> Tensor:
        """Boolean `[T, T]` mask of the whole row, for attention that takes a mask but no plan."""
        length = self.segment_T.numel()
        mask = torch.zeros(length, length, dtype=torch.bool, device=self.segment_T.device)
        for start, _, stop in self.spans:
            mask[start:stop, start:stop] = self.visible(start, stop, start, None)
        return mask


def _positions(spans: Sequence[tuple[int, int, int]], lengths: Sequence[Sequence[int]]) -> Tensor:
    runs = [
        torch.arange(first, first + length)
        for (start, middle, _), branches in zip(spans, lengths, strict=True)
        for first, length in ((0, middle - start), *((middle - start, length) for length in branches))
    ]
    return torch.cat(runs)


def branch_layout(ballots: Sequence[Branches], *, by_ballot: bool = False) -> BranchBatch:
    """One row without padding: every prompt once, followed by its branches. `by_ballot`: as in `BranchPlan`."""
    ids: list[int] = []
    segments: list[int] = []
    spans, sources, ends = [], [], []
    for ballot in ballots:
        start = len(ids)
        ids += ballot.prompt
        segments += [0] * len(ballot.prompt)
        middle = len(ids)
        for number, response in enumerate(ballot.responses, 1):
            first = len(ids)
            sources += [middle - 1, *range(first, first + len(response) - 1)]
            ids += response
            ends.append(len(ids) - 1)
            segments += [number] * len(response)
        spans.append((start, middle, len(ids)))
    lengths = tuple(tuple(map(len, ballot.responses)) for ballot in ballots)
    plan = BranchPlan(tuple(spans), lengths, torch.tensor(segments), None, by_ballot=by_ballot)
    return BranchBatch(
        ids_RT=torch.tensor([ids]),
        positions_RT=plan.positions_T[None],
        source_N=torch.tensor(sources),
        last_B=torch.tensor(ends),
        **_targets(ballots),
        plan=plan,
        padding_RT=None,
    )


def padded_layout(ballots: Sequence[Branches]) -> BranchBatch:
    """One right-padded row per response, its prompt before it. Padding is told by position, never by token value."""
    rows = [[*ballot.prompt, *response] for ballot in ballots for response in ballot.responses]
    starts = [len(ballot.prompt) for ballot in ballots for _ in ballot.responses]
    width = max(map(len, rows))
    padding = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return BranchBatch(
        ids_RT=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        positions_RT=torch.arange(width).expand(len(rows), -1) * padding,
        source_N=torch.tensor(
            [r * width + t for r, row in enumerate(rows) for t in range(starts[r] - 1, len(row) - 1)]
        ),
        last_B=torch.tensor([r * width + len(row) - 1 for r, row in enumerate(rows)]),
        **_targets(ballots),
        plan=None,
        padding_RT=padding,
    )


def _targets(ballots: Sequence[Branches]) -> dict[str, Any]:
    responses = [response for ballot in ballots for response in ballot.responses]
    return {
        "target_N": torch.tensor([token for response in responses for token in response]),
        "branch_N": torch.tensor([b for b, response in enumerate(responses) for _ in response]),
        "branches": len(responses),
    }


def pack(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Group items into micro-batches of at most `budget` tokens, similar lengths together; deterministic.

    Longest first, each into the fullest group that still has room (best fit). An item larger than the budget makes a
    group of its own. Returns groups of indices into `sizes`.
    """
    groups: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fitting = [g for g, free in enumerate(room) if free >= sizes[index]]
        if fitting:
            best = min(fitting, key=lambda g: (room[g], g))
            groups[best].append(index)
            room[best] -= sizes[index]
        else:
            groups.append([index])
            room.append(budget - sizes[index])
    return groups
