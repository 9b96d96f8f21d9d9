"""Registers that are read through a function: the kernels equal the reference bit for bit."""

import warnings

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.datapath import WIDE, Accumulator, Cyclic, Datapath, Overflow
from bitwright.formats import FLOAT32, Int
from bitwright.kernels import Operand, SlowKernel, Stationary
from bitwright.kernels.registers import read
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale


def register(bits: int, slope: int) -> Accumulator:
    return Accumulator(Int(bits), Overflow.WRAP, readout=Cyclic(slope))


DATAPATHS = {
    "8 bits": Datapath(register(8, 1), WIDE), "6 bits": Datapath(register(6, 1), WIDE),
    "slope": Datapath(register(7, 3), WIDE), "wide": Datapath(register(32, 1), WIDE),
    "tile": Datapath(register(5, 1), WIDE, tile=16), "tile that fits": Datapath(register(12, 2), WIDE, tile=16),
    "tile in a register that saturates": Datapath(register(5, 1), Accumulator(Int(6), Overflow.SATURATE), tile=8),
    "sums of 16 fit and are folded": Datapath(register(10, 1), WIDE),
    "tiles of 16 fit and are folded": Datapath(register(10, 1), WIDE, tile=16),
    "sums of 16 fit and are folded, float outside": Datapath(register(10, 1), Accumulator(FLOAT32)),
    "float outside": Datapath(register(6, 2), Accumulator(FLOAT32)),
}  # fmt: skip
SHARES = {
    "tensor": (Scale(PerTensor()),), "row": (Scale(PerRow()),),
    "block": (Scale(PerRow()), Scale(PerBlock(16), Int(3, signed=False))),
}  # fmt: skip


@pytest.mark.parametrize("shares", [("tensor", "row"), ("row", "row"), ("block", "row"), ("block", "block")])
@pytest.mark.parametrize("name", DATAPATHS)
@pytest.mark.parametrize("lowest_weight", [-0.7, 0.7])
@pytest.mark.parametrize("k", [3, 40, 150])
def test_products_overflows_and_accumulations_equal_the_reference(name, shares, k, lowest_weight):
    x_quantizer, w_quantizer = (
        Quantizer(f, SHARES[s]) for f, s in zip((Int(3, signed=False), Int(3, narrow=True)), shares, strict=True)
    )
    generator = np.random.default_rng(k)
    a = x_quantizer.quantize(generator.uniform(max(lowest_weight, 0), 1, (6, k)).astype(np.float32))
    b = w_quantizer.quantize(generator.uniform(lowest_weight, 1, (4, k)).astype(np.float32))
    expected = DATAPATHS[name].matmul(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowKernel)
        values, overflows, accumulations = kernels.matmul(DATAPATHS[name], Operand.of(a), Stationary(Operand.of(b)))
    np.testing.assert_array_equal(values.numpy(), expected.values)
    np.testing.assert_array_equal(np.signbit(values.numpy()), np.signbit(expected.values))
    assert (overflows, accumulations) == (expected.overflows, expected.accumulations)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("slope", [1, 2, 7])
@pytest.mark.parametrize("bits", [2, 8, 11])
def test_every_integer_of_a_register_is_read_as_in_the_reference(bits, slope, dtype):
    held = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    found = read(register(bits, slope), torch.from_numpy(held).to(dtype))
    np.testing.assert_array_equal(found.numpy(), register(bits, slope).read(held[None])[0])
