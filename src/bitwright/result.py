"""What a comparison measures: one value per layer, per scheme and per run, written as JSON and read back unchanged."""

from dataclasses import dataclass, field


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
class SchemeResult:
    """One row of the comparison."""

    scheme: str  # the call that makes it
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
class Comparison:
    """A float model under many schemes."""

    info: RunInfo
    rows: tuple[SchemeResult, ...] = field(default=())
