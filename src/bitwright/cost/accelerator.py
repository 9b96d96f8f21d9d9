"""An accelerator as a value: an array, what stays in it, three buffers and the memory outside."""

from dataclasses import dataclass, field, replace

from bitwright.cost.cacti import CactiSram
from bitwright.cost.figure import Figure, Sum, total
from bitwright.cost.mac import Edge, Mac, added
from bitwright.cost.memory import LPDDR4, Dram, Sram
from bitwright.cost.schedule import Array, Capacity, Cell, Dataflow, WeightStationary


@dataclass(frozen=True)
class Accelerator:
    """A systolic array with double-buffered memories for weights, inputs and sums."""

    rows: int = 32
    columns: int = 32
    dataflow: Dataflow = field(default_factory=WeightStationary)
    weight_buffer: Sram | CactiSram = Sram(128, 128)
    input_buffer: Sram | CactiSram = Sram(128, 128)
    output_buffer: Sram | CactiSram = Sram(128, 128)
    dram: Dram = Dram(LPDDR4)
    clock_mhz: float = 500.0

    @property
    def capacity(self) -> Capacity:
        return Capacity(self.weight_buffer.bits, self.input_buffer.bits, self.output_buffer.bits)

    def areas_um2(self, mac: Mac) -> dict[str, Figure]:
        """Of the array's cells, what stands at its edge, and the buffers."""
        return {
            "array": mac.area_um2.times(self.rows * self.columns),
            **({"edge": self._edge_um2(mac.edge)} if mac.edge else {}),
            "weight buffer": self.weight_buffer.area_um2,
            "input buffer": self.input_buffer.area_um2,
            "output buffer": self.output_buffer.area_um2,
        }

    def area_um2(self, mac: Mac) -> Sum:
        return total(self.areas_um2(mac).values())

    def array(self, cell: Cell) -> Array:
        """Of such cells."""
        return Array(self.rows, self.columns, cell)

    def with_array_area(self, area_um2: float, mac: Mac) -> "Accelerator":
        """The same with the largest array, of the same proportions, that takes no more than this with its edge."""
        proportion = self.columns / self.rows
        rows = int((area_um2 / mac.area_um2.value / proportion) ** 0.5 * (1 + 1e-12))  # its own area gives it back
        while rows > 0:
            found = replace(self, rows=rows, columns=max(rows * self.columns // self.rows, 1))
            areas = found.areas_um2(mac)
            if areas["array"].value + (areas["edge"].value if "edge" in areas else 0.0) <= area_um2 * (1 + 1e-12):
                return found
            rows -= 1
        raise ValueError(f"{area_um2:g} µm² hold no array of cells of {mac.area_um2.value:g} µm²; give it more")

    def _edge_um2(self, edge: Edge) -> Figure:
        return added(edge.row_um2.times(self.rows), edge.column_um2.times(self.columns))
