"""The methods: what each trains on, and how a batch of log-probs becomes its loss."""

from ._method import LossOptions, Method, Scored, Terms
from ._online import PPO, RLOO, Experience, OnlineMethod, OnlineOptions, critic_loss, explained_variance
from ._pairwise import DPO, IPO
from ._selection import BEST_OF_N, Selection, best_of_n_kl
from ._sft import SFT

AnyMethod = Method | OnlineMethod | Selection
METHODS: dict[str, AnyMethod] = {method.name: method for method in (DPO, IPO, SFT, PPO, RLOO, BEST_OF_N)}

__all__ = [
    "BEST_OF_N",
    "DPO",
    "IPO",
    "METHODS",
    "PPO",
    "RLOO",
    "SFT",
    "AnyMethod",
    "Experience",
    "LossOptions",
    "Method",
    "OnlineMethod",
    "OnlineOptions",
    "Scored",
    "Selection",
    "Terms",
    "best_of_n_kl",
    "critic_loss",
    "explained_variance",
]
