"""A comparison as rows of formatted cells: the same figures for the page, the CSV file and the terminal.

A column says what it reads, in which unit and how it is printed; everything else is derived. Standard library only.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from bitwright.report import notation
from bitwright.report.finding import loss
from bitwright.result import Comparison, LayerResult, RunInfo, SchemeResult

Value = str | int | float | None
Record = TypeVar("Record")


@dataclass(frozen=True)
class Cell:
    """One figure: as printed, as sorted, and the remark that a reader sees on hovering."""

    text: str
    value: Value
    is_best: bool = False
    note: str = ""


@dataclass(frozen=True)
class Column(Generic[Record]):
    """What a column reads from a record and how it prints it."""

    key: str  # CSV name, unit included
    title: str
    unit: str
    meaning: str
    read: Callable[[Record], Value]
    show: Callable[..., str]
    best: Callable[[Iterable], Value] | None = None  # min or max; None where no end is better
    absent: str = "not measured"  # why a cell may be empty
    group: str = ""  # heading that neighbouring columns share

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def cell(self, record: Record) -> Cell:
        value = self.read(record)
        return Cell(notation.DASH, None, note=self.absent) if value is None else Cell(self.show(value), value)


@dataclass(frozen=True)
class SummaryRow:
    """One scheme's line; `error` is the sentence that stands in for the cells of a failed one."""

    scheme: str
    title: str
    cells: tuple[Cell, ...]
    error: str | None


def summary_columns(comparison: Comparison) -> tuple[Column[SchemeResult], ...]:
    """Columns of the main table, in the order of `SummaryRow.cells`; the first is the scheme."""
    info = comparison.info
    better = max if info.higher_is_better else min
    sizes = [row.model_bytes for row in comparison.rows if row.model_bytes]
    size_name, size_unit, size_places = notation.size_scale(min([*sizes, info.float_bytes]))
    element_bits = lambda value: notation.decimal(value, 2)  # noqa: E731
    unit, show_metric = info.metric_unit, lambda value: notation.decimal(value, 2)
    return (
        Column("scheme", "scheme", "", "the call that makes the scheme", lambda row: row.scheme, str),
        Column("metric", info.metric, unit, _metric_meaning(info), lambda row: row.metric, show_metric, better),
        Column("delta", "Δ float", "points" if info.metric_unit == "%" else info.metric_unit,
               f"{info.metric} minus the float model's", lambda row: delta(info, row),
               lambda value: notation.signed(value, 2), better),
        Column("simulated_metric", "simulated", unit, f"{info.metric} in float emulation of the same codes",
               lambda row: row.simulated_metric, show_metric, better),
        Column("agreement_percent", "agreement", "%", "decisions equal to the float model's",
               lambda row: row.agreement, lambda value: notation.decimal(value, 2), max),
        Column("weight_bits", "weight", "bits", "stored bits per weight, scales and side bits included",
               lambda row: row.weight_bits, element_bits, min, "weights stay in float"),
        Column("input_bits", "input", "bits", "bits per input element, scales and side bits included",
               lambda row: row.input_bits, element_bits, min, "inputs stay in float"),
        Column("model_bytes", "size", size_name, "stored parameters of the whole model", lambda row: row.model_bytes,
               lambda value: notation.decimal(value / size_unit, size_places), min),
        Column("accumulator_bits", "accumulator", "bits", "largest width that any layer's weight codes require",
               lambda row: row.accumulator_bits, notation.bits, min, "float accumulator"),
        Column("overflow_rate", "overflows", "%", "accumulations that left the accumulator's range",
               lambda row: row.overflow_rate, notation.per_cent, min, "float accumulator"),
        Column("output_sqnr_db", "output SQNR", "dB", "signal over quantization noise at the model's output",
               lambda row: row.output_sqnr_db, lambda value: notation.decimal(value, 1), max),
        Column("seconds", "time", "s", "wall time of calibration and evaluation", lambda row: row.seconds,
               lambda value: notation.decimal(value, 1)),
    )  # fmt: skip


def summary_rows(comparison: Comparison) -> tuple[SummaryRow, ...]:
    """One row per scheme in the comparison's order, best figures marked; a failed scheme competes for none."""
    columns = summary_columns(comparison)
    lines = iter(best_marked(columns, [row for row in comparison.rows if row.error is None]))
    return tuple(
        SummaryRow(
            row.scheme,
            row.title,
            next(lines) if row.error is None else tuple(column.cell(row) for column in columns),
            row.error,
        )
        for row in comparison.rows
    )


def best_marked(columns: Sequence[Column[Record]], records: Sequence[Record]) -> list[tuple[Cell, ...]]:
    """One line a record, the best figure of each column marked."""
    lines = [[column.cell(record) for column in columns] for record in records]
    best = [_best_text(column, [line[i] for line in lines]) for i, column in enumerate(columns)]
    return [_marked(line, best) for line in lines]


def baseline_cells(comparison: Comparison) -> tuple[Cell, ...]:
    """The float model's cells under the same columns: what the rows are compared with."""
    info = comparison.info
    known = {"scheme": "float", "metric": info.float_metric, "model_bytes": info.float_bytes}
    return tuple(
        Cell(column.show(known[column.key]), known[column.key])
        if column.key in known
        else Cell(notation.DASH, None, note="the float model is the reference")
        for column in summary_columns(comparison)
    )


def delta(info: RunInfo, row: SchemeResult) -> float | None:
    """Metric minus the float model's: in points when the metric is in per cent."""
    lost = loss(info, row)
    if lost is None:
        return None
    return -lost if info.higher_is_better else lost


def _sqnr(group: str, key: str) -> Column[LayerResult]:
    noise = f"signal over quantization noise of the layer's {group}"
    return Column(f"{group}_sqnr_db", "SQNR", "dB", noise, lambda layer: getattr(layer, key),
                  lambda value: notation.decimal(value, 1), absent=f"{group} stays in float", group=group)  # fmt: skip


def _fraction(group: str, title: str, key: str, meaning: str) -> Column[LayerResult]:
    return Column(f"{key}_fraction", title, "%", f"{group} elements {meaning}", lambda layer: getattr(layer, key),
                  notation.per_cent, absent=f"{group} stays in float", group=group)  # fmt: skip


def _operand(group: str) -> tuple[Column[LayerResult], ...]:
    in_float = f"{group} stays in float"
    return (
        Column(f"{group}_format", "format", "", "format that calibration chose",
               lambda layer: getattr(layer, f"{group}_format"), str, absent=in_float, group=group),
        Column(f"{group}_bits", "bits", "", "bits per element, scales and side bits included",
               lambda layer: getattr(layer, f"{group}_bits"), notation.bits, absent=in_float, group=group),
    )  # fmt: skip


LAYER_COLUMNS: tuple[Column[LayerResult], ...] = (
    Column("layer", "layer", "", "name in the model", lambda layer: layer.name, str),
    Column("kind", "kind", "", "what the layer computes", lambda layer: layer.kind, str),
    Column("shape", "m × k × n", "", "input rows per sample, reduction length, outputs; × groups",
           lambda layer: f"{layer.m} × {layer.k} × {layer.n}" + (f" (× {layer.groups})" if layer.groups > 1 else ""),
           str),
    *_operand("input"),
    Column("input_range", "range", "", "static range that calibration fixed",
           lambda layer: layer.input_range and notation.interval(*layer.input_range), str,
           absent="dynamic: set from each input", group="input"),
    _sqnr("input", "input_sqnr_db"),
    _fraction("input", "clipped", "input_clipped", "outside the representable range"),
    _fraction("input", "zeros", "input_zeros", "encoded as zero"),
    *_operand("weight"),
    _sqnr("weight", "weight_sqnr_db"),
    _fraction("weight", "clipped", "weight_clipped", "outside the representable range"),
    _fraction("weight", "zeros", "weight_zeros", "encoded as zero"),
    _sqnr("output", "output_sqnr_db"),
    Column("accumulator_bits_bound", "bound", "", "accumulator bits that the formats alone guarantee to suffice",
           lambda layer: layer.accumulator_bits_bound, notation.bits, absent="no integer bound",
           group="accumulator bits"),
    Column("accumulator_bits", "certified", "", "accumulator bits that these weight codes require",
           lambda layer: layer.accumulator_bits, notation.bits, absent="no integer bound", group="accumulator bits"),
    Column("accumulator_bits_available", "available", "", "accumulator bits of the datapath",
           lambda layer: layer.accumulator_bits_available, notation.bits, absent="float accumulator",
           group="accumulator bits"),
    Column("overflow_fraction", "overflows", "%", "accumulations that left the accumulator's range",
           lambda layer: layer.overflows / layer.accumulations if layer.accumulations else None, notation.per_cent,
           absent="no accumulations counted"),
)  # fmt: skip


def layer_cells(layer: LayerResult) -> tuple[Cell, ...]:
    """One layer under `LAYER_COLUMNS`."""
    return tuple(column.cell(layer) for column in LAYER_COLUMNS)


def layer_column(key: str) -> Column[LayerResult]:
    return next(column for column in LAYER_COLUMNS if column.key == key)


def _metric_meaning(info: RunInfo) -> str:
    direction = "higher is better" if info.higher_is_better else "lower is better"
    return f"{info.metric} on {notation.plural(info.samples, 'sample')}, {info.evaluation}; {direction}"


def _best_text(column: Column, cells: list[Cell]) -> str | None:
    """The printed best figure; None where nothing is better than the rest."""
    known = [cell for cell in cells if isinstance(cell.value, int | float) and cell.value == cell.value]
    if column.best is None or len({cell.text for cell in known}) < 2:
        return None
    best = column.best(cell.value for cell in known)
    return next(cell.text for cell in known if cell.value == best)


def _marked(line: list[Cell], best: list[str | None]) -> tuple[Cell, ...]:
    return tuple(Cell(cell.text, cell.value, cell.text == text, cell.note) for cell, text in zip(line, best))
