"""A language model and what is read off it: log-probs, features, samples, scores; nothing is trained here.

`open_workbench` loads what the runs of a study share: the base, its `Reference` (the one door to the frozen start), the
layout that the model can take, the store of what is computed once. `Policy` is a model in training, `sample_responses`
draws from one, `RewardModel` scores responses. `engine` is the only file that knows devices, precision and saved state.
"""

import logging

import lazy_loader

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it tells of what could be downloaded

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
