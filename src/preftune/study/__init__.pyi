from .plan import settle_study as settle_study
from .policies import evaluate_folders as evaluate_folders
from .policies import sample_folders as sample_folders
from .settling import settle_run as settle_run
from .single import train as train
from .study import Study as Study
from .study import compare as compare
