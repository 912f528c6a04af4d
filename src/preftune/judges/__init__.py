"""Who decides on samples. A `Judge` is a reward of a response to a prompt, both as text."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
