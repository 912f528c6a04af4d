"""A preference file becomes token ids: read, checked, tokenised, laid out.

`read_ballots` takes any common file (`containers` → `layouts` → `chats`) and gives a `BallotSet` of `Ballot`s with
their `Vote`s; `tokenize` makes `TokenBallot`s of them; `branches` lays those out in rows. Whatever is skipped or
shortened is counted with its reason. `ballots`, `reading` and `baselines` need no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
