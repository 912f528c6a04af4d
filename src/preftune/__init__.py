"""Align a language model with human preferences, and find out which method earned it.

Names load when they are first used: reading preference data or a study's results needs no torch.
"""

import lazy_loader

__version__ = "0.3.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
