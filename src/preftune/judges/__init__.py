"""Who decides on samples: a `Judge` is a reward of a response, a `PairJudge` compares two responses."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
