from .folding import Folded as Folded
from .folding import fold as fold
from .jury import contest_rows as contest_rows
from .pictures import frontier_image as frontier_image
from .writing import markdown as markdown
from .writing import verdict_json as verdict_json
from .writing import write_comparison as write_comparison
from .writing import write_report as write_report
