"""Shapes of a network's matrix products: what a layer becomes, and what hardware is asked to compute."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gemm:
    """Shape of a layer's products: rows of input a sample, K and outputs of one group, groups."""

    m: int
    k: int
    n: int
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample."""
        return self.m * self.k * self.n * self.groups


@dataclass(frozen=True)
class LayerGemm:
    """A layer's products by name. Those of two activations (attention) have no stored weights.

    `calls` is how often a sample goes through, one call after the other.
    """

    name: str
    gemm: Gemm
    is_of_activations: bool = False
    calls: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates a sample, of all calls."""
        return self.gemm.macs * self.calls

    def batched(self, samples: int) -> "LayerGemm":
        """For several samples at once: more rows, or more products of two activations."""
        gemm = self.gemm
        if self.is_of_activations:
            return replace(self, gemm=replace(gemm, groups=gemm.groups * samples))
        return replace(self, gemm=replace(gemm, m=gemm.m * samples))
