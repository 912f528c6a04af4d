"""Which layout a model can take, tried on the model itself.

Shapes: N response tokens, B responses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..console import say
from ..data import BranchBatch, Branches, TokenBallot, branch_layout, pack, padded_layout
from ..errors import UserError
from .attention import use_branch_attention, use_stock_attention
from .frozen import base_of
from .logprobs import response_logprobs, sum_by_branch

TOLERANCE = 2e-3  # nats per sequence, and relative for gradients: far above rounding, far below a wrong mask


@dataclass(frozen=True)
class Layout:
    """How ballots are laid out for one model: its name, the function that does it, and why this one.

    `attention` is `one call` where a row's ballots go through the GPU's kernel together, and `by ballot` where they
    must not; else the attention function decides.
    """

    name: str  # branch, mask or padded
    reason: str
    attention: str = ""

    @property
    def stored_as(self) -> str:
        """What a stored value depends on: the kernel rounds otherwise."""
        return f"{self.name}, {self.attention}" if self.attention else self.name

    def lay_out(self, ballots: Sequence[Branches]) -> BranchBatch:
        if self.name == "padded":
            return padded_layout(ballots)
        return branch_layout(ballots, by_ballot=self.attention == "by ballot")

    def groups(self, ballots: Sequence[Branches], micro_tokens: int) -> list[list[int]]:
        """Micro-batches of so many tokens at most, as indices: the same for every model that reads these ballots."""
        return pack([self.size(ballot) for ballot in ballots], micro_tokens)

    def size(self, ballot: Branches) -> int:
        """Tokens that a ballot costs in this layout."""
        tokens = sum(map(len, ballot.responses))
        copies = len(ballot.responses) if self.name == "padded" else 1
        return copies * len(ballot.prompt) + tokens


def probe_layout(model: Any, precision: str = "fp32", where: str = "--model") -> Layout:
    """Choose the layout by trying it: log-probs and gradients on a small ballot against plain padded sequences.

    The shared prompt through our attention comes first, then through a 4D mask, then the padded layout; the yardstick
    is the model's own logits under the attention that transformers gives it, and the model keeps the attention that
    its layout needs. On a GPU the kernel that takes all ballots at once is tried too, in the `precision` of the run.
    Raises UserError, beginning with `where`, when the model looks ahead, or when even the padded log-probs differ from
    its own logits: its head does something that is not handled.
    """
    ballots = _probe_ballots(model.config.get_text_config().vocab_size)
    device = next(model.parameters()).device
    padded, branch = padded_layout(ballots).to(device), branch_layout(ballots).to(device)
    use_stock_attention(model)
    if _looks_ahead(model, padded):
        raise UserError(f"{where}: {type(model).__name__} is no causal language model: it sees the tokens to predict")
    wanted = _own_logprobs(model, padded)
    if failure := _compare(model, padded, wanted):
        raise UserError(f"{where}: {type(model).__name__} is not supported (its log-probs through our head: {failure})")
    failures: list[str] = []
    for name, attempt in (("branch", _try_branch_attention), ("mask", _try_mask)):
        failure = attempt(model, branch, wanted)
        if failure is None:
            attention, how = "", ""
            if name == "branch" and device.type == "cuda":
                attention, how = try_kernel(model, ballots, wanted, precision)
            because = "" if name == "branch" else f" ({'; '.join(failures)})"
            reason = f"prompt computed once; equal to separate sequences in a probe of this model{because}{how}"
            return Layout(name, reason, attention)
        failures.append(f"{name}: {failure}")
    return Layout("padded", f"separate sequences, prompt repeated ({'; '.join(failures)})")


def _try_branch_attention(model: Any, batch: BranchBatch, wanted: tuple[Tensor, ...]) -> str | None:
    if not use_branch_attention(model):
        return "its attention cannot be replaced"
    failure = _compare(model, batch, wanted)
    kinds, window = _local_attention(model)
    if failure is None and kinds - {"sliding_attention"}:
        failure = f"layers of {', '.join(sorted(kinds))}"
    if failure is None and kinds and batch.plan is not None and window not in batch.plan.windows:
        failure = "its sliding window does not reach the attention function"
    if failure is not None:
        use_stock_attention(model)
    return failure


def try_kernel(model: Any, ballots: Sequence[Branches], wanted: tuple[Tensor, ...], precision: str) -> tuple[str, str]:
    """Whether all ballots of a row go through the GPU's kernel together, and words on it.

    Both ways to attend round in bfloat16; the kernel may be off by twice as much as the other.
    """
    device = next(model.parameters()).device
    score = partial(response_logprobs, precision=precision)
    together, apart = (branch_layout(ballots, by_ballot=flag).to(device) for flag in (False, True))
    try:
        found = _measure(model, together, score)
    except Exception as error:  # whatever a device makes of the kernel
        return "by ballot", f"; attention ballot by ballot ({type(error).__name__} in the kernel)"
    refusals = together.plan.refusals if together.plan else set()
    if refusals:
        return "", f"; attention ballot by ballot ({'; '.join(sorted(refusals))})"
    allowed = [2 * error + TOLERANCE for error in _errors(_measure(model, apart, score), wanted)]
    if any(not error <= most for error, most in zip(_errors(found, wanted), allowed, strict=True)):
        return "by ballot", "; attention ballot by ballot (the kernel's log-probs differ)"
    return "one call", "; attention of all ballots in one call"


def _try_mask(model: Any, batch: BranchBatch, wanted: tuple[Tensor, ...]) -> str | None:
    kinds, _ = _local_attention(model)
    if kinds:  # the mask would override it
        return f"layers of {', '.join(sorted(kinds))}"
    return _compare(model, batch, wanted)


def _local_attention(model: Any) -> tuple[set[str], int | None]:
    """The kinds of layers that do not look at the whole context, and their window.

    A window is longer than the probe, so what the probe cannot see has to be read from the configuration.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or (["sliding_attention"] if window else [])
    return set(kinds) - {"full_attention"}, window


def _compare(model: Any, batch: BranchBatch, wanted: tuple[Tensor, ...]) -> str | None:
    try:
        found = _measure(model, batch, response_logprobs)
    except Exception as error:  # whatever an architecture makes of a layout that it was not written for
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None if _close(found, wanted) else "differ from the model's own logits"


@torch.no_grad()
def _looks_ahead(model: Any, batch: BranchBatch) -> bool:
    """Whether another last token changes what the model says before it.

    Asked again before a model is refused: one pass in many was seen to go wrong on a virtual machine.
    """
    ids_T = batch.ids_RT[0]
    other_T = torch.cat([ids_T[:-1], (ids_T[-1:] + 1) % model.config.get_text_config().vocab_size])

    def changes() -> bool:
        logits, others = (model(input_ids=row_T[None], use_cache=False).logits[0, :-1] for row_T in (ids_T, other_T))
        return bool((logits - others).abs().max() > TOLERANCE)

    if not changes():
        return False
    say("probing the model: another last token changed what it says before; asking again")
    return changes()


def _probe_ballots(vocabulary: int) -> list[TokenBallot]:
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())

    return [TokenBallot(ids(40), (ids(5), ids(9)), ()), TokenBallot(ids(7), (ids(3), ids(1), ids(4)), ())]


def _measure(
    model: Any, batch: BranchBatch, score: Callable[[Any, BranchBatch], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of the batch, and the gradients of a weighted sum of them at both ends of the model.

    Of a base in few bits, whose head is never trained, at its first end alone: in what the tokens are embedded as.
    """
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    few_bits = base_of(model) != "fp32"
    ends = list({id(end.weight): end.weight for end in (first, last)}.values())
    frozen = [] if few_bits else [end for end in ends if not end.requires_grad]
    watching: AbstractContextManager[list[Tensor]] = _embedded(first) if few_bits else nullcontext([])
    with torch.enable_grad(), watching as states:
        for end in frozen:
            end.requires_grad_(True)
        try:
            logprobs_B = score(model, batch)
            weights = torch.linspace(-1, 1, len(logprobs_B), device=logprobs_B.device)
            grads = torch.autograd.grad((weights * logprobs_B).sum(), states or ends)
        finally:
            for end in frozen:
                end.requires_grad_(False)
    if few_bits:
        grads = (_by_token(grads[0], batch, first.num_embeddings),)
    return logprobs_B.detach(), grads[0], grads[-1]


@contextmanager
def _embedded(embedding: nn.Module) -> Iterator[list[Tensor]]:
    """Within it, what tokens are embedded as is here, and what a gradient can be asked of."""
    states: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        states.append(output.detach().requires_grad_(True))
        return states[-1]

    hook = embedding.register_forward_hook(keep)
    try:
        yield states
    finally:
        hook.remove()


def _by_token(grad_RTD: Tensor, batch: BranchBatch, vocabulary: int) -> Tensor:
    """The gradient of every token's embedding, `[V, D]`, wherever the token stands."""
    grad_VD = grad_RTD.new_zeros(vocabulary, grad_RTD.shape[-1])
    return grad_VD.index_add(0, batch.ids_RT.flatten(), grad_RTD.flatten(0, 1))


def _own_logprobs(model: Any, batch: BranchBatch) -> tuple[Tensor, Tensor, Tensor]:
    def score(model: Any, batch: BranchBatch) -> Tensor:
        outputs = model(
            input_ids=batch.ids_RT, attention_mask=batch.padding_RT, position_ids=batch.positions_RT, use_cache=False
        )
        logprobs = outputs.logits.float().log_softmax(-1).flatten(0, 1)[batch.source_N]
        return sum_by_branch(logprobs.gather(1, batch.target_N[:, None])[:, 0], batch)

    return _measure(model, batch, score)


def _close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return all(error <= TOLERANCE for error in _errors(found, wanted))


def _errors(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """The largest error of log-probs in nats, and of each gradient as a share of its largest entry."""
    gradients = zip(found[1:], wanted[1:], strict=True)
    nats = float((found[0] - wanted[0]).abs().max())
    return [nats, *(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in gradients)]
