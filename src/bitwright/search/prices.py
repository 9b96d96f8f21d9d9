"""Costs of designs, from the same cells and schedules as `bitwright cost`, in milliseconds a design.

Schemes that one measured element serves share it. Others stand side by side in every place of the array: their areas
add, and a layer takes the energy of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import NamedTuple

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.elements import elements, side_by_side
from bitwright.cost.estimate import LayerCost, estimate
from bitwright.cost.figure import Figure, total
from bitwright.cost.hardware import accelerator
from bitwright.cost.mac import Mac, slower_than
from bitwright.cost.table_cells import Cells
from bitwright.cost.table_need import Need, need
from bitwright.cost.widths import job
from bitwright.search.candidates import Candidates, Product
from bitwright.search.point import Assignment, Costs, Design, Machine

ARRAY = ("array", "edge")

Work = dict[str, tuple[Product, ...]]
"""Products by the scheme's text."""


class LayerSums(NamedTuple):
    """What adds up over layers."""

    energy: float  # µJ
    cycles: float
    delay: float  # ms
    model: float  # bytes


def own_area(areas: Mapping[str, Figure]) -> float:
    """mm² without buffers."""
    return sum(figure.value for name, figure in areas.items() if name in ARRAY) / 1e6


@dataclass
class Prices:
    """Of a network's layers on accelerators that have `cells`; other words of the accelerator are the same for all."""

    candidates: Candidates
    cells: Cells
    words: Mapping[str, object] = field(default_factory=dict)
    _macs: dict[frozenset[tuple[int, int]], Mac] = field(default_factory=dict)
    _same: dict[Mac, Mac] = field(default_factory=dict)
    _needs: dict[Product, tuple[int, int]] = field(default_factory=dict)
    _kinds: dict[Need, int] = field(default_factory=dict)
    _layers: dict[tuple[Machine, int, str, str], tuple[LayerCost, ...]] = field(default_factory=dict)
    _sums: dict[tuple[Machine, int, str, str], LayerSums] = field(default_factory=dict)
    _machines: dict[Machine, Accelerator] = field(default_factory=dict)
    _areas: dict[tuple[Machine, frozenset[int]], dict[str, Figure]] = field(default_factory=dict)

    def of(self, design: Design) -> Costs:
        """All costs of a design. ValueError where a layer cannot be computed under its scheme."""
        assignment, machine = design.assignment, self.accelerator(design.machine)
        macs = self.elements(self.candidates.work(assignment))
        layers = [
            cost for name, text in assignment.items() if text in macs
            for cost in self.layers(design.machine, macs[text], name, text)
        ]  # fmt: skip
        areas, cycles = self.areas(design.machine, macs), sum(layer.cycles for layer in layers)
        area = total(areas.values())
        energy = total(f for one in layers for f in (one.mac_pj, *one.edge_pj, *one.sram_pj, one.dram_pj))
        return Costs(
            area.value / 1e6, own_area(areas), energy.value / 1e6,
            cycles / (machine.clock_mhz * 1e3), float(cycles), self.candidates.model_bytes(assignment),
            float(self.accumulator_bits(assignment)), tuple(sorted({*area.origins, *energy.origins})),
            _remarks(side_by_side(macs), machine.clock_mhz),
        )  # fmt: skip

    def elements(self, work: Work) -> dict[str, Mac]:
        """The element of each scheme; the same where one serves several."""
        return elements(work, self._mac)

    def areas(self, machine: Machine, macs: Mapping[str, Mac]) -> dict[str, Figure]:
        """µm² of the elements, their edges and the buffers."""
        key = machine, frozenset(map(id, macs.values()))
        if key not in self._areas:
            self._areas[key] = self.accelerator(machine).areas_um2(side_by_side(macs))
        return self._areas[key]

    def accelerator(self, machine: Machine) -> Accelerator:
        if machine not in self._machines:
            words = (machine.array, machine.dataflow, machine.buffers)
            self._machines[machine] = accelerator(*words, **self.words)  # type: ignore[arg-type]
        return self._machines[machine]

    def layers(self, machine: Machine, mac: Mac, name: str, text: str) -> tuple[LayerCost, ...]:
        """A layer's products under a scheme, on an array of elements that `elements` gave."""
        key = machine, id(mac), name, text  # elements are kept, each once, and hashing one costs more than a price
        if key not in self._layers:
            jobs = [job(p.gemm, p.scheme) for p in self.candidates.work({name: text}).get(text, ())]
            self._layers[key] = estimate(self.accelerator(machine), mac, jobs).layers if jobs else ()
        return self._layers[key]

    def of_layer(self, machine: Machine, mac: Mac, name: str, text: str) -> LayerSums:
        """One layer's products together, under one scheme."""
        key = machine, id(mac), name, text
        if key not in self._sums:
            costs = self.layers(machine, mac, name, text)
            cycles = sum(cost.cycles for cost in costs)
            self._sums[key] = LayerSums(
                sum(cost.energy_pj.value for cost in costs) / 1e6, cycles,
                cycles / (self.accelerator(machine).clock_mhz * 1e3), self.candidates.layer(name, text).bits / 8,
            )  # fmt: skip
        return self._sums[key]

    def accumulator_bits(self, assignment: Assignment) -> int:
        """Of the widest register that some layer's weights need."""
        found = (self.candidates.layer(name, text).accumulator_bits for name, text in assignment.items())
        return max((bits for bits in found if bits is not None), default=0)

    def _mac(self, products: Iterable[Product]) -> Mac:
        """Of the cells, each once; of products whose needs differ by their registers alone, the widest decides."""
        widest: dict[int, tuple[int, Product]] = {}
        for product in products:
            kind, bits = self._need(product)
            if kind not in widest or widest[kind][0] < bits:
                widest[kind] = bits, product
        key = frozenset((kind, bits) for kind, (bits, _) in widest.items())
        if key not in self._macs:
            mac = self.cells(tuple((p.gemm, p.scheme) for _, (_, p) in sorted(widest.items(), key=itemgetter(0))))
            self._macs[key] = self._same.setdefault(mac, mac)
        return self._macs[key]

    def _need(self, product: Product) -> tuple[int, int]:
        """A number for what it asks of a cell, and the bits of its register."""
        if product not in self._needs:
            own = need(product.gemm, product.scheme)
            kind = self._kinds.setdefault(replace(own, register_bits=0), len(self._kinds))
            self._needs[product] = kind, own.register_bits
        return self._needs[product]


def _remarks(mac: Mac, clock_mhz: float) -> tuple[str, ...]:
    is_slow = mac.clock_mhz < clock_mhz
    return (*mac.remarks, *((f"{slower_than(clock_mhz)}: {mac.clock_mhz:.0f} MHz",) if is_slow else ()))
