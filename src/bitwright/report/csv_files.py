"""A comparison as CSV files at full precision; empty where there is no value; units in the header."""

import csv
from collections.abc import Iterable
from pathlib import Path

from bitwright.report import silicon, sizes
from bitwright.report.tables import LAYER_COLUMNS, Column, Value, summary_columns
from bitwright.result import Comparison


def write_csv(comparison: Comparison, path: Path) -> None:
    """One line per scheme: the main table, what its stored weights could shrink to, and its price where it has one."""
    columns = (*summary_columns(comparison), *sizes.scheme_columns(comparison)[1:])
    prices = {row.scheme: silicon.price_of(comparison, row) for row in comparison.rows}
    priced: tuple[Column, ...] = () if comparison.silicon is None else silicon.csv_columns()
    header = [*(column.key for column in (*columns, *priced)), "title", "error"]
    lines = (
        [*(c.read(row) for c in columns), *(c.read(prices[row.scheme]) for c in priced), row.title, row.error]
        for row in comparison.rows
    )
    _write(path, header, lines)


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
