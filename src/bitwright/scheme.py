"""A scheme: two quantizers and a datapath, with the source they come from."""

from dataclasses import dataclass, field

from bitwright.datapath import Datapath
from bitwright.quantization import AnyQuantizer, Quantizer


@dataclass(frozen=True)
class Example:
    """A small case transcribed from the source: these values must be represented by those."""

    operand: str  # "input" | "weight"
    values: tuple[float, ...]  # one row
    represented: tuple[float, ...]
    source: str


@dataclass(frozen=True)
class Scheme:
    """A way to compute x @ w.T in low precision.

    `input` None leaves the input in float: weight-only storage, computed in float. In a product of two activations
    (attention) the input's quantizer serves both operands.
    """

    input: AnyQuantizer | None
    weight: AnyQuantizer
    datapath: Datapath = Datapath()
    source: str = field(default="", compare=False)
    examples: tuple[Example, ...] = field(default=(), compare=False, repr=False)

    @property
    def float_attention(self) -> str | None:
        """Why products of two activations stay in float under this scheme; None where they are quantized."""
        if self.input is None:
            return "a weight-only scheme has nothing to store here"
        if self.datapath.inner.readout is not None:
            return "registers that are read through a function are simulated in layers only"
        bounds = [self.weight.format.bounds()] if isinstance(self.weight, Quantizer) else []
        if any(found.norm1 is not None or found.norm1_of_sign is not None for found in bounds):
            return "a bound on weights says nothing of products of two activations"
        return None
