"""Which part of a processing element each gate belongs to, and what the parts take.

The wires between parts keep their names through mapping, so no gate computes across them; a gate belongs to the first
such wire or register that it leads to. Boundaries change the area of most elements by a per cent, of a few by six.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitwright.cost.library import Library
from bitwright.cost.netlist import Instance, read_netlist
from bitwright.cost.parts import ElementParts
from bitwright.cost.synthesis import Flow, synthesize
from bitwright.cost.synthesis_element import element_plan
from bitwright.rtl.decoder import OperandDecoder
from bitwright.rtl.operand import Operand
from bitwright.rtl.plan import Plan
from bitwright.rtl.unit import Unit
from bitwright.rtl.units import Collector, ProcessingElement
from bitwright.rtl.verilog import rtlil
from bitwright.scheme import Scheme

BOUNDARIES = {
    "neighbour_um2": ("lane_met",), "multiplier_um2": ("lane",), "shifter_um2": ("lane_exponent", "lane_aligned"),
    "adder_um2": ("after_addend",),
}  # fmt: skip
"""Part -> wires of `rtl.units.ProcessingElement` that it drives."""

LANES = 16
"""Of a decoder that has to see whole rows of the array."""


def measure_parts(text: str, scheme: Scheme, library: Library, *, cache: Path | None = None) -> ElementParts:
    """The element of a scheme, what stands at the array's edge for it, and where its area goes."""
    made = element_plan(scheme)
    circuit = rtlil(ProcessingElement(made), "element")
    whole = synthesize(circuit, library, cache=cache)
    marked = synthesize(kept(circuit, _every(BOUNDARIES.values())), library, cache=cache)
    areas = attributed(marked.json, library)
    collector = 0.0 if made.outer is None else _area(Collector(made), library, cache)
    return ElementParts(
        text, made.inner.bits, whole.report.area_um2, **areas,
        input_decoder_um2=_decoder_um2(made.x, library, cache), weight_decoder_um2=_decoder_um2(made.w, library, cache),
        collector_um2=collector, circuit=circuit_hash(made), library=library.name, tool=whole.report.tool,
    )  # fmt: skip


def circuit_hash(made: Plan) -> str:
    """Of the RTLIL of element and collector, less the release of Amaranth that wrote it."""
    units = [ProcessingElement(made), *([] if made.outer is None else [Collector(made)])]
    lines = [line for unit in units for line in rtlil(unit, "unit").splitlines() if "generator" not in line]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def kept(circuit: str, names: Iterable[str]) -> str:
    """RTLIL whose wires of these names stay wires: nothing is merged across them."""
    wanted = "|".join(map(re.escape, names))
    return re.sub(rf"(?m)^(\s*)(wire [^\n]*\\(?:{wanted}))$", r"\1attribute \\keep 1\n\1\2", circuit)


def attributed(text: str, library: Library) -> dict[str, float]:
    """Area of each part of a marked element's netlist, as yosys wrote it; they add up to the whole."""
    netlist = read_netlist(text)
    wires = json.loads(text)["modules"][netlist.name]["netnames"]
    ends = {part: _bits(wires, names) for part, names in BOUNDARIES.items()}
    registers = [i for i in netlist.instances if library.cell(i.kind).flip_flop]
    sums = set(netlist.outputs["sum"])
    of_sum = [i for i in registers if sums & set(_nets(library, i, is_output=True))]
    of_operands = [i for i in registers if i not in of_sum]
    ends["adder_um2"] |= {net for i in of_sum for net in _nets(library, i, is_output=False)}
    ends["operand_registers_um2"] = {net for i in of_operands for net in _nets(library, i, is_output=False)}
    drivers = {net: i for i in netlist.instances for net in _nets(library, i, is_output=True)}
    boundaries = set().union(*(_bits(wires, names) for names in BOUNDARIES.values()))
    owner = {i.name: "sum_register_um2" for i in of_sum} | {i.name: "operand_registers_um2" for i in of_operands}
    for part, nets in ends.items():
        for name in _cone(nets, boundaries - nets, drivers, library):
            owner.setdefault(name, part)
    areas = dict.fromkeys([*ends, "sum_register_um2"], 0.0)
    for instance in netlist.instances:
        areas[owner[instance.name]] += library.cell(instance.kind).area_um2
    return areas


def _cone(nets: set[int], stops: set[int], drivers: Mapping[int, Instance], library: Library) -> set[str]:
    """Instances that lead to the nets, back to registers, ports and the stops."""
    found: set[str] = set()
    open_nets = list(nets)
    while open_nets:
        instance = drivers.get(open_nets.pop())
        if instance is None or instance.name in found or library.cell(instance.kind).flip_flop:
            continue
        found.add(instance.name)
        open_nets += [net for net in _nets(library, instance, is_output=False) if net not in stops]
    return found


def _nets(library: Library, instance: Instance, *, is_output: bool) -> list[int]:
    cell = library.cell(instance.kind)
    return [instance.pins[pin] for pin in (cell.outputs if is_output else cell.inputs) if pin in instance.pins]


def _bits(wires: Mapping[str, Any], names: Iterable[str]) -> set[int]:
    return {bit for name in names if name in wires for bit in wires[name]["bits"] if isinstance(bit, int)}


def _decoder_um2(operand: Operand, library: Library, cache: Path | None) -> float:
    """Of one lane, of a decoder that sees as many as it has to."""
    lanes = operand.run if not operand.bounds.reach or operand.run > 1 else LANES
    return _area(OperandDecoder(operand, lanes), library, cache) / lanes


def _area(unit: Unit, library: Library, cache: Path | None) -> float:
    return synthesize(rtlil(unit, "unit"), library, Flow(), cache=cache).report.area_um2


def _every(groups: Iterable[tuple[str, ...]]) -> list[str]:
    return [name for group in groups for name in group]
