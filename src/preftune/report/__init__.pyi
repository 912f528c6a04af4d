from .charts import frontier_image as frontier_image
from .page import write_report as write_report
