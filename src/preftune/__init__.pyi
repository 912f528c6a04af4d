from .data import Ballot as Ballot
from .data import BallotSet as BallotSet
from .data import Vote as Vote
from .data import read_ballots as read_ballots
from .study import Study as Study
from .study import compare as compare
from .study import train as train
from .training import Run as Run

__version__: str
