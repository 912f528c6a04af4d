"""The lab: finite worlds in float64 where everything is known, and every claim of the theory computed twice.

It imports nothing of the rest of preftune, so that it can judge it.

    worlds       preferences, references, votes drawn from them
    optima       the policy that each method's loss is minimised by
    preference   fitting v(a, b) to votes
    statements   the theory as equations that run
    bandits      the IPO paper's experiments
    study        when a learned target beats the bare label
    page         all of it as one page with sliders
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
