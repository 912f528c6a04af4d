"""Rounds: sample from the policy, have the samples compared, train on that, judge against the last round, and again.

Each round is a folder, and each stage of it leaves a file when it is done: what is there is not made again.

    settled    what rounds depend on, checked before anything is loaded
    stages     the four stages of a round
    voting     who votes on pairs: a judge, or people on a page
    telling    how a round went, and what may be concluded
    making     all rounds, one after the other
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
