"""Prices of schemes on an accelerator, side by side: a task's or a description's products, through `bitwright.cost`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.config import from_text, label_of
from bitwright.cost.accelerator import Accelerator
from bitwright.cost.elements import elements, side_by_side
from bitwright.cost.estimate import Cost, LayerCost, estimate
from bitwright.cost.figure import Figure, Fitted, Sum
from bitwright.cost.fpga import FAMILIES, RESOURCES, Part, count_cells
from bitwright.cost.gemm import read_config, read_header
from bitwright.cost.mac import Mac, slower_than
from bitwright.cost.widths import job, require_fit, widest_mac
from bitwright.gemm import LayerGemm
from bitwright.recipe import LayerInfo, Recipe
from bitwright.scheme import Scheme

if TYPE_CHECKING:
    from torch import nn

    from bitwright.model.task import Inputs, Task

PUBLISHED_LEAVES_OUT = "registers, decoders, shifters, scale hardware, requantization and encoders"

Work = tuple[tuple[LayerGemm, Scheme], ...]


Source = Callable[[Recipe | Scheme], tuple[Work, tuple[str, ...]]]
"""A network to price: its layers under a recipe or scheme, and what is left out."""


@dataclass(frozen=True)
class Price:
    """A scheme on an accelerator."""

    scheme: str
    cost: Cost
    left_out: tuple[str, ...]
    mac: Mac | None = None
    """The cell that it is priced with."""

    def lines(self) -> list[str]:
        """A table of layers."""
        head = ["layer", "m", "k", "n", "groups", "calls", "cycles", "use %", "DRAM kB", "MAC nJ", "edge nJ", "SRAM nJ",
                "DRAM nJ"]  # fmt: skip
        return _table([head, *(_layer_cells(layer) for layer in self.cost.layers)])

    def record(self) -> dict[str, Any]:
        """The same for machines: plain values, each sum with its origins."""
        cost, hardware = self.cost, self.cost.accelerator
        return {
            "scheme": self.scheme, "rows": hardware.rows, "columns": hardware.columns,
            "dataflow": hardware.dataflow.name, "clock_mhz": hardware.clock_mhz,
            "cycles": cost.cycles, "utilization": cost.utilization, "dram_bits": cost.dram_bits,
            "area_um2": asdict(cost.area_um2), "energy_pj": asdict(cost.energy_pj), "mac_pj": asdict(cost.mac_pj),
            "edge_pj": asdict(cost.edge_pj), "sram_pj": asdict(cost.sram_pj), "dram_pj": asdict(cost.dram_pj),
            "areas_um2": {name: _figure(figure) for name, figure in cost.areas_um2.items()},
            "cell": None if self.mac is None else _cell_record(self.mac, cost),
            "layers": [_layer_record(layer) for layer in cost.layers], "left_out": list(self.left_out),
        }  # fmt: skip


def task_source(task: "Task") -> Source:
    """Of a task: formats as calibration chooses them on its first sample, or those of a network that has its own."""
    from bitwright.model.prepare import is_quantized  # torch is an extra

    network = task.load()
    if is_quantized(network):
        return stored_source(network, next(iter(task.calibration())).first(1).inputs)

    def work(recipe: Recipe | Scheme) -> tuple[Work, tuple[str, ...]]:
        from bitwright.model.products import products  # torch is an extra

        found = products(task, recipe)
        require_fit(pair for pair in found.layers if pair[0].is_of_activations)  # weights were looked at
        return found

    return work


STORED = "stored = integer(8, 8)"
"""A text for `price` of a model that is quantized already: the name counts, the scheme is not asked."""


def stored_source(frozen: "nn.Module", inputs: "Inputs") -> Source:
    """Of a model that is quantized already, under the schemes that it has: the one that is priced is not asked."""

    def work(recipe: Recipe | Scheme) -> tuple[Work, tuple[str, ...]]:
        from bitwright.model.products import stored_products  # torch is an extra

        return stored_products(frozen, inputs)

    return work


def described_source(path: Path, tokens: int, context: int | None = None) -> Source:
    """Of a language model's config.json, or of the header of a .safetensors file."""
    is_header = path.suffix == ".safetensors"
    layers = read_header(path, tokens) if is_header else read_config(path).products(tokens, context)

    def work(recipe: Recipe | Scheme) -> tuple[Work, tuple[str, ...]]:
        recipe = Recipe.uniform(recipe) if isinstance(recipe, Scheme) else recipe
        if recipe.promotion is not None:
            raise ValueError("a promotion looks at data, which a description has not; name the layers in rules")
        infos = [LayerInfo(layer.name, "attention" if layer.is_of_activations else "Linear") for layer in layers]
        assigned = recipe.assign(infos)
        schemes = [(layer, assigned.get(layer.name)) for layer in layers]
        reasons = [_reason(layer, scheme) for layer, scheme in schemes]
        found = tuple((layer, s) for (layer, s), why in zip(schemes, reasons, strict=True) if s and not why)
        require_fit(found)
        left = dict.fromkeys(why for why in reasons if why)
        return found, tuple(
            f"{_listed([layer.name for (layer, _), own in zip(schemes, reasons, strict=True) if own == why])}: {why}"
            for why in left
        )

    return work


def _reason(layer: LayerGemm, scheme: Scheme | None) -> str | None:
    """Why the array does not do a layer's products."""
    if scheme is None:
        return "no scheme"
    if layer.is_of_activations and scheme.input is not None:
        return scheme.float_attention and f"stays in float, {scheme.float_attention}"
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"


def price(
    source: Source, schemes: Sequence[str], accelerator: Accelerator, *, batch: int = 1, has_equal_area: bool = False,
    cells: Callable[[Work], Mac] = widest_mac,
) -> tuple[Price, ...]:  # fmt: skip
    """Each scheme on an array of as many cells, or of the area that the first one's cells take.

    `cells` gives the area and energy of the cells that a scheme's layers need; published multipliers by default.
    """
    prices: list[Price] = []
    for scheme in schemes:
        found, left = source(from_text(scheme))
        work = tuple((layer.batched(batch), assigned) for layer, assigned in found)
        macs = _elements(work, cells)
        mac = side_by_side(macs)
        fitted = accelerator
        if has_equal_area and prices:
            _require_one_origin(prices[0], scheme, mac)
            areas = prices[0].cost.areas_um2
            fitted = accelerator.with_array_area(sum(areas[n].value for n in ("array", "edge") if n in areas), mac)
        prices.append(Price(label_of(scheme), _estimate(fitted, macs, work), left, mac))
    return tuple(prices)


def _elements(work: Work, cells: Callable[[Work], Mac]) -> dict[Scheme, Mac]:
    """Of each layer's scheme: one for all, or side by side where none serves all."""
    mac = cells(work)
    schemes = {scheme: tuple(pair for pair in work if pair[1] == scheme) for _, scheme in work}
    return dict.fromkeys(schemes, mac) if mac.serves_all else elements(schemes, cells)


def _estimate(machine: Accelerator, macs: dict[Scheme, Mac], work: Work) -> Cost:
    """Each layer on its element."""
    layers = [estimate(machine, macs[scheme], [job(layer, scheme)]).layers for layer, scheme in work]
    return Cost(machine, tuple(layer for (layer,) in layers), machine.areas_um2(side_by_side(macs)))


@dataclass(frozen=True)
class CountedPrice:
    """A scheme on an array of an FPGA: cycles and traffic, and the family's cells."""

    scheme: str
    cost: Cost
    """Of which energies and areas mean nothing here."""
    part: Part
    counts: dict[str, Figure]
    remarks: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def buffer_memories(self) -> int:
        """Block memories that hold what the three buffers hold."""
        buffers = self.cost.accelerator.capacity
        return sum(ceil(bits / self.part.memory_bits) for bits in buffers)

    def record(self) -> dict[str, Any]:
        """For machines: plain values, each count with its origin."""
        cost, hardware = self.cost, self.cost.accelerator
        return {
            "scheme": self.scheme, "part": self.part.title, "rows": hardware.rows, "columns": hardware.columns,
            "dataflow": hardware.dataflow.name, "clock_mhz": hardware.clock_mhz, "cycles": cost.cycles,
            "utilization": cost.utilization, "dram_bits": cost.dram_bits,
            "counts": {name: _figure(figure) for name, figure in self.counts.items()},
            "buffer_memories": {"value": self.buffer_memories, "origin": "cited", "source": self.part.source},
            "remarks": list(self.remarks), "left_out": list(self.left_out),
        }  # fmt: skip


def count(
    source: Source, schemes: Sequence[str], accelerator: Accelerator, family: str, *, batch: int = 1
) -> tuple[CountedPrice, ...]:
    """Each scheme on an array of as many cells of an FPGA family, by its name in `fpga.FAMILIES`."""
    prices = []
    for scheme in schemes:
        found, left = source(from_text(scheme))
        work = tuple((layer.batched(batch), assigned) for layer, assigned in found)
        cells = count_cells(work, family)
        cost = estimate(accelerator, widest_mac(work), [job(*each) for each in work])
        counts = cells.array(accelerator.rows, accelerator.columns)
        prices.append(CountedPrice(label_of(scheme), cost, FAMILIES[family], counts, cells.remarks, left))
    return tuple(prices)


def counted_lines(prices: Sequence[CountedPrice]) -> list[str]:
    """A table of schemes, ratios beside the first, and what the counts leave out."""
    head = ["scheme", "array", "cycles", "use %", "ms", "DRAM MB", *RESOURCES.values(), "time ×", "LUT ×"]
    first, part = prices[0], prices[0].part
    rows = [[
        p.scheme, f"{p.cost.accelerator.rows}x{p.cost.accelerator.columns}", f"{p.cost.cycles:,}",
        f"{100 * p.cost.utilization:.1f}", f"{1e3 * p.cost.seconds:,.4g}", f"{p.cost.dram_bits / 8e6:,.4g}",
        *(f"{p.counts[name].value:,.0f}" for name in RESOURCES), _ratio(first.cost.cycles, p.cost.cycles),
        _ratio(first.counts["luts"].value, p.counts["luts"].value),
    ] for p in prices]  # fmt: skip
    left = dict.fromkeys(line for price in prices for line in price.left_out)
    origins = sorted({figure.origin for price in prices for figure in price.counts.values()})
    sources = dict.fromkeys(figure.source for price in prices for figure in price.counts.values())
    return [
        *_table([head, *rows]), "", f"counts: {' + '.join(origins)} ({'; '.join(sources)})",
        *(f"{price.scheme}: {'; '.join(price.remarks)}" for price in prices),
        f"{part.title}: counts of the array and its edge; its buffers would fill {first.buffer_memories:,} more "
        f"{part.memory} (cited: {part.source})",
        "products are spelled out as partial products, which yosys maps to look-up tables, not to multiplier blocks",
        f"no area and no energy: an FPGA's table has none; ms are those of {first.cost.accelerator.clock_mhz:g} MHz, "
        "which nothing here shows the part to reach",
        *(f"not priced: {line}" for line in left),
    ]  # fmt: skip


def _ratio(first: float | int, value: float | int) -> str:
    return f"{first / value:.2f}" if value else "–"


def _require_one_origin(first: Price, scheme: str, mac: Mac) -> None:
    """Areas of published multipliers leave out what measured cells have."""
    if first.mac is None or (first.mac.feature_nm is None) == (mac.feature_nm is None):
        return
    lacking, found = (scheme, mac) if mac.feature_nm is None else (first.scheme, first.mac)
    raise ValueError(
        f"{lacking}: {'; '.join(found.remarks) or 'no measured cell'}; leave it out where areas are made equal, or "
        "take published ones for all, as with --library published"
    )


def lines(prices: Sequence[Price]) -> list[str]:
    """A table of schemes, ratios beside the first."""
    head = ["scheme", "array", "cycles", "use %", "ms", "DRAM MB", "MAC µJ", "edge µJ", "SRAM µJ", "DRAM µJ",
            "total µJ", "array mm²", "mm²", "time ×", "energy ×"]  # fmt: skip
    first = prices[0].cost
    return [*_table([head, *(_total_cells(p, first) for p in prices)]), *_notes(prices)]


def _layer_record(cost: LayerCost) -> dict[str, Any]:
    return {
        "name": cost.layer.name, **asdict(cost.layer.gemm), "calls": cost.layer.calls, "cycles": cost.cycles,
        "compute_cycles": cost.compute_cycles, "utilization": cost.utilization, "sram_bits": cost.sram._asdict(),
        "dram_bits": cost.dram._asdict(), "mac_pj": cost.mac_pj.value, "dram_pj": cost.dram_pj.value,
        "sram_pj": sum(figure.value for figure in cost.sram_pj),
        "edge_pj": sum(figure.value for figure in cost.edge_pj),
    }  # fmt: skip


def _cell_record(mac: Mac, cost: Cost) -> dict[str, Any]:
    return {
        "area_um2": _figure(mac.area_um2), "energy_pj": _figure(mac.energy_pj), "calibration": mac.calibration,
        "uncalibrated_energy_pj": mac.energy_pj.value / mac.calibration,
        "uncalibrated_mac_pj": cost.mac_pj.value / mac.calibration, "feature_nm": mac.feature_nm,
        "period_ns": mac.period_ns or None, "remarks": list(mac.remarks),
    }  # fmt: skip


def _figure(figure: Figure) -> dict[str, Any]:
    ratio = {"worst_ratio": figure.worst_ratio} if isinstance(figure, Fitted) else {}
    return {"value": figure.value, "origin": figure.origin, "source": figure.source} | ratio


def _layer_cells(cost: LayerCost) -> list[str]:
    gemm = cost.layer.gemm
    sizes = [str(i) for i in (gemm.m, gemm.k, gemm.n, gemm.groups, cost.layer.calls)]
    sram = sum(figure.value for figure in cost.sram_pj)
    edge = sum(figure.value for figure in cost.edge_pj)
    energies = [f"{pj / 1e3:,.1f}" for pj in (cost.mac_pj.value, edge, sram, cost.dram_pj.value)]
    return [cost.layer.name, *sizes, f"{cost.cycles:,}", f"{100 * cost.utilization:.1f}",
            f"{cost.dram.total / 8e3:,.1f}", *energies]  # fmt: skip


def _total_cells(price: Price, first: Cost) -> list[str]:
    cost, hardware = price.cost, price.cost.accelerator
    parts = cost.mac_pj, cost.edge_pj, cost.sram_pj, cost.dram_pj, cost.energy_pj
    energies = [f"{part.value / 1e6:,.3g}" for part in parts]
    array = sum(cost.areas_um2[name].value for name in ("array", "edge") if name in cost.areas_um2)
    return [
        price.scheme, f"{hardware.rows}x{hardware.columns}", f"{cost.cycles:,}", f"{100 * cost.utilization:.1f}",
        f"{1e3 * cost.seconds:,.4g}", f"{cost.dram_bits / 8e6:,.4g}", *energies,
        f"{array / 1e6:.3f}", f"{cost.area_um2.value / 1e6:.3f}",
        f"{first.cycles / cost.cycles:.2f}" if cost.cycles else "–",
        f"{first.energy_pj.value / cost.energy_pj.value:.2f}" if cost.energy_pj.value else "–",
    ]  # fmt: skip


def _notes(prices: Sequence[Price]) -> list[str]:
    costs = [price.cost for price in prices]
    parts = {
        "area": [c.area_um2 for c in costs], "MAC energy": [c.mac_pj for c in costs],
        "edge energy": [c.edge_pj for c in costs],
        "SRAM energy": [c.sram_pj for c in costs], "DRAM energy": [c.dram_pj for c in costs],
    }  # fmt: skip
    notes = [f"{what}: {_origin(sums)}" for what, sums in parts.items() if any(s.value for s in sums)]
    left = dict.fromkeys(line for price in prices for line in price.left_out)
    return ["", *notes, *cell_notes(prices), *(f"not priced: {line}" for line in left)]


def cell_notes(prices: Sequence[Price]) -> list[str]:
    """What stands behind the cells, and where their figures must not be mixed with others."""
    macs = [(price, price.mac) for price in prices if price.mac is not None]
    notes = [_cell_note(price, mac) for price, mac in macs if mac.remarks]
    if any(mac.feature_nm is None for _, mac in macs):
        notes.append(f"published cells are a multiplier and an adder: left out {PUBLISHED_LEAVES_OUT}")
    factors = sorted({mac.calibration for _, mac in macs if mac.calibration != 1.0})
    if factors:
        said = ", ".join(f"{factor:g}" for factor in factors)
        notes.append(f"calibrated: the library's own energies × {said}, by which its operators cost what Horowitz' do")
    buffer = prices[0].cost.accelerator.weight_buffer.node_nm
    nodes = {mac.feature_nm for _, mac in macs if mac.feature_nm} - {buffer}
    if nodes:
        notes.append(f"the array's area is of {min(nodes)} nm, the buffers' of {buffer} nm: compare arrays, not sums")
    clock_mhz = prices[0].cost.accelerator.clock_mhz
    slow = [f"{price.scheme} {mac.clock_mhz:.0f}" for price, mac in macs if mac.clock_mhz < clock_mhz]
    if slow:
        notes.append(f"{slower_than(clock_mhz)}: {', '.join(slow)} MHz")
    return notes


def _cell_note(price: Price, mac: Mac) -> str:
    energy = f"; {price.cost.mac_pj.value / mac.calibration / 1e6:,.3g} µJ uncalibrated" if mac.calibration != 1 else ""
    return f"{price.scheme}: {'; '.join(mac.remarks)}{energy}"


def _origin(sums: Sequence[Sum]) -> str:
    words = " + ".join(sorted({word for s in sums for word in s.origins}))
    return f"{words} ({'; '.join(dict.fromkeys(source for s in sums for source in s.sources))})"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
