"""A scheme: two quantizers and a datapath, with the source they come from."""

from dataclasses import dataclass, field

from bitwright.datapath import Datapath
from bitwright.quantization import AnyQuantizer


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
