"""The command line: one file a command, every flag declared once in `flags`. `main` is what `preftune` runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
