"""What a person should know about a preference file before training on it.

One pass over the rows feeds small accumulators (`tally`, `digests`, `texts`); what costs more is asked of a stated
sample (`sampled`). Both end in one record, `Checked`, from which every finding follows (`findings`), and the page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
