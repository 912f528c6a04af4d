"""`python -m preftune`: the command line, as `torchrun -m preftune` needs it."""

from .cli import main

main()
