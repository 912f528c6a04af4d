from .page import QUICK_STEPS as QUICK_STEPS
from .page import write_page as write_page
from .study import as_rows as as_rows
from .study import as_text as as_text
from .study import run_study as run_study
