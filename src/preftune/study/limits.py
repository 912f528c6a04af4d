"""What is asked of policies, held to what can be asked, before anything is loaded. No torch."""

from __future__ import annotations

from ..errors import UserError
from ..model import BASES
from ..training import PRECISIONS


def check_asked(
    *,
    samples: int = 1,
    max_new_tokens: int = 1,
    eval_prompts: int = 1,
    eval_fraction: float = 0.0,
    least: int = 0,
) -> None:
    """Raises UserError for a number of prompts, samples or tokens, or for a share, that is none.

    `least` samples are wanted: where nothing is sampled, nothing need have a length.
    """
    if not 0 <= eval_fraction < 1:
        raise UserError(f"--eval-fraction {eval_fraction}: must be at least 0 and below 1")
    if eval_prompts < 1:
        raise UserError(f"--eval-prompts {eval_prompts}: must be at least 1 (--samples 0 asks nothing)")
    if samples < least:
        raise UserError(f"--samples {samples}: must be at least {least}")
    if samples and max_new_tokens < 1:
        raise UserError(f"--max-new-tokens {max_new_tokens}: must be at least 1")


def check_precision(precision: str, base: str = "fp32") -> None:
    """Raises UserError for a precision, or a way to keep weights, that there is none of."""
    for flag, value, known in (("precision", precision, PRECISIONS), ("base", base, BASES)):
        if value not in known:
            raise UserError(f"--{flag} {value}: must be one of {', '.join(known)}")
