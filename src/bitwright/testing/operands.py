"""Quantized operands of a scheme, random and worst-case, for laws and kernels to work on."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from bitwright.datapath import Datapath
from bitwright.datapath.ranges import integers, tiles
from bitwright.formats import Bounds
from bitwright.quantization import AnyQuantizer, QuantizedTensor, Quantizer, Range, Statistics
from bitwright.scheme import Scheme


@dataclass(frozen=True)
class Operands:
    """Both operands of a product, with the values and the ranges that they come from."""

    x_values: Float[np.ndarray, "m k"]
    w_values: Float[np.ndarray, "n k"]
    x_ranges: tuple[Range | None, ...]
    w_ranges: tuple[Range | None, ...]
    x: QuantizedTensor
    w: QuantizedTensor


def resolve(chosen: AnyQuantizer, sample: Float[np.ndarray, "rows k"]) -> tuple[Quantizer, tuple[Range | None, ...]]:
    """The quantizer and ranges that calibration on a sample gives."""
    seen = Statistics.of(sample)
    quantizer = chosen.fit(seen)
    return quantizer, quantizer.estimate(seen)


@lru_cache(maxsize=256)  # searching ranges is slow, and every law of a scheme wants the same operands
def operands(scheme: Scheme, *, rows: int, columns: int, k: int, seed: int = 0, signed_input: bool = True) -> Operands:
    """Random float32 operands with outliers, zeros and a zero block, quantized as the scheme says."""
    assert scheme.input is not None, "a scheme with an input"
    generator = np.random.default_rng(seed)
    x, w = (generator.standard_t(4, (count, k)).astype(np.float32) for count in (rows, columns))
    x[0, : k // 2] = 0
    w[-1, ::5] = 0
    if not signed_input:
        x = np.abs(x)
    (x_quantizer, x_ranges), (w_quantizer, w_ranges) = resolve(scheme.input, x), resolve(scheme.weight, w)
    return Operands(
        x, w, x_ranges, w_ranges, x_quantizer.quantize(x, x_ranges), w_quantizer.quantize(w, w_ranges)
    )  # fmt: skip


def extreme_bounds(t: QuantizedTensor) -> Bounds:
    """Bounds of a tensor's elements, its zero point taken off."""
    bounds = t.quantizer.format.bounds()
    if t.zero_points is None:
        return bounds
    zero = t.quantizer.format.decode(t.zero_points.astype(np.int64))
    return bounds._replace(lowest=bounds.lowest - float(zero.max()), highest=bounds.highest - float(zero.min()))


def largest_inputs(both: Operands, datapath: Datapath) -> QuantizedTensor:
    """Inputs that drive each weight row's sum to its highest (even rows) and its lowest value (odd rows).

    Every element is at an extreme of the format, on the side that the weight's sign asks for. Integer block scales are
    the largest there are; others are one, as no certificate depends on them.
    """
    x, w = both.x, both.w
    tile = datapath.inner_elements(x.quantizer, w.quantizer, *w.shape)
    weight = tiles(integers(w), w.k, tile).astype(np.float64).reshape(len(w.codes), -1)[:, : w.k]
    sign = np.stack([weight, -weight], 1).reshape(-1, w.k)
    format = x.quantizer.format
    lowest, highest = format.encode(np.asarray([format.bounds().lowest, format.bounds().highest]))
    codes = np.where(sign >= 0, highest, lowest)
    block = x.codes.shape[2]
    codes = np.pad(codes, ((0, 0), (0, -w.k % block))).reshape(len(codes), -1, block)
    shape = (len(codes), w.k)
    is_integer = datapath.outer.is_integer
    scales = tuple(
        np.full(
            s.share.shape(*shape),
            s.format.encode(np.asarray([s.format.full_scale if s.share.splits_k and is_integer else 1.0]))[0],
        )
        for s in x.quantizer.scales
    )
    zero_points = None if x.zero_points is None else np.full((1, 1), x.zero_points.flat[0])
    return QuantizedTensor(codes, scales, zero_points, w.k, x.quantizer)
