"""A comparison as an HTML page, as a CSV file and as rows for the terminal."""

from bitwright.report.page import write_report
from bitwright.report.tables import summary_columns, summary_rows, write_csv

__all__ = ["summary_columns", "summary_rows", "write_csv", "write_report"]
