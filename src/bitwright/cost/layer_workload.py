"""Work of a real layer for a synthesised circuit: its inputs in the order in which they come, its weights, its scales.

The codes are those that a layer's operands have; what energy they take depends on zeros, signs and on how alike
neighbouring inputs are, which normal operands leave out.
"""

import numpy as np
from jaxtyping import Int as Ints

from bitwright.cost.synthesis_element import column_workload, ports_of
from bitwright.quantization import QuantizedTensor
from bitwright.rtl.plan import Plan
from bitwright.rtl.units import VectorUnit

COLUMNS, CYCLES = 4, 64
"""Columns of an array that an element's work is taken from, and inputs one after the other."""

STREAMS, REUSE = 32, 16
"""Vector units at work, and inputs that meet a weight vector before the next one is fetched."""


def layer_element_workload(
    made: Plan, x: QuantizedTensor, w: QuantizedTensor, rng: np.random.Generator
) -> dict[str, Ints[np.ndarray, "cycles lanes"]]:
    """Of the elements in some columns of a weight-stationary array, all of K along its rows."""
    inputs, weights = _flat(x), _flat(w)
    first = int(rng.integers(0, max(1, len(inputs) - CYCLES + 1)))
    column = rng.integers(0, len(weights), COLUMNS)
    rows = np.broadcast_to(inputs[first : first + CYCLES, None], (min(CYCLES, len(inputs)), COLUMNS, inputs.shape[1]))
    return column_workload(
        made,
        ports_of(x.quantizer.format, made.x.bounds, rows),
        ports_of(w.quantizer.format, made.w.bounds, weights[column]),
    )


def layer_vector_workload(
    unit: VectorUnit, x: QuantizedTensor, w: QuantizedTensor, rng: np.random.Generator
) -> dict[str, Ints[np.ndarray, "cycles lanes"]]:
    """Of vector units that hold each weight vector for some inputs, then take the next vector along K."""
    inputs, weights = (_vectors(tensor, unit.lanes) for tensor in (x, w))
    row = rng.integers(0, max(1, len(inputs) - REUSE + 1), STREAMS)
    output = rng.integers(0, len(weights), STREAMS)
    start = rng.integers(0, inputs.shape[1], STREAMS)
    step = np.arange(CYCLES)[:, None]
    vector = (start + step // REUSE) % inputs.shape[1]
    at = np.minimum(row + step % REUSE, len(inputs) - 1)
    work = {"enable": np.ones(vector.shape, np.int64), "first": np.broadcast_to(step % REUSE == 0, vector.shape) * 1}
    for side, codes in (("x", inputs[at, vector]), ("w", weights[output, vector])):
        work |= {f"{side}_{lane}": codes[..., lane] for lane in range(unit.lanes)}
    for side, tensor, chosen in (("x", x, at), ("w", w, np.broadcast_to(output, vector.shape))):
        if f"{side}_scale" in unit.signature.members:
            scales = np.broadcast_to(tensor.scales[-1], tensor.codes.shape[:2])
            work[f"{side}_scale"] = scales[chosen, vector * unit.lanes // tensor.codes.shape[2]]
    return work


def zeros(tensor: QuantizedTensor) -> float:
    """Share of elements that are zero."""
    return float(np.mean(tensor.decode() == 0))


def _flat(tensor: QuantizedTensor) -> Ints[np.ndarray, "rows k"]:
    """Codes of whole blocks, padding included."""
    return tensor.codes.reshape(len(tensor.codes), -1)


def _vectors(tensor: QuantizedTensor, lanes: int) -> Ints[np.ndarray, "rows vectors lanes"]:
    codes = _flat(tensor)
    missing = -codes.shape[1] % lanes
    return np.pad(codes, ((0, 0), (0, missing))).reshape(len(codes), -1, lanes)
