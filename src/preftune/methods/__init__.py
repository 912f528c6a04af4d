"""The methods: what each trains on, and how a batch of log-probs becomes its loss."""

from ._amortized_ipo import AMORTIZED_IPO
from ._method import LossOptions, Method, Scored, Terms
from ._online import PPO, RLOO, Experience, OnlineMethod, OnlineOptions, critic_loss, explained_variance
from ._pairwise import DPO, IPO, pairwise_terms
from ._selection import BEST_OF_N, Selection, best_of_n_kl
from ._sft import SFT

AnyMethod = Method | OnlineMethod | Selection
METHODS: dict[str, AnyMethod] = {method.name: method for method in (DPO, IPO, AMORTIZED_IPO, SFT, PPO, RLOO, BEST_OF_N)}

__all__ = [
    "AMORTIZED_IPO",
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
    "pairwise_terms",
]
