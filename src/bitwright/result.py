"""What a comparison measures: one value per layer, per scheme and per run, written as JSON and read back unchanged."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Compressibility:
    """Sizes of the stored codes of one or more matrices; `scale_bits` come on top of each. They add up."""

    elements: int
    zeros: int  # elements that stand for zero
    scale_bits: int  # of scales and zero points, stored as they are
    packed_bits: int  # codes at the format's own width
    entropy_bits: float  # order 0: no code that reads elements one by one is shorter
    bitmap_bits: int  # a bit an element, and the non-zero codes
    sparse_bits: int  # CSR-8: the non-zero codes, each with its distance from the last in 8 bits
    lzma_bits: int  # of the packed codes, headers included; from the first 65,536 of a matrix
    zlib_bits: int  # of the codes on whole bytes, likewise

    @staticmethod
    def total(parts: "Iterable[Compressibility]") -> "Compressibility":
        """Of several matrices together, each with a code of its own."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        return Compressibility(*map(sum, columns))

    @property
    def sparsity(self) -> float:
        """Fraction of elements that are zero."""
        return self.zeros / max(self.elements, 1)

    @property
    def entropy(self) -> float:
        """Bits an element, scales left out."""
        return self.entropy_bits / max(self.elements, 1)

    def ratio(self, bits: float, reference_bits: float = 32.0) -> float:
        """How many times smaller than `reference_bits` an element, for one of the sizes above."""
        return reference_bits * self.elements / bits if bits else float("inf")

    @property
    def over_float(self) -> float:
        """R32: 32-bit floats over an entropy code and the scales."""
        return self.ratio(self.entropy_bits + self.scale_bits)

    @property
    def over_packed(self) -> float:
        """R_M: codes of M bits and their scales over an entropy code and the scales."""
        coded = self.entropy_bits + self.scale_bits
        return (self.packed_bits + self.scale_bits) / coded if coded else float("inf")


@dataclass(frozen=True)
class LayerResult:
    """One layer under one scheme. Fractions are of elements; SQNR in decibels; `None` where a figure has no meaning."""

    name: str
    kind: str  # "Linear", "Conv2d", "attention scores", ...
    m: int  # rows of the input per sample
    k: int  # reduction length of one group
    n: int  # outputs of one group
    groups: int
    input_format: str | None  # printed format that calibration chose, None when the input stays in float
    weight_format: str | None
    input_bits: float | None  # per element, scales and side bits included
    weight_bits: float | None
    input_range: tuple[float, float] | None  # static range, None when dynamic
    input_sqnr_db: float | None
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    input_clipped: float | None
    weight_clipped: float | None
    input_zeros: float | None
    weight_zeros: float | None
    accumulator_bits_bound: int | None  # from the formats alone
    accumulator_bits: int | None  # certified from these weight codes
    accumulator_bits_available: int | None  # what the datapath has; None is a float accumulator
    overflows: int  # accumulations that left the accumulator's range
    accumulations: int
    weight_sizes: Compressibility | None = (
        None  # of the stored weight, padding left out; None where another layer's is it
    )


@dataclass(frozen=True)
class Coverage:
    """What happened to one layer or operation of the model."""

    name: str
    kind: str
    status: str  # "quantized" | "float" | "unsupported"
    reason: str  # empty when quantized
    count: int = 1  # calls per forward pass


@dataclass(frozen=True)
class Picture:
    """Distribution of one layer's scaled values beside the grid that represents them."""

    layer: str
    operand: str  # "weight" | "input"
    format: str
    edges: tuple[float, ...]  # len(counts) + 1, in levels (value / scale)
    counts: tuple[int, ...]
    grid: tuple[float, ...]  # representable levels, ascending


@dataclass(frozen=True)
class OutlierCoverage:
    """Fractions of a layer's outliers that find a zero's lane for a second digit, at one cascade."""

    cascade: int  # lanes that an outlier may lie before its zero
    measured: float
    expected: float  # exact formula for independent lanes with the layer's mean zeros and outliers
    shuffled: float  # measured with the lanes of each row in random order: no correlation between neighbours is left


@dataclass(frozen=True)
class NeighbourResult:
    """One layer whose outliers overwrite neighbouring zeros, on inputs of the first calibration batch."""

    name: str
    lanes: int  # of one block of channels, which shares a scale
    tile: int  # lanes that no search leaves
    sampled: int  # lanes looked at, whole rows drawn at random
    zeros: float  # fraction of lanes whose level rounds to zero
    outliers: float  # fraction of lanes whose level rounds beyond the lane's largest value
    cascade: int  # of the scheme, in lanes; 0 where outliers overwrite nothing
    coverage: tuple[OutlierCoverage, ...]  # at cascades of interest whatever the scheme's; empty without outliers
    precise: (
        float | None
    )  # fraction of ordinary values (neither of both) that a zero's lane gives a fraction; None: off


@dataclass(frozen=True)
class LaneRow:
    """Neighbouring lanes of one real row before and after overwriting: one entry a lane, in levels (x / scale)."""

    layer: str
    first_lane: int  # of these lanes in their block
    tile: int  # lanes that no search leaves
    largest: float  # value that one digit can hold
    radix: int  # a second digit is worth so many times the first, or its part for a fraction
    levels: tuple[float, ...]  # before rounding
    plain: tuple[float, ...]  # lane by lane: rounded, outliers clipped
    digits: tuple[float, ...]  # what each lane holds after overwriting
    states: tuple[str, ...]  # "OWN" | "HIGH" digit, "LOW" (fraction) or "MOVED" value of the lane before
    decoded: tuple[float, ...]  # after overwriting


@dataclass(frozen=True)
class TermPairs:
    """Products of single terms or bits in one layer. All figures are per sample, of the first calibration batch."""

    name: str
    macs: float  # multiply-accumulates, those with padded zeros included
    bit_serial: (
        float  # magnitude bits of the weight x those of the input x MACs (the paper's hardware: 7 x 7 for 8 bits)
    )
    bound: float  # as the paper counts: kept terms, of other formats all magnitude bits; exceeded where K splits groups
    counted: float  # terms of the weight x terms of the input, summed over all products; other formats as in the bound
    has_terms: bool  # whether an operand is signed power-of-two terms; otherwise all three counts are equal


@dataclass(frozen=True)
class SchemeResult:
    """One row of the comparison."""

    scheme: str  # its name, or the call that makes it
    title: str
    metric: float | None
    simulated_metric: float | None
    agreement: float | None  # per cent of decisions equal to the float model's
    output_sqnr_db: float | None
    weight_bits: float | None
    input_bits: float | None
    model_bytes: int | None
    accumulator_bits: int | None  # largest certified requirement over layers
    overflow_rate: float | None
    seconds: float
    layers: tuple[LayerResult, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    pictures: tuple[Picture, ...] = ()
    error: str | None = None  # why there is no result: one sentence
    neighbours: tuple[NeighbourResult, ...] = ()  # layers that overwrite neighbours
    lane_row: LaneRow | None = None  # of one of them
    term_pairs: tuple[TermPairs, ...] = ()  # of schemes with terms, and of plain integers to compare with
    definition: str = ""  # the text that makes it, where `scheme` is only its name


@dataclass(frozen=True)
class RunInfo:
    """Everything that identifies a run: enough to repeat and to cite it."""

    task: str
    model_source: str
    data_source: str
    metric: str
    metric_unit: str
    higher_is_better: bool
    float_metric: float
    float_bytes: int
    samples: int
    calibration_samples: int
    seed: int
    evaluation: str  # "exact" | "simulated"
    command: str
    started: str  # ISO 8601, UTC
    hashes: dict[str, str]  # what -> sha256
    versions: dict[str, str]
    machine: str


@dataclass(frozen=True)
class Priced:
    """A figure, with the unit of the field that holds it, and where it comes from."""

    value: float
    origins: tuple[str, ...]  # "measured" | "fitted" | "cited" | "counted"
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Hardware:
    """The accelerator that schemes are priced on."""

    rows: int
    columns: int
    dataflow: str  # "weight stationary", ...
    weight_kilobytes: float
    input_kilobytes: float
    sum_kilobytes: float
    dram: str
    dram_bits: int  # a cycle
    clock_mhz: float


@dataclass(frozen=True)
class Wires:
    """One operand on its way to the multipliers, in bits."""

    code: int  # stored, a lane
    significand: int
    exponent: int  # 0 where all terms have the same
    back: int  # that says whose weight is met; 0 where no digit moves to a neighbour
    scale: int  # of a block along K; 0 where none varies along K
    is_decoded: bool  # whether codes are anything but the integers that are multiplied


@dataclass(frozen=True)
class ArrayWires:
    """Bits that move in an array, as wide as the widest layer needs."""

    weight: Wires
    input: Wires
    accumulator: int
    block: int | None  # products of a sum in it; None where it holds all of K
    outer: int | None  # of an integer register over blocks
    is_outer_float: bool
    is_serial: bool  # cells add pairs of terms one after the other


@dataclass(frozen=True)
class SchemePrice:
    """What a scheme takes on the accelerator; None and a sentence where it has no price."""

    scheme: str
    area_mm2: Priced | None = None  # array and buffers
    energy_uj: Priced | None = None  # a sample
    delay_ms: Priced | None = None  # a sample
    array_mm2: float | None = None  # with what stands at its edge
    array_uj: float | None = None  # likewise
    sram_uj: float | None = None
    dram_uj: float | None = None
    is_published: bool = False  # whether cells are published multipliers rather than measured elements
    cycles: int | None = None
    utilization: float | None = None
    wires: ArrayWires | None = None
    parts_um2: tuple[tuple[str, float], ...] = ()  # of one element, with its share of what stands at the edge
    parts_sum_bits: int | None = None  # of that element
    parts_source: str = ""  # library and tool
    parts_note: str = ""  # why there are none
    left_out: tuple[str, ...] = ()  # layers without a price, and why
    error: str | None = None


@dataclass(frozen=True)
class Silicon:
    """The schemes of a comparison on one accelerator, in its order."""

    hardware: Hardware
    prices: tuple[SchemePrice, ...]
    notes: tuple[str, ...] = ()  # what a reader of the figures must know


@dataclass(frozen=True)
class Comparison:
    """A float model under many schemes."""

    info: RunInfo
    rows: tuple[SchemeResult, ...] = field(default=())
    silicon: Silicon | None = None  # where an accelerator was given


@dataclass(frozen=True)
class NeededBits:
    """How wide a register must be for the complete sums of one layer, over the samples of a sweep."""

    name: str
    k: int
    proved: int  # bits that no input exceeds
    counts: tuple[int, ...]  # complete sums that need one bit, two, three, ...


@dataclass(frozen=True)
class OverflowPoint:
    """A network whose registers all have one width and one way to overflow or to round."""

    behaviour: str
    bits: int
    metric: float
    agreement: float | None  # per cent of decisions equal to the float model's
    overflow_rate: float | None  # complete sums that overflow changed, of all; None of a float register
    layer_rates: tuple[float, ...]  # the same of each layer; empty for a float register
    seconds: float


@dataclass(frozen=True)
class OverflowSweep:
    """One network under ever narrower accumulators."""

    info: RunInfo
    scheme: str
    behaviours: dict[str, str]  # what each does
    layers: tuple[NeededBits, ...]
    points: tuple[OverflowPoint, ...]
