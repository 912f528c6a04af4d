"""What a study's records say: read from its folder, fitted, compared, put into words. Numbers and text only; no torch.

`read_study(folder)` gives a `StudyRecord`, `verdict(record)` all that it supports: frontiers of gain against KL, arms
compared at the same KL with their uncertainty, alarms, one sentence. `stats` has the estimates (prompts are clusters,
seeds a random effect), `agreement` how well scores agree with votes, `rows` how records are written and read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
