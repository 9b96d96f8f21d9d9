"""What stored weights could shrink to: tables of schemes and layers. The same columns complete the CSV file."""

from collections.abc import Callable

from bitwright.report import notation
from bitwright.report.tables import Cell, Column, Value, best_marked
from bitwright.result import Comparison, Compressibility, LayerResult, SchemeResult


def sized_rows(comparison: Comparison) -> list[SchemeResult]:
    """Schemes whose stored weights were measured."""
    return [row for row in comparison.rows if sized_layers(row)]


def sized_layers(row: SchemeResult) -> list[LayerResult]:
    return [layer for layer in row.layers if layer.weight_sizes is not None]


def whole(row: SchemeResult) -> Compressibility | None:
    """Of all quantized weights together; None of a scheme without any."""
    layers = sized_layers(row)
    return Compressibility.total(layer.weight_sizes for layer in layers) if layers else None


def scheme_columns(comparison: Comparison) -> tuple[Column[SchemeResult], ...]:
    """Columns of the schemes' table."""
    smallest = min((_bytes(whole(row), "entropy_bits") for row in sized_rows(comparison)), default=1.0)
    return (
        Column("scheme", "scheme", "", "the call that makes the scheme", lambda row: row.scheme, str),
        *_columns(whole, smallest),
    )


def scheme_cells(comparison: Comparison) -> list[tuple[Cell, ...]]:
    """One line a scheme without its name, best figures marked."""
    return best_marked(scheme_columns(comparison)[1:], sized_rows(comparison))


def layer_columns(comparison: Comparison) -> tuple[Column[LayerResult], ...]:
    """Columns of one scheme's layers, in the same unit for all schemes."""
    sizes = [_bytes(layer.weight_sizes, "entropy_bits") for row in comparison.rows for layer in sized_layers(row)]
    return (
        Column("layer", "layer", "", "name in the model", lambda layer: layer.name, str),
        *_columns(lambda layer: layer.weight_sizes, min(sizes, default=1.0)),
    )


def layer_cells(comparison: Comparison, row: SchemeResult) -> list[tuple[Cell, ...]]:
    """One line a layer."""
    columns = layer_columns(comparison)
    return [tuple(column.cell(layer) for column in columns) for layer in sized_layers(row)]


def layer_note(row: SchemeResult) -> str:
    """How many layers, and which one has most zeros."""
    shares = {layer.name: layer.weight_sizes.sparsity for layer in row.layers if layer.weight_sizes}
    parts = [notation.plural(len(shares), "layer")]
    sparsest = max(shares, key=shares.__getitem__)
    if shares[sparsest]:
        parts.append(f"most zeros in {sparsest}: {notation.per_cent(shares[sparsest])} %")
    return "; ".join(parts)


def _columns(read: Callable[..., Compressibility | None], smallest_bytes: float) -> tuple[Column, ...]:
    """The sizes of a record; `read` gives them, and the smallest decides the unit."""
    unit, unit_bytes, places = notation.size_scale(max(smallest_bytes, 1))
    group = f"weights, scales included ({unit})"

    def column(key: str, title: str, unit: str, meaning: str, value: Callable[[Compressibility], Value],
               show: Callable[..., str], best: Callable, group: str = "") -> Column:  # fmt: skip
        return Column(key, title, unit, meaning,
                      lambda record: None if read(record) is None else value(read(record)),
                      show, best, absent="no quantized weights", group=group)  # fmt: skip

    def size(key: str, title: str, meaning: str) -> Column:
        return column(f"{key}_bytes", title, "", meaning, lambda sizes: _bytes(sizes, f"{key}_bits"),
                      lambda value: notation.decimal(value / unit_bytes, places), min, group)  # fmt: skip

    def two_places(value: float) -> str:
        return notation.decimal(value, 2)

    return (
        column("weight_zeros_fraction", "zeros", "%", "weights that are zero", lambda sizes: sizes.sparsity,
               notation.per_cent, max),
        column("weight_entropy_bits", "entropy", "bits", "of a weight's code, order 0, by each layer's frequencies",
               lambda sizes: sizes.entropy, two_places, min),
        column("weight_scale_bits", "scales", "bits", "a weight's part of scales and zero points",
               lambda sizes: sizes.scale_bits / max(sizes.elements, 1), two_places, min),
        size("packed", "stored", "codes at the width of their format"),
        size("entropy", "entropy", "as much as an ideal code of single weights takes"),
        size("bitmap", "bitmap", "a bit a weight, and the codes that are not zero"),
        size("sparse", "CSR-8", "codes that are not zero, each with its distance from the last in 8 bits"),
        size("lzma", "LZMA", "packed codes compressed layer by layer, fastest preset"),
        size("zlib", "zlib", "codes on whole bytes compressed layer by layer, level 6"),
        column("entropy_over_float", "R32", "×", "32-bit floats over the entropy column",
               lambda sizes: sizes.over_float, two_places, max, "times smaller"),
        column("entropy_over_packed", "R_M", "×", "the stored column over the entropy column",
               lambda sizes: sizes.over_packed, two_places, max, "times smaller"),
    )  # fmt: skip


def _bytes(sizes: Compressibility, key: str) -> float:
    return (getattr(sizes, key) + sizes.scale_bits) / 8
