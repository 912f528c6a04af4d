"""One policy trained by one method: settings, THE loop, sessions that resume, learning from samples, one run.

`prepare` settles what a method trains on and plans every step; `train_any` runs the plan in a folder and gives a
`Policy`. `Settings` and `Arm` need no torch until a device is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
