"""Every method by its name."""

from __future__ import annotations

from ._amortized_ipo import AMORTIZED_IPO
from ._method import Method
from ._online import PPO, RLOO, OnlineMethod
from ._pairwise import DPO, IPO
from ._selection import BEST_OF_N, Selection
from ._sft import SFT

AnyMethod = Method | OnlineMethod | Selection
METHODS: dict[str, AnyMethod] = {method.name: method for method in (DPO, IPO, AMORTIZED_IPO, SFT, PPO, RLOO, BEST_OF_N)}
