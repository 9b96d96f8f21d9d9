"""What to search, as plain values that a command line has before it loads torch."""

from dataclasses import dataclass, field

from bitwright.result_search import Machine

DEFAULT_SCHEMES = (
    "integer(8, 8)",
    "integer(6, 6)",
    "integer(4, 8)",
    "integer(4, 4)",
    "ant(4, 4)",
    "vs_quant(4, 4)",
    "nvfp4()",
)
"""Eight, six and four bits, and what published systems make of four."""

STRATEGIES = ("mixquant", "ohq", "ant4_8")
"""Published ones."""

MEASURES = ("kl", "error", "fisher", "masked_kl")
"""Of sensitivity, as `sensitivity.MEASURES` has them."""

LATENCIES = ("cycles", "measured")

HELD_OUT = 0.5
"""Part of the test samples that no decision of a search sees."""


@dataclass(frozen=True)
class Question:
    """What to search, as plain values."""

    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    budget: tuple[str, ...] = ()
    machines: tuple[Machine, ...] = (Machine("16x16"), Machine("32x32"))
    trials: int = 200
    seed: int = 0
    population: int = 20
    sampler: str = "nsga2"
    objectives: tuple[str, ...] = ("area_delay", "energy")
    measure: str = "kl"
    strategies: tuple[str, ...] = STRATEGIES  # published ones, whose designs are seeds
    latency: str = "cycles"  # that OHQ weighs: of the cycle model, or "measured" with this machine's kernels
    library: str = "generic45"
    limit: int | None = None
    held_out: float = HELD_OUT
    words: dict[str, object] = field(default_factory=dict)  # other words of the accelerator: dram, dram_bits, clock_mhz

    def __post_init__(self) -> None:
        if self.trials < 1 or self.population < 2:
            raise ValueError(
                f"{self.trials} trials in generations of {self.population} found; at least 1 and 2 are needed"
            )
        if not 0 <= self.held_out < 1:
            raise ValueError(f"a held-out part of {self.held_out:g} found; it is at least 0 and less than 1")
        for name in self.strategies:
            if name not in STRATEGIES:
                raise ValueError(f"there is no strategy {name!r}; choose from {', '.join(STRATEGIES)}")
        if self.measure not in MEASURES:
            raise ValueError(f"there is no measure {self.measure!r} of sensitivity; choose from {', '.join(MEASURES)}")
        if self.latency not in LATENCIES:
            raise ValueError(f"there is no latency {self.latency!r}; choose from {', '.join(LATENCIES)}")
        if not self.machines:
            raise ValueError("no accelerator to choose from; name one, as --array 16x16")
