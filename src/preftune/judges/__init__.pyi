from .judge import Judge as Judge
from .opinions import Caller as Caller
from .opinions import Contest as Contest
from .opinions import Opinion as Opinion
from .opinions import PairJudge as PairJudge
from .wording import Wording as Wording
from .wording import addresses_judge as addresses_judge
from .wording import read_wording as read_wording
