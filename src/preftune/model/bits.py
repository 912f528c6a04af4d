"""How frozen weights can be kept, and what that needs. No torch: a mistake is answered at once."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import UserError

BASES = ("fp32", "bf16", "int8", "nf4")
INSTALL = "pip install 'preftune[bits]'"


def check_library(base: str, where: str = "") -> None:
    """Raises UserError, beginning with `where`, if the library that packs and reads such weights is not installed."""
    if base == "nf4" and find_spec("bitsandbytes") is None:
        raise UserError(f"{where or f'--base {base}'}: needs bitsandbytes; install what is missing: {INSTALL}")


def check_base(base: str, lora: int) -> None:
    """Raises UserError for weights in few bits that were to be trained, or that nothing here can read."""
    if base != "fp32" and not lora:
        raise UserError(
            f"--base {base}: weights in few bits are frozen, and an adapter is trained; add --lora R, or leave --base "
            "out"
        )
    check_library(base)
