"""The names that settings choose from. No torch: a wrong name is answered at once."""

KINDS = ("frozen", "lora", "full")  # of reward models
HEADS = ("score", "general", "unconstrained")  # of the preference of amortized-ipo
PAIRS = ("all", "votes")
TARGETS = ("centred", "winner-loser")
REDUCTIONS = ("sum", "mean")
PRECISIONS = ("fp32", "bf16")
