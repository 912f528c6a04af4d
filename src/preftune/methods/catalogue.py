"""Every method by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from ..errors import UserError, nearest
from .amortized_ipo import AMORTIZED_IPO
from .best_of_n import BEST_OF_N
from .dpo import DPO
from .gpo import GPO
from .ipo import IPO
from .method import AnyMethod
from .options import flag, names_of
from .ppo import PPO
from .reward import REWARD
from .rloo import RLOO
from .sft import SFT

METHODS: Mapping[str, AnyMethod] = {
    method.name: method for method in (DPO, IPO, AMORTIZED_IPO, GPO, SFT, PPO, RLOO, BEST_OF_N, REWARD)
}


def find_method(name: str) -> AnyMethod:
    """The method of that name. Raises UserError for an unknown one, with the nearest."""
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest(name, list(METHODS))}")
    return METHODS[name]


def whose(option: str) -> list[str]:
    """The methods that have an option of that name."""
    return [name for name, method in METHODS.items() if option in names_of(method.options)]


def check_own(option: str, method: str) -> None:
    """Raises UserError for an option of other methods than this, naming them."""
    owners = whose(option)
    if owners and method not in owners:
        raise UserError(f"--{flag(option)}: is an option of {listed(owners)}, not of {method}; leave it out")


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def all_options() -> dict[str, list[str]]:
    """Every option of some method, and the methods that have it."""
    found = {declared.name: whose(declared.name) for m in METHODS.values() for declared in fields(m.options)}
    return dict(sorted(found.items()))
