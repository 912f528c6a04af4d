from .making import run_rounds as run_rounds
from .settled import Pages as Pages
from .telling import Told as Told
