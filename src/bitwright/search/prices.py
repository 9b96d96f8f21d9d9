"""Costs of designs, from the same cells and schedules as `bitwright cost`, in milliseconds a design.

Schemes that one measured element serves share it. Others stand side by side in every place of the array: their areas
add, and a layer takes the energy of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.elements import elements, side_by_side
from bitwright.cost.estimate import LayerCost, estimate
from bitwright.cost.figure import Figure, total
from bitwright.cost.hardware import accelerator
from bitwright.cost.mac import Mac
from bitwright.cost.table_cells import Cells
from bitwright.cost.widths import job
from bitwright.gemm import LayerGemm
from bitwright.scheme import Scheme
from bitwright.search.candidates import Candidates
from bitwright.search.point import Assignment, Costs, Design, Machine

ARRAY = ("array", "edge")

Pair = tuple[LayerGemm, Scheme]
Work = dict[str, tuple[Pair, ...]]
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
    _macs: dict[tuple[Pair, ...], Mac] = field(default_factory=dict)
    _layers: dict[tuple[object, ...], LayerCost] = field(default_factory=dict)
    _machines: dict[Machine, Accelerator] = field(default_factory=dict)

    def of(self, design: Design) -> Costs:
        """All costs of a design. ValueError where a layer cannot be computed under its scheme."""
        assignment, machine = design.assignment, self.accelerator(design.machine)
        work = self.candidates.work(assignment)
        macs = self.elements(work)
        layers = [self.layer(machine, macs[text], pair) for text, pairs in work.items() for pair in pairs]
        areas, cycles = self.areas(machine, macs), sum(layer.cycles for layer in layers)
        area = total(areas.values())
        energy = total(f for one in layers for f in (one.mac_pj, *one.edge_pj, *one.sram_pj, one.dram_pj))
        return Costs(
            area.value / 1e6, own_area(areas),  energy.value / 1e6,
            cycles / (machine.clock_mhz * 1e3), float(cycles), self.candidates.model_bytes(assignment),
            float(self.accumulator_bits(assignment)), tuple(sorted({*area.origins, *energy.origins})),
            side_by_side(macs).remarks,
        )  # fmt: skip

    def elements(self, work: Work) -> dict[str, Mac]:
        """The element of each scheme; the same where one serves several."""
        return elements(work, self._mac)

    def areas(self, machine: Accelerator, macs: Mapping[str, Mac]) -> dict[str, Figure]:
        """µm² of the elements, their edges and the buffers."""
        return machine.areas_um2(side_by_side(macs))

    def accelerator(self, machine: Machine) -> Accelerator:
        if machine not in self._machines:
            words = (machine.array, machine.dataflow, machine.buffers)
            self._machines[machine] = accelerator(*words, **self.words)  # type: ignore[arg-type]
        return self._machines[machine]

    def layer(self, machine: Accelerator, mac: Mac, pair: Pair) -> LayerCost:
        """One layer on an array of such cells."""
        key = machine, mac, pair
        if key not in self._layers:
            (self._layers[key],) = estimate(machine, mac, [job(*pair)]).layers
        return self._layers[key]

    def of_layer(self, machine: Accelerator, mac: Mac, name: str, text: str) -> LayerSums:
        """One layer's products together, under one scheme."""
        costs = [
            self.layer(machine, mac, pair) for pairs in self.candidates.work({name: text}).values() for pair in pairs
        ]
        cycles = sum(cost.cycles for cost in costs)
        return LayerSums(
            sum(cost.energy_pj.value for cost in costs) / 1e6, cycles, cycles / (machine.clock_mhz * 1e3),
            self.candidates.layer(name, text).bits / 8,
        )  # fmt: skip

    def accumulator_bits(self, assignment: Assignment) -> int:
        """Of the widest register that some layer's weights need."""
        found = (self.candidates.layer(name, text).accumulator_bits for name, text in assignment.items())
        return max((bits for bits in found if bits is not None), default=0)

    def _mac(self, pairs: tuple[Pair, ...]) -> Mac:
        if pairs not in self._macs:
            self._macs[pairs] = self.cells(pairs)
        return self._macs[pairs]
