"""What a network costs on an accelerator: cycles, traffic, energy and area, layer by layer.

Every layer reads its operands from DRAM and writes its outputs back. Energy is dynamic only, of multiply-accumulates
that meet data, of every element that the array's edge decodes or encodes, of every bit between array and buffers, and
of every bit between buffers and DRAM, once on each side.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bitwright.cost.accelerator import Accelerator
from bitwright.cost.figure import Figure, Sum, total
from bitwright.cost.mac import Edge, Mac
from bitwright.cost.schedule import Cell, Traffic, Widths, plan
from bitwright.gemm import LayerGemm


class Job(NamedTuple):
    """A layer with the widths of what it moves, and the cells that compute it."""

    layer: LayerGemm
    widths: Widths
    cell: Cell = Cell()


@dataclass(frozen=True)
class LayerCost:
    """One layer, all its calls. Energies by part, each with its origin."""

    layer: LayerGemm
    cycles: int
    compute_cycles: int  # without waiting for DRAM
    utilization: float  # multiply-accumulates over those that the array could do in these cycles
    sram: Traffic  # bits
    dram: Traffic
    mac_pj: Figure
    sram_pj: tuple[Figure, ...]
    dram_pj: Figure
    edge_pj: tuple[Figure, ...] = ()

    @property
    def energy_pj(self) -> Sum:
        return total((self.mac_pj, *self.edge_pj, *self.sram_pj, self.dram_pj))


@dataclass(frozen=True)
class Cost:
    """A network on an accelerator."""

    accelerator: Accelerator
    layers: tuple[LayerCost, ...]
    areas_um2: dict[str, Figure]

    @property
    def cycles(self) -> int:
        return sum(layer.cycles for layer in self.layers)

    @property
    def seconds(self) -> float:
        return self.cycles / (self.accelerator.clock_mhz * 1e6)

    @property
    def macs(self) -> int:
        return sum(cost.layer.macs for cost in self.layers)

    @property
    def utilization(self) -> float:
        """Of layers, weighted by their cycles."""
        return sum(cost.utilization * cost.cycles for cost in self.layers) / self.cycles if self.cycles else 0.0

    @property
    def dram_bits(self) -> float:
        return float(sum(layer.dram.total for layer in self.layers))

    @property
    def mac_pj(self) -> Sum:
        return total(layer.mac_pj for layer in self.layers)

    @property
    def edge_pj(self) -> Sum:
        return total(figure for layer in self.layers for figure in layer.edge_pj)

    @property
    def sram_pj(self) -> Sum:
        return total(figure for layer in self.layers for figure in layer.sram_pj)

    @property
    def dram_pj(self) -> Sum:
        return total(layer.dram_pj for layer in self.layers)

    @property
    def energy_pj(self) -> Sum:
        return total(f for layer in self.layers for f in (layer.mac_pj, *layer.edge_pj, *layer.sram_pj, layer.dram_pj))

    @property
    def area_um2(self) -> Sum:
        return total(self.areas_um2.values())


def estimate(accelerator: Accelerator, mac: Mac, jobs: Iterable[Job]) -> Cost:
    """The cost of the layers one after the other."""
    return Cost(accelerator, tuple(_layer(accelerator, mac, job) for job in jobs), accelerator.areas_um2(mac))


def _layer(accelerator: Accelerator, mac: Mac, job: Job) -> LayerCost:
    layer, array = job.layer, accelerator.array(job.cell)
    found = plan(
        accelerator.dataflow, array, layer.gemm, widths=job.widths, capacity=accelerator.capacity,
        bits_per_cycle=accelerator.dram.bits_per_cycle,
    )  # fmt: skip
    sram, dram = (Traffic(*(layer.calls * bits for bits in traffic)) for traffic in (found.sram, found.dram))
    cycles = found.cycles * layer.calls
    could = cycles * array.macs_per_cycle
    return LayerCost(
        layer, cycles, found.compute_cycles * layer.calls, layer.macs / could if could else 0.0, sram, dram,
        mac.energy_pj.times(layer.macs * job.cell.operations_per_mac), _sram_pj(accelerator, sram, dram),
        accelerator.dram.pj_per_bit.times(dram.total), _edge_pj(mac.edge, job, sram),
    )  # fmt: skip


def _edge_pj(edge: Edge | None, job: Job, sram: Traffic) -> tuple[Figure, ...]:
    """Inputs and weights are decoded each time that the array reads them, outputs encoded once."""
    if edge is None:
        return ()
    gemm, widths = job.layer.gemm, job.widths
    return (
        edge.input_pj.times(sram.input / widths.input), edge.weight_pj.times(sram.weight / widths.weight),
        edge.output_pj.times(gemm.m * gemm.n * gemm.groups * job.layer.calls),
    )  # fmt: skip


def _sram_pj(accelerator: Accelerator, sram: Traffic, dram: Traffic) -> tuple[Figure, ...]:
    """Reads and writes of the three buffers: by the array, and to fill or empty them."""
    weight, inputs, output = accelerator.weight_buffer, accelerator.input_buffer, accelerator.output_buffer
    return (
        weight.read_pj_per_bit.times(sram.weight),
        weight.write_pj_per_bit.times(dram.weight),
        inputs.read_pj_per_bit.times(sram.input),
        inputs.write_pj_per_bit.times(dram.input),
        output.read_pj_per_bit.times(sram.output_read + dram.output_written),
        output.write_pj_per_bit.times(sram.output_written + dram.output_read),
    )
