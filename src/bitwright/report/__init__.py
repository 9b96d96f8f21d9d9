"""A comparison as an HTML page, as CSV files and as rows for the terminal."""

from bitwright.report.csv_files import write_csv, write_layers_csv
from bitwright.report.page import write_report
from bitwright.report.tables import summary_columns, summary_rows

__all__ = ["summary_columns", "summary_rows", "write_csv", "write_layers_csv", "write_report"]
