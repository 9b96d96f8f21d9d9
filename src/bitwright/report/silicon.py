"""Area, energy and delay of the schemes on one array: columns of the tables, their origins, and what has no price."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitwright.report import notation
from bitwright.report.tables import Cell, Column, Value, best_marked, summary_columns
from bitwright.result import Comparison, Hardware, Priced, SchemePrice, SchemeResult

FIGURES = (("area", "area_mm2"), ("energy", "energy_uj"), ("delay", "delay_ms"))
"""Name and field of what has an origin."""

INITIALS = {"measured": "M", "fitted": "F", "cited": "C", "counted": "N"}
"""Of origins, as the table has them."""

_MOST_SOURCES = 6


@dataclass(frozen=True)
class PricedRow:
    """A scheme with its price."""

    row: SchemeResult
    price: SchemePrice

    @property
    def energy_delay(self) -> float | None:
        """µJ · ms."""
        energy, delay = self.price.energy_uj, self.price.delay_ms
        return None if energy is None or delay is None else energy.value * delay.value


def priced_rows(comparison: Comparison) -> list[PricedRow]:
    """Schemes with a result, in the comparison's order; none where nothing was priced."""
    prices = _prices(comparison)
    return [PricedRow(row, prices[row.scheme]) for row in comparison.rows if row.error is None and row.scheme in prices]


def price_of(comparison: Comparison, row: SchemeResult) -> SchemePrice | None:
    """None where nothing was priced."""
    return _prices(comparison).get(row.scheme)


def table_columns(comparison: Comparison) -> tuple[Column[PricedRow], ...]:
    """Columns of the page's table: the metric, and what it takes."""
    metric = next(column for column in summary_columns(comparison) if column.key == "metric")
    return (
        Column("scheme", "scheme", "", "the call that makes the scheme", lambda record: record.row.scheme, str),
        Column(metric.key, metric.title, metric.unit, metric.meaning, lambda record: record.row.metric, metric.show,
               metric.best),
        _figure("area_mm2", "total", "mm²", "array and buffers", "area"),
        _plain("array_mm2", "array", "mm²", "elements and the array's edge", "area"),
        _origin("area_mm2", "area"),
        _figure("energy_uj", "total", "µJ", "dynamic, a sample", "energy"),
        _plain("array_uj", "array", "µJ", "multiply-accumulates and the array's edge, a sample", "energy"),
        _plain("sram_uj", "SRAM", "µJ", "buffers, a sample", "energy"),
        _plain("dram_uj", "DRAM", "µJ", "memory outside, a sample", "energy"),
        _origin("energy_uj", "energy"),
        _figure("delay_ms", "total", "ms", "a sample", "delay"),
        Column("utilization_fraction", "use", "%", "multiply-accumulates over those that the array could do",
               lambda record: record.price.utilization, notation.per_cent, max, _ABSENT, "delay"),
        _origin("delay_ms", "delay"),
        Column("energy_delay_uj_ms", "E × D", "µJ·ms", "energy times delay", lambda record: record.energy_delay,
               notation.three_digits, min, _ABSENT),
    )  # fmt: skip


def table_cells(comparison: Comparison) -> list[tuple[Cell, ...]]:
    """One line a priced row, without its name; published cells compete for no best area or energy."""
    columns, found = table_columns(comparison)[1:], priced_rows(comparison)
    apart = published(found)
    alike = [each for each in found if each not in apart]
    marked = {each.row.scheme: line for each, line in zip(alike, best_marked(columns, alike))}
    return [
        tuple(
            cell if column.key in ("metric", "delay_ms", "utilization_fraction") else near
            for column, cell, near in zip(columns, line, marked.get(each.row.scheme) or _unmarked(columns, each))
        )
        for each, line in zip(found, best_marked(columns, found))
    ]


def csv_columns() -> tuple[Column[SchemePrice], ...]:
    """Columns of the CSV file: each figure with its origin, and why there is none."""
    columns: list[Column[SchemePrice]] = []
    for name, key in FIGURES:
        columns += [
            Column(key, name, "", "", lambda price, key=key: _value(getattr(price, key)), str),
            Column(f"{name}_origin", name, "", "", lambda price, key=key: _words(getattr(price, key)), str),
            Column(f"{name}_source", name, "", "",
                   lambda price, key=key: "; ".join(getattr(price, key).sources) if getattr(price, key) else None, str),
        ]  # fmt: skip
    return (*columns, Column("price_error", "", "", "", lambda price: price.error, str))


def origins(comparison: Comparison) -> list[tuple[str, str]]:
    """Each figure with the words and sources that it is made of."""
    said = []
    for name, key in FIGURES:
        found = [figure for priced in priced_rows(comparison) if (figure := getattr(priced.price, key)) is not None]
        if found:
            words = sorted({word for figure in found for word in figure.origins})
            sources = list(dict.fromkeys(source for figure in found for source in figure.sources))
            more = len(sources) - _MOST_SOURCES
            shown = "; ".join(sources[:_MOST_SOURCES]) + (f"; and {more} more in results.csv" if more > 0 else "")
            said.append((name, f"{' + '.join(words)} ({shown})"))
    return said


def missing(comparison: Comparison) -> list[tuple[str, str]]:
    """Schemes without a price, and why."""
    return [(found.row.scheme, found.price.error) for found in priced_rows(comparison) if found.price.error is not None]


def published(found: Iterable[PricedRow]) -> list[PricedRow]:
    """Those whose cells nobody measured, where others' were: such prices do not compare."""
    priced = [each for each in found if each.price.error is None]
    without = [each for each in priced if each.price.is_published]
    return without if len(without) < len(priced) else []


def left_out(comparison: Comparison) -> list[str]:
    """What of the network no price has, each sentence once."""
    return list(dict.fromkeys(line for found in priced_rows(comparison) for line in found.price.left_out))


def described(hardware: Hardware) -> str:
    """The accelerator in words."""
    buffers = (hardware.weight_kilobytes, hardware.input_kilobytes, hardware.sum_kilobytes)
    return (
        f"{hardware.rows} × {hardware.columns} elements, {hardware.dataflow}, {hardware.clock_mhz:g} MHz; "
        f"buffers of {_listed(f'{size:g}' for size in buffers)} KB for weights, inputs and sums; "
        f"{hardware.dram}, {hardware.dram_bits} bits a cycle"
    )


def summary(found: PricedRow) -> str:
    """One scheme's figures on a line."""
    shown = ((key, getattr(found.price, key)) for _, key in FIGURES)
    units = {"area_mm2": "mm²", "energy_uj": "µJ", "delay_ms": "ms"}
    return ", ".join(f"{notation.three_digits(figure.value)} {units[key]}" for key, figure in shown if figure)


_ABSENT = "no price; the reason stands below"


def _unmarked(columns: Sequence[Column[PricedRow]], found: PricedRow) -> tuple[Cell, ...]:
    """Cells of which none is marked."""
    return tuple(column.cell(found) for column in columns)


def _prices(comparison: Comparison) -> dict[str, SchemePrice]:
    return {} if comparison.silicon is None else {price.scheme: price for price in comparison.silicon.prices}


def _figure(key: str, title: str, unit: str, meaning: str, group: str) -> Column[PricedRow]:
    return Column(key, title, unit, f"{group}: {meaning}", lambda record: _value(getattr(record.price, key)),
                  notation.three_digits, min, _ABSENT, group)  # fmt: skip


def _plain(key: str, title: str, unit: str, meaning: str, group: str) -> Column[PricedRow]:
    return Column(key, title, unit, f"{group}: {meaning}", lambda record: getattr(record.price, key),
                  notation.three_digits, min, _ABSENT, group)  # fmt: skip


def _origin(key: str, group: str) -> Column[PricedRow]:
    meaning = f"{group}: measured here, fitted to what others give, cited, counted"
    return Column(f"{group}_origin", "origin", "", meaning,
                  lambda record: _words(getattr(record.price, key)), _initials, None, _ABSENT, group)  # fmt: skip


def _value(figure: Priced | None) -> Value:
    return None if figure is None else figure.value


def _words(figure: Priced | None) -> Value:
    return None if figure is None else " + ".join(figure.origins)


def _initials(words: str) -> str:
    return " ".join(INITIALS[word] for word in words.split(" + "))


def _listed(words: Iterable[str]) -> str:
    several: Sequence[str] = list(words)
    return f"{', '.join(several[:-1])} and {several[-1]}"
