"""The last stage: one page that shows what happened, and the same as JSON."""

from components.report.component import Report
from components.report.page import add_stages

__all__ = ["Report", "add_stages"]
