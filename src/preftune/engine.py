"""Devices, precision and seeds: everything about the machine that the mathematics should not see."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from .errors import UserError

PRECISIONS = ("fp32", "bf16")


def pick_device(name: str = "auto") -> torch.device:
    """The device that `name` asks for; `auto` is the first GPU, else the CPU. Raises UserError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available on this machine; use cpu, or leave it out") from error
    return device


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """`fp32` computes in float32; `bf16` autocasts matrix products, the weights themselves stay float32."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def compute_dtype(precision: str) -> torch.dtype:
    """The type in which matrix products run."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
