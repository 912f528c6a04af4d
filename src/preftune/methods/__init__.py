"""The methods: what each keeps of a ballot, its loss, and what it is called. `METHODS` has them all by name.

A `Method` learns from votes, an `OnlineMethod` from the policy's own samples, a `Selection` trains nothing. They are
plain functions over records; what drives them is `training`. Names and choices of options need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
