"""Training and comparing: `train` makes one run, `compare` makes arms × β × seeds and their report.

A `Plan` settles what is compared before anything is trained, `Questions` what every policy is asked; `runs` trains and
evaluates what is not there yet; `describing` writes `study.json`. `evaluate_folders` and `sample_folders` meet policies
that exist already.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
