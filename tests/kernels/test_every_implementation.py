"""All implementations on one set of vectors: native, torch, a traced graph, and Triton where it is installed."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from bitwright import kernels
from bitwright.formats import E2M1, E4M3, Int
from bitwright.kernels import Operand
from bitwright.kernels.library import library
from bitwright.quantization import PerBlock, PerRow, PerTensor, Quantizer, Scale
from bitwright.schemes import mxfp4, mxfp8, mxint8, nvfp4, vs_quant
from bitwright.schemes.ant import flint, power_of_two

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

QUANTIZERS = {
    "int8": Quantizer(Int(8), (Scale(PerTensor()),)), "int4 a row": Quantizer(Int(4, narrow=True), (Scale(PerRow()),)),
    "uint4 in blocks": Quantizer(Int(4, signed=False), (Scale(PerBlock(8)),)),
    "flint": Quantizer(flint(4), (Scale(PerRow()),)), "pot": Quantizer(power_of_two(4), (Scale(PerTensor()),)),
    "e2m1 under e4m3": Quantizer(E2M1, (Scale(PerTensor()), Scale(PerRow(), E4M3))),
    "vs_quant": vs_quant().weight, "mxfp4": mxfp4().weight, "mxfp8": mxfp8().weight, "mxint8": mxint8().weight,
    "nvfp4": nvfp4().weight,
}  # fmt: skip


def _vectors():
    generator = np.random.default_rng(0)
    ties = np.arange(-16, 16.5, 0.5, dtype=np.float32)[None]
    random = generator.standard_t(2, (3, 64)).astype(np.float32)
    return {
        "zeros": np.zeros((2, 40), np.float32), "signed zeros": np.full((1, 16), -0.0, np.float32),
        "below the normal range": (random * np.float32(1e-40)).astype(np.float32),
        "smallest": np.full((1, 33), 1e-45, np.float32), "ties": ties, "halves of powers": np.exp2(ties),
        "huge": np.clip(random, -3, 3) * np.float32(1.1e38), "one of all": np.float32([[3.5]]),
        "ragged": generator.standard_normal((5, 37)).astype(np.float32),
        "zero blocks": np.concatenate([np.zeros((3, 48), np.float32), random], 1), "large beside small":
        np.concatenate([random * np.float32(1e-30), random * np.float32(1e30)], 1),
    }  # fmt: skip


VECTORS = _vectors()


def _by(name):
    def run(quantizer, x):
        with kernels.only(*([name] if name == "reference" else [name, "reference"])):
            return kernels.fake_quantize(quantizer, x)

    return run


IMPLEMENTATIONS = {
    "native": _by("native"), "torch": _by("torch"), "triton": _by("triton"),
    "traced": lambda quantizer, x: kernels.traced(quantizer, x)(x),
}  # fmt: skip


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    if request.param == "native" and library() is None:
        pytest.skip("installed without the native library")
    if request.param == "triton":
        if find_spec("triton") is None:
            pytest.skip("the extra `gpu` is not installed")
        from bitwright.kernels import gpu

        if not gpu.INTERPRETED:
            pytest.skip("Triton compiles for a GPU here, and tests/kernels/test_triton.py asks that one")
    return request.param


@pytest.mark.filterwarnings("ignore::bitwright.kernels.SlowKernel")
@pytest.mark.parametrize("vector", VECTORS)
def test_every_implementation_gives_the_references_values(implementation, vector):
    x = VECTORS[vector]
    for name, quantizer in QUANTIZERS.items():
        reference = Operand.of(quantizer.quantize(x)).decode()
        found = IMPLEMENTATIONS[implementation](quantizer, torch.from_numpy(x))
        np.testing.assert_array_equal(found.numpy(), reference.numpy(), err_msg=name)
