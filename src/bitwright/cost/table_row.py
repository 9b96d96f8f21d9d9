"""What a row of every table of circuits says: which circuit it is. Each table adds what the circuit takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CircuitRow:
    """A circuit by its unit, its operands and its register."""

    unit: str
    """element, collector, decoder, encoder, requantizer, fold, vector or pairs."""
    scheme: str
    """One that needs it, as text; circuits of equal operands and registers serve others too."""
    x: str
    w: str
    register_bits: int
    """Of the sum that it adds to; of what a requantizer or encoder takes."""
    saturates: bool
    scales: str
    """Formats of both block scales and of their product, where the circuit multiplies them; the slope of a fold."""
    lanes: int

    @property
    def shares(self) -> int:
        """Among how many lanes its figures are shared out; a serial unit is one cell, whatever its lanes."""
        return 1 if self.unit == "pairs" else self.lanes
