"""The methods that learn from ballots: what each trains on, and how a batch of log-probs becomes its loss."""

from ._method import LossOptions, Method, Scored, Terms
from ._pairwise import DPO, IPO
from ._sft import SFT

METHODS = {method.name: method for method in (DPO, IPO, SFT)}

__all__ = ["DPO", "IPO", "METHODS", "SFT", "LossOptions", "Method", "Scored", "Terms"]
