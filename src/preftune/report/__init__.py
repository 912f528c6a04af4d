"""A study's JSON files become one self-contained page: charts, tables, samples, and what limits the answer. No torch.

`write_report(folder)` draws it from the files alone, so that it can be drawn again by anybody, at any time. The page
fetches nothing and runs only its own scripts; what a model wrote is text in it and nothing else.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
