"""What a search finds: designs with their figures and costs, written as JSON and read back unchanged."""

from dataclasses import dataclass

from bitwright.result import RunInfo
from bitwright.store import key_of


@dataclass(frozen=True)
class Machine:
    """An accelerator by its words, as `cost.hardware.accelerator` reads them."""

    array: str = "32x32"
    dataflow: str = "ws"
    buffers: str = "128,128,128"


@dataclass(frozen=True)
class Design:
    """A scheme for each layer, and the accelerator that computes them."""

    layers: tuple[tuple[str, str], ...]  # name and scheme's text, as the model lists them
    machine: Machine = Machine()

    @property
    def assignment(self) -> dict[str, str]:
        return dict(self.layers)

    @property
    def schemes(self) -> tuple[str, ...]:
        """Each once, in the order of first use."""
        return tuple(dict.fromkeys(self.assignment.values()))

    @property
    def key(self) -> str:
        """Short content key of what decides accuracy: the schemes of the layers."""
        return key_of(self.layers)


@dataclass(frozen=True)
class Costs:
    """What a design takes, a sample, batch of one."""

    area_mm2: float  # array, its edge, and buffers
    array_mm2: float  # without buffers
    energy_uj: float
    delay_ms: float
    cycles: float
    model_bytes: float
    accumulator_bits: float  # of the widest register that the weights of some layer need
    origins: tuple[str, ...] = ()  # measured, fitted, cited
    left_out: tuple[str, ...] = ()

    @property
    def area_delay(self) -> float:
        """mm² ms."""
        return self.area_mm2 * self.delay_ms


@dataclass(frozen=True)
class Figures:
    """How well a network with a scheme for each layer computes, on the searched samples if nothing else is said."""

    metric: float
    held_out_metric: float | None  # of samples that no decision of the search has seen
    agreement: float | None
    output_sqnr_db: float | None
    samples: int
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Point:
    """A design with its costs, where elements can compute it; figures where it was evaluated."""

    design: Design
    costs: Costs | None
    predicted_damage: float
    figures: Figures | None = None
    origin: str = "search"  # "uniform" | "allocation" | a strategy's name | "search"
    excess: tuple[tuple[str, float], ...] = ()  # limits that it breaks, and by which part of their bound
    refused: str = ""  # why it has no costs

    @property
    def is_feasible(self) -> bool:
        return not self.excess and self.costs is not None

    @property
    def known_costs(self) -> Costs:
        """Of a design that was evaluated, or could be."""
        assert self.costs is not None, self.refused
        return self.costs

    @property
    def beyond(self) -> float:
        """The parts by which it breaks limits, together."""
        return sum((part for _, part in self.excess), 0.0)

    @property
    def metric(self) -> float | None:
        return None if self.figures is None or self.figures.error else self.figures.metric


@dataclass(frozen=True)
class Trust:
    """How far the additive model's order of designs agrees with what was measured."""

    beside: str
    correlation: float | None  # Spearman's
    designs: int


@dataclass(frozen=True)
class Gain:
    """A uniform design, and the best searched one that takes no more area × delay and no more energy."""

    scheme: str
    machine: Machine
    metric: float
    held_out_metric: float | None
    best: int | None  # index in `points`; None where the uniform design itself is the best
    gain: float  # of the metric, towards its good side
    held_out_gain: float | None
    mixed: int | None = None  # the same of the best with several schemes; None where none takes as little
    mixed_gain: float | None = None
    mixed_held_out_gain: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """A front of designs and how it was found."""

    info: RunInfo
    budget: tuple[str, ...]
    objectives: tuple[str, ...]
    schemes: tuple[str, ...]
    machines: tuple[Machine, ...]
    library: str
    measure: str
    sampler: str
    seed: int
    trials: int
    evaluated: int
    rejected: int
    repeated: int
    seconds: float
    evaluation_seconds: float
    float_metric: float  # of the searched samples
    layers: tuple[str, ...]
    damages: tuple[tuple[str, str, float], ...]  # layer, scheme, damage of it alone
    refused: tuple[tuple[str, str, str], ...]  # layer, scheme, reason
    points: tuple[Point, ...]
    front: tuple[int, ...]  # indices of points, the best metric first
    chosen: int | None
    nearest: Point | None  # where no design keeps the budget
    trust: tuple[Trust, ...]
    gains: tuple[Gain, ...]
    left_out: tuple[str, ...] = ()
    question: str = ""  # content key of what was asked, but for the number of trials
