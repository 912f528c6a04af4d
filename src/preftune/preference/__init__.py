"""What is fitted to votes before a policy is trained: reward models, linear preferences, targets for amortized IPO.

A `Fitting` says with what; `fit_or_load` makes a reward model of it, `set_targets` the targets of amortized IPO. What
is in the folder already is used again. Whatever is chosen by looking at votes is chosen on training votes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
