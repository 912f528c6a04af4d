"""A study folder as one self-contained page, and its frontier as a picture. Nothing here is fetched or computed by a
model: everything comes from the files of the folder."""

from .charts import frontier_image
from .page import write_report

__all__ = ["frontier_image", "write_report"]
