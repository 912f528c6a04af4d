"""How to train: settings that are the same for every method, and the names of methods and arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import UserError, nearest
from ..methods import HEADS, PAIRS, PRECISIONS, REDUCTIONS, TARGETS, LossOptions

POSITIVE = (
    *("lr", "epochs", "steps", "batch_size", "micro_tokens", "max_length", "clip_norm"),
    *("rollouts", "max_new_tokens", "inner_epochs", "kl_target", "gamma"),
)
AMORTIZED = ("head", "pairs", "target", "extra_responses", "gamma", "stop_gradient")  # nothing to another method
_TRAINED = (
    *("lr", "epochs", "steps", "batch_size", "max_length"),
    *("lora", "precision", "warmup", "clip_norm", "weight_decay"),
)
_VOTES = (*_TRAINED, "reduction", "label_smoothing", "flip_rate")
_FITTED = (*_TRAINED, "label_smoothing", "flip_rate", "estimate_flips")  # with or by what is fitted to votes
_SAMPLED = (*_FITTED, "rollouts", "max_new_tokens", "kl_target", "end_penalty")
# What a run's result depends on, by method. In none: what only says where, and in which pieces, it is computed.
READS: dict[str, tuple[str, ...]] = {
    "sft": _TRAINED,
    "dpo": _VOTES,
    "ipo": _VOTES,
    "amortized-ipo": (*_VOTES, "estimate_flips", "max_new_tokens", *AMORTIZED),
    "reward": _FITTED,
    "ppo": (*_SAMPLED, "inner_epochs", "whiten"),
    "rloo": _SAMPLED,
    "best-of-n": _FITTED,
}
CHOICES = {
    "reduction": REDUCTIONS,
    "precision": PRECISIONS,
    "head": HEADS,
    "pairs": PAIRS,
    "target": TARGETS,
}


@dataclass(frozen=True)
class Settings:
    """How to train: the same for every method, so that a comparison is of methods.

    Args:
        lr: peak learning rate of AdamW; left out, 5e-6, or 1e-4 with LoRA.
        epochs: passes over the ballots.
        steps: optimiser steps; goes over `epochs`.
        batch_size: ballots per optimiser step; larger than the data means all of the data.
        micro_tokens: tokens per forward pass; bounds memory, does not change the result; left out, 1,024 on a CPU and
            4,096 on a GPU.
        max_length: tokens of a prompt and a response together.
        reduction: log-ratios as the `sum` over the tokens of a response, or their `mean`.
        label_smoothing: train on the preference smoothed by this rate (cDPO).
        flip_rate: votes were flipped at this rate: dpo and ipo take flips out of the target (rDPO, unbiased), a reward
            model and the preference of amortized-ipo have them in their likelihood.
        estimate_flips: have the likelihood of a reward model or a preference of frozen features find that rate itself.
        lora: rank of a LoRA adapter; 0 trains all weights.
        precision: fp32, or bf16 for matrix products over float32 weights.
        device: cpu, cuda, ...; auto takes a GPU where there is one.
        grad_checkpointing: less memory for about a third more time.
        compile: faster steps but the first, which takes half a minute longer; needs a C++ compiler.
        warmup: share of the steps over which the learning rate rises.
        clip_norm: largest norm of the gradient.
        weight_decay: decoupled weight decay.

    Of methods that train on the policy's own samples (ppo, rloo), where `batch_size` counts prompts:
        rollouts: responses sampled to each prompt.
        max_new_tokens: tokens of a sampled response.
        inner_epochs: optimiser steps of ppo on each batch of samples.
        kl_target: let β follow this KL, in nats per response; left out, β stays as it is.
        end_penalty: taken off the score of a response that does not end by itself.
        whiten: scale ppo's rewards, and scale and centre its advantages, over each batch.

    Of amortized-ipo, which is told by a preference v that is fitted to the votes first:
        head: `score` (a reward model), `general` (cycles too), or `unconstrained` (an ablation, not antisymmetric).
        pairs: v's word on `all` pairs of a ballot, or only on those of its `votes` (an ablation).
        target: `centred`, or `winner-loser` (an ablation: without the −½).
        gamma: train v together with the policy, its likelihood weighted by this, instead of before it (an ablation).
        stop_gradient: left out (an ablation of joint training), v follows the policy's margin too.
        extra_responses: sampled from the reference to each prompt, at most `max_new_tokens` long.
    """

    lr: float | None = None
    epochs: float = 1.0
    steps: int | None = None
    batch_size: int = 32
    micro_tokens: int | None = None
    max_length: int = 1024
    reduction: str = "sum"
    label_smoothing: float = 0.0
    flip_rate: float = 0.0
    lora: int = 0
    precision: str = "fp32"
    device: str = "auto"
    grad_checkpointing: bool = False
    compile: bool = False
    warmup: float = 0.1
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    rollouts: int = 4
    max_new_tokens: int = 64
    inner_epochs: int = 4
    kl_target: float | None = None
    end_penalty: float = 1.0
    whiten: bool = True
    estimate_flips: bool = False
    head: str = "score"
    pairs: str = "all"
    target: str = "centred"
    extra_responses: int = 0
    gamma: float | None = None
    stop_gradient: bool = True

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{flag(name)} {value}: must be greater than 0")
        for name in ("label_smoothing", "flip_rate"):
            if not 0 <= getattr(self, name) < 0.5:
                raise UserError(f"--{flag(name)} {getattr(self, name)}: must be at least 0 and below 0.5")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"--{flag(name)} {getattr(self, name)}: must be one of {', '.join(choices)}")
        if self.lora < 0 or self.weight_decay < 0 or not 0 <= self.warmup <= 1:
            raise UserError("--lora and --weight-decay must be at least 0, and --warmup between 0 and 1")
        if self.compile and self.grad_checkpointing:
            raise UserError("--compile: has no effect with --grad-checkpointing; leave one of them out")
        if self.extra_responses < 0:
            raise UserError(f"--extra-responses {self.extra_responses}: must be at least 0")
        if self.extra_responses and self.pairs == "votes":
            raise UserError(f"--extra-responses {self.extra_responses}: nobody voted on them; leave out --pairs votes")
        if self.estimate_flips and self.flip_rate:
            raise UserError(f"--estimate-flips: --flip-rate {self.flip_rate} is known already; leave one of them out")
        if self.gamma is not None and (self.pairs == "all" or self.head != "score" or self.estimate_flips):
            raise UserError(
                f"--gamma {self.gamma}: joint training has a score on the voted pairs; add --pairs votes, leave out "
                "--head and --estimate-flips"
            )
        if not self.stop_gradient and self.gamma is None:
            raise UserError("--stop-gradient false: only joint training has that gradient; add --gamma")
        for name, value in (("target", "winner-loser"), ("head", "unconstrained")):
            if getattr(self, name) == value and self.pairs == "all":
                raise UserError(f"--{name} {value}: add --pairs votes, since an unlabelled pair has no winner")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, default filled in."""
        return self.lr if self.lr is not None else (1e-4 if self.lora else 5e-6)

    @property
    def pass_tokens(self) -> int:
        """Tokens per forward pass, default filled in."""
        from ..model import pick_device, tokens_per_pass  # which loads torch: only when a device is asked for

        return self.micro_tokens or tokens_per_pass(pick_device(self.device))

    def read_by(self, method: str) -> dict[str, Any]:
        """The settings that the method reads: what a run must agree in to be gone on with."""
        return {name: getattr(self, name) for name in READS[method]}

    def record(self) -> dict[str, Any]:
        """All settings as a run writes them down, defaults that depend on others or on the device filled in."""
        return asdict(self) | {"lr": self.learning_rate, "micro_tokens": self.pass_tokens}

    def policy_options(self) -> dict[str, Any]:
        """What the start of a policy reads of the settings."""
        return {"lora": self.lora, "grad_checkpointing": self.grad_checkpointing, "compiled": self.compile}

    def loss_options(self, beta: float | None) -> LossOptions:
        """What the loss reads of the settings."""
        centre = 0.5 if self.target == "centred" else 0.0
        joint = (self.gamma, self.stop_gradient)
        return LossOptions(beta or 0.0, self.reduction, self.label_smoothing, self.flip_rate, centre, *joint)


def flag(name: str) -> str:
    """A setting's name as it is written on the command line."""
    return name.replace("_", "-")


def make_settings(options: Mapping[str, Any]) -> Settings:
    """Settings from keyword options. Raises UserError for an unknown one, with the nearest name."""
    known = [field.name for field in fields(Settings)]
    for name in options:
        if name not in known:
            raise UserError(f"unknown setting {name!r}{nearest(name, known)}")
    return Settings(**options)
