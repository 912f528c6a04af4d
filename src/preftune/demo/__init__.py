"""The embedded experiment: a real model, real human ratings, a known gold reward.

`run_demo` needs no account and no hub.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
