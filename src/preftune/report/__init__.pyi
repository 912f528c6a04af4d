from .charts import frontier_image as frontier_image
from .folding import Folded as Folded
from .folding import fold as fold
from .page import write_report as write_report
