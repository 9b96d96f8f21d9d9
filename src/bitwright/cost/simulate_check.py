"""Compares netlists with integer arithmetic: all inputs of a small circuit, the ends and random ones of a large one."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int as Ints

from bitwright.cost.library import Cell
from bitwright.cost.netlist import Netlist
from bitwright.cost.simulate import Simulator, as_port, pack, unpack

BATCH_BITS = 16
"""Lanes that an exhaustive run takes at once, as a power of two: nets that fit the caches."""

EXHAUSTIVE_BITS = 26
"""Inputs up to which all cases are run by default."""

Reference = Callable[[Mapping[str, Ints[np.ndarray, "lanes"]]], Mapping[str, Ints[np.ndarray, "lanes"]]]
"""What outputs must be, as integers, given the inputs; signed ports hold signed integers."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison with a reference found. A counterexample gives the inputs, then the port with both values."""

    patterns: int
    is_exhaustive: bool
    counterexample: str | None = None

    @property
    def holds(self) -> bool:
        return self.counterexample is None


def check(
    netlist: Netlist,
    cells: Mapping[str, Cell],
    reference: Reference,
    *,
    latency: int = 0,
    rng: np.random.Generator | None = None,
    patterns: int = 2**20,
) -> Verdict:
    """Compares with a reference after `latency` clock edges: all inputs up to `EXHAUSTIVE_BITS`, else random ones.

    Random runs begin with all combinations of each port's ends, as far as they fit one batch. They need `rng`.
    """
    simulator = Simulator(netlist, cells)
    is_exhaustive = simulator.input_bits <= EXHAUSTIVE_BITS
    if not is_exhaustive and rng is None:
        raise ValueError(f"{netlist.name} has {simulator.input_bits} input bits, too many for all cases; give rng")
    batches = _all_batches(simulator) if rng is None or is_exhaustive else _random_batches(simulator, rng, patterns)
    count = 0
    for lanes, planes, values in batches:
        found = simulator.settle(planes, (1 << lanes) - 1, latency)
        wanted = reference(values)
        if not wanted or set(wanted) - set(found):
            raise ValueError(f"{netlist.name} has the outputs {sorted(found)}, the reference gives {sorted(wanted)}")
        count += lanes
        for port, expected in wanted.items():
            wrong = functools.reduce(
                lambda sofar, pair: sofar | (pair[0] ^ pair[1]), zip(found[port], pack(expected, len(found[port]))), 0
            )
            if wrong:
                lane = (wrong & -wrong).bit_length() - 1
                shown = ", ".join(f"{name}={value[lane]}" for name, value in values.items())
                got = unpack(found[port], lanes, port in netlist.signed)[lane]
                return Verdict(count, False, f"{shown}: {port} is {got}, the reference says {expected[lane]}")
    return Verdict(count, is_exhaustive)


Batch = tuple[int, dict[str, list[int]], dict[str, Ints[np.ndarray, "lanes"]]]


def _all_batches(simulator: Simulator) -> Iterator[Batch]:
    """Every combination of inputs: the bits of a counter, the last port's lowest."""
    low = min(BATCH_BITS, simulator.input_bits)
    lanes, mask = 1 << low, (1 << (1 << low)) - 1
    fast = [_alternating(bit, lanes) & mask for bit in range(low)]
    for batch in range(1 << (simulator.input_bits - low)):
        slow = [mask if batch >> bit & 1 else 0 for bit in range(simulator.input_bits - low)]
        counter = np.arange(lanes, dtype=np.int64) + batch * lanes
        planes, values, place = {}, {}, 0
        for port, nets in reversed(simulator.inputs.items()):
            planes[port] = (fast + slow)[place : place + len(nets)]
            values[port] = as_port(counter >> place, len(nets), port in simulator.netlist.signed)
            place += len(nets)
        yield lanes, planes, values


def _random_batches(simulator: Simulator, rng: np.random.Generator, patterns: int) -> Iterator[Batch]:
    lanes = 1 << BATCH_BITS
    for start in range(0, patterns, lanes):
        values = {}
        for index, (port, nets) in enumerate(simulator.inputs.items()):
            bits = rng.integers(0, 1 << min(len(nets), 63), lanes, dtype=np.int64)
            value = as_port(bits, len(nets), port in simulator.netlist.signed)
            if start == 0 and 2 * index + 2 <= BATCH_BITS:
                ends = _ends(len(nets), port in simulator.netlist.signed)
                corner = np.arange(lanes) >> (2 * index) & 3
                value = np.where(np.arange(lanes) < 4 ** min(len(simulator.inputs), 8), ends[corner], value)
            values[port] = value
        yield lanes, {port: pack(value, len(simulator.inputs[port])) for port, value in values.items()}, values


def _ends(width: int, is_signed: bool) -> Ints[np.ndarray, "four"]:
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if is_signed else (0, 2**width - 1)
    return np.asarray([low, high, 0, min(low + 1, high)], dtype=np.int64)


def _alternating(bit: int, lanes: int) -> int:
    """Zeros and ones in runs of 2**bit, over all lanes."""
    half = 1 << max(bit - 3, 0)
    pattern = bytes(half) + b"\xff" * half if bit >= 3 else bytes([(0xAA, 0xCC, 0xF0)[bit]])
    return int.from_bytes(pattern * max(1, lanes // 8 // len(pattern)), "little")
