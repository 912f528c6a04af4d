"""What is fitted to votes, with which settings, and where it is left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data import TokenBallot, TokenSet
from ..errors import UserError, nearest
from ..methods import KINDS, AnyMethod, Method
from ..model import Workbench
from ..training import AMORTIZED, Settings


@dataclass(frozen=True)
class Fitting:
    """What is to be fitted to votes: to which ballots, measured on which held-out ones, how, and where it is left.

    `kind` is a reward model's: `frozen`, `lora` or `full`; `folder` keeps what is fitted.
    """

    bench: Workbench
    tokens: TokenSet
    held_out: Sequence[TokenBallot]
    settings: Settings
    kind: str
    seed: int
    folder: Path


def settings_of(kind: str, settings: Settings) -> Settings:
    """The policies' settings as a reward model of that kind is trained with them."""
    own = {name: getattr(Settings(), name) for name in AMORTIZED}
    lora = settings.lora if kind == "lora" else 0
    return replace(settings, steps=None, epochs=1.0, reduction="sum", lora=lora, **own)


def default_kind(methods: Iterable[AnyMethod], settings: Settings) -> str:
    """A whole model, or an adapter where policies have one; frozen features where scores are only regressed on."""
    if all(isinstance(method, Method) for method in methods):
        return "frozen"
    return "lora" if settings.lora else "full"


def check_kind(kind: str, settings: Settings) -> None:
    """Raises UserError for an unknown kind, or one that contradicts the settings."""
    if kind not in KINDS:
        raise UserError(f"--kind {kind!r}: unknown{nearest(kind, KINDS)}")
    if kind == "lora" and not settings.lora:
        raise UserError("--kind lora: add --lora R, the rank of the adapter")
    if kind != "frozen" and settings.estimate_flips:
        raise UserError(f"--estimate-flips: needs --kind frozen; give --kind {kind} a known rate with --flip-rate")
    if kind != "lora" and settings.lora:
        raise UserError(f"--lora {settings.lora}: --kind {kind} has no adapter; leave one of them out")
    if settings.reduction != "sum":
        raise UserError(
            f"--reduction {settings.reduction}: a reward model has one score per response, nothing to reduce"
        )
