"""A comparison as CSV files at full precision; empty where there is no value; units in the header."""

import csv
from collections.abc import Iterable
from pathlib import Path

from bitwright.report import sizes
from bitwright.report.tables import LAYER_COLUMNS, Value, summary_columns
from bitwright.result import Comparison


def write_csv(comparison: Comparison, path: Path) -> None:
    """One line per scheme: the main table, and what its stored weights could shrink to."""
    columns = (*summary_columns(comparison), *sizes.scheme_columns(comparison)[1:])
    header = [*(column.key for column in columns), "title", "error"]
    _write(path, header, ([*(c.read(row) for c in columns), row.title, row.error] for row in comparison.rows))


def write_layers_csv(comparison: Comparison, path: Path) -> None:
    """One line per layer of each scheme."""
    known = {column.key for column in LAYER_COLUMNS}
    columns = (*LAYER_COLUMNS, *(c for c in sizes.layer_columns(comparison) if c.key not in known))
    lines = ([row.scheme, *(c.read(layer) for c in columns)] for row in comparison.rows for layer in row.layers)
    _write(path, ["scheme", *(column.key for column in columns)], lines)


def _write(path: Path, header: list[str], lines: Iterable[list[Value]]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
