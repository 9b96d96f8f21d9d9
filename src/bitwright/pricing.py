"""Prices of schemes on an accelerator, side by side: a task's or a description's products, through `bitwright.cost`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.config import from_text
from bitwright.cost.accelerator import Accelerator
from bitwright.cost.estimate import Cost, LayerCost, estimate
from bitwright.cost.figure import Sum
from bitwright.cost.gemm import read_config, read_header
from bitwright.cost.mac import Mac
from bitwright.cost.widths import job, widest_mac
from bitwright.gemm import LayerGemm
from bitwright.recipe import LayerInfo, Recipe
from bitwright.scheme import Scheme

if TYPE_CHECKING:
    from bitwright.model.task import Task

Work = tuple[tuple[LayerGemm, Scheme], ...]


Source = Callable[[Recipe | Scheme], tuple[Work, tuple[str, ...]]]
"""A network to price: its layers under a recipe or scheme, and what is left out."""


@dataclass(frozen=True)
class Price:
    """A scheme on an accelerator."""

    scheme: str
    cost: Cost
    left_out: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table of layers."""
        head = ["layer", "m", "k", "n", "groups", "calls", "cycles", "use %", "DRAM kB", "MAC nJ", "SRAM nJ", "DRAM nJ"]
        return _table([head, *(_layer_cells(layer) for layer in self.cost.layers)])

    def record(self) -> dict[str, Any]:
        """The same for machines: plain values, each sum with its origins."""
        cost, hardware = self.cost, self.cost.accelerator
        return {
            "scheme": self.scheme, "rows": hardware.rows, "columns": hardware.columns,
            "dataflow": hardware.dataflow.name, "clock_mhz": hardware.clock_mhz,
            "cycles": cost.cycles, "utilization": cost.utilization, "dram_bits": cost.dram_bits,
            "area_um2": asdict(cost.area_um2), "energy_pj": asdict(cost.energy_pj), "mac_pj": asdict(cost.mac_pj),
            "sram_pj": asdict(cost.sram_pj), "dram_pj": asdict(cost.dram_pj),
            "layers": [_layer_record(layer) for layer in cost.layers], "left_out": list(self.left_out),
        }  # fmt: skip


def task_source(task: "Task") -> Source:
    """Of a task: formats as calibration chooses them on its first sample."""

    def work(recipe: Recipe | Scheme) -> tuple[Work, tuple[str, ...]]:
        from bitwright.model.products import products  # torch is an extra

        return products(task, recipe)

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
        left = tuple(f"{layer.name}: no scheme" for layer, scheme in schemes if scheme is None)
        return tuple((layer, scheme) for layer, scheme in schemes if scheme is not None), left

    return work


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
        mac = cells(work)
        fitted = accelerator
        if has_equal_area and prices:
            fitted = accelerator.with_array_area(prices[0].cost.areas_um2["array"].value, mac)
        prices.append(Price(scheme, estimate(fitted, mac, [job(*each) for each in work]), left))
    return tuple(prices)


def lines(prices: Sequence[Price]) -> list[str]:
    """A table of schemes, ratios beside the first."""
    head = ["scheme", "array", "cycles", "use %", "ms", "DRAM MB", "MAC µJ", "SRAM µJ", "DRAM µJ", "total µJ", "mm²",
            "time ×", "energy ×"]  # fmt: skip
    first = prices[0].cost
    return [*_table([head, *(_total_cells(p, first) for p in prices)]), *_notes(prices)]


def _layer_record(cost: LayerCost) -> dict[str, Any]:
    return {
        "name": cost.layer.name, **asdict(cost.layer.gemm), "calls": cost.layer.calls, "cycles": cost.cycles,
        "compute_cycles": cost.compute_cycles, "utilization": cost.utilization, "sram_bits": cost.sram._asdict(),
        "dram_bits": cost.dram._asdict(), "mac_pj": cost.mac_pj.value, "dram_pj": cost.dram_pj.value,
        "sram_pj": sum(figure.value for figure in cost.sram_pj),
    }  # fmt: skip


def _layer_cells(cost: LayerCost) -> list[str]:
    gemm = cost.layer.gemm
    sizes = [str(i) for i in (gemm.m, gemm.k, gemm.n, gemm.groups, cost.layer.calls)]
    sram = sum(figure.value for figure in cost.sram_pj)
    energies = [f"{pj / 1e3:,.1f}" for pj in (cost.mac_pj.value, sram, cost.dram_pj.value)]
    return [cost.layer.name, *sizes, f"{cost.cycles:,}", f"{100 * cost.utilization:.1f}",
            f"{cost.dram.total / 8e3:,.1f}", *energies]  # fmt: skip


def _total_cells(price: Price, first: Cost) -> list[str]:
    cost, hardware = price.cost, price.cost.accelerator
    energies = [f"{part.value / 1e6:,.3g}" for part in (cost.mac_pj, cost.sram_pj, cost.dram_pj, cost.energy_pj)]
    return [
        price.scheme, f"{hardware.rows}x{hardware.columns}", f"{cost.cycles:,}", f"{100 * cost.utilization:.1f}",
        f"{1e3 * cost.seconds:,.4g}", f"{cost.dram_bits / 8e6:,.4g}", *energies, f"{cost.area_um2.value / 1e6:.3f}",
        f"{first.cycles / cost.cycles:.2f}" if cost.cycles else "–",
        f"{first.energy_pj.value / cost.energy_pj.value:.2f}" if cost.energy_pj.value else "–",
    ]  # fmt: skip


def _notes(prices: Sequence[Price]) -> list[str]:
    costs = [price.cost for price in prices]
    parts = {
        "area": [c.area_um2 for c in costs], "MAC energy": [c.mac_pj for c in costs],
        "SRAM energy": [c.sram_pj for c in costs], "DRAM energy": [c.dram_pj for c in costs],
    }  # fmt: skip
    notes = [f"{what}: {_origin(sums)}" for what, sums in parts.items() if any(s.value for s in sums)]
    left = dict.fromkeys(line for price in prices for line in price.left_out)
    return ["", *notes, *(f"not priced: {line}" for line in left)]


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
