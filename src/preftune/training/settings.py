"""How to train: what all methods share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..data import template_options
from ..errors import UserError
from ..launch import launched
from ..methods import check_known, check_options, names_of, option
from ..model import BASES

PRECISIONS = ("fp32", "bf16")
MERGES = ("base", "original")
PARALLEL = ("auto", "ddp", "fsdp")


@dataclass(frozen=True)
class Settings:
    """How to train: the same for every method, so that a comparison is of methods.

    A method's own options are in its file. Each field says what it is for, what it may be, and what it is by default.
    Raises UserError for a value that it cannot have. What a line of help has no room for: a `batch_size` larger than
    the data means all of it; `micro_tokens` bounds memory and changes no result; matrix products in bf16 are over
    float32 weights; with `compile` the first step takes half a minute longer; the
    state is saved at every checkpoint too.
    """

    lr: float | None = option(
        None, "peak learning rate; compare: or auto", above=0, default_text="5e-6, with --lora 1e-4"
    )
    epochs: float = option(1.0, "passes over the ballots", above=0, in_arms=False)
    steps: int | None = option(None, "optimiser steps; goes over --epochs", above=0, in_arms=False)
    batch_size: int = option(32, "ballots per optimiser step; ppo, rloo: prompts", above=0, in_arms=False)
    micro_tokens: int | None = option(
        None,
        "tokens per forward pass; bounds memory",
        above=0,
        default_text="1024, on a GPU 4096",
        in_arms=False,
        counts=False,
    )
    max_length: int = option(1024, "tokens of prompt and response", above=0, in_arms=False)
    lora: int = option(0, "rank of an adapter; 0: all weights", least=0)
    base: str = option("fp32", "how --lora's frozen weights are kept", choices=BASES, in_arms=False)
    merge_into: str = option(
        "base", "with --base, which weights policy/ has", choices=MERGES, in_arms=False, counts=False
    )
    precision: str = option("fp32", "of matrix products", choices=PRECISIONS, in_arms=False)
    device: str = option("auto", "cpu, cuda, ...", default_text="a GPU where there is one", in_arms=False, counts=False)
    save_every: float = option(10.0, "minutes between saved states", least=0, in_arms=False, counts=False)
    grad_checkpointing: bool = option(False, "less memory, a third more time", in_arms=False, counts=False)
    parallel: str = option(
        "auto",
        "under torchrun: each process has all weights, or a part",
        choices=PARALLEL,
        default_text="ddp with --lora, else fsdp",
        in_arms=False,
        counts=False,
    )
    compile: bool = option(False, "faster steps but the first; needs a C++ compiler", in_arms=False, counts=False)
    warmup: float = option(0.1, "share of steps in which --lr rises", least=0, most=1, in_arms=False)
    clip_norm: float = option(1.0, "largest norm of the gradient", above=0, in_arms=False)
    weight_decay: float = option(0.0, "decoupled weight decay", least=0, in_arms=False)
    template_options: str = option("", "such as enable_thinking=false", default_text="none", in_arms=False)

    def __post_init__(self) -> None:
        check_options(self)
        template_options(self.template_options)
        if self.merge_into == "original" and self.base == "fp32":
            raise UserError("--merge-into original: the base is the original with --base fp32; leave it out")
        launch = launched()
        if self.parallel != "auto" and launch is None:
            raise UserError(f"--parallel {self.parallel}: there is one process; start several with torchrun")
        if self.compile and launch:
            raise UserError("--compile: not tried yet with several processes; leave it out")
        if self.base != "fp32" and launch:
            raise UserError(f"--base {self.base}: is not spread over processes yet; run one process")
        if self.compile and self.grad_checkpointing:
            raise UserError("--compile: has no effect with --grad-checkpointing; leave one of them out")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, default filled in."""
        return self.lr if self.lr is not None else (1e-4 if self.lora else 5e-6)

    @property
    def pass_tokens(self) -> int:
        """Tokens per forward pass, default filled in."""
        from ..model import pick_device, tokens_per_pass  # which loads torch: only when a device is asked for

        return self.micro_tokens or tokens_per_pass(pick_device(self.device))

    def counting(self) -> dict[str, Any]:
        """What a run's result depends on. Not: what only says where, and in which pieces, it is computed."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata["counts"]}

    def record(self) -> dict[str, Any]:
        """All settings as a run writes them down, defaults that depend on others or on the device filled in."""
        return asdict(self) | {"lr": self.learning_rate, "micro_tokens": self.pass_tokens}

    def policy_options(self) -> dict[str, Any]:
        """What the start of a policy reads of the settings."""
        return {
            "lora": self.lora,
            "grad_checkpointing": self.grad_checkpointing,
            "compiled": self.compile,
            "parallel": self.parallel,
        }


def make_settings(options: Mapping[str, Any]) -> Settings:
    """Settings from keyword options. Raises UserError for an unknown one, with the nearest name."""
    check_known(options, names_of(Settings))
    return Settings(**options)
