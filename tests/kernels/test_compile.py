"""What compilers make of the kernels: Triton ahead of time for GPUs that need not be there, torch.compile here."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bitwright import kernels
from bitwright.quantization import Statistics
from bitwright.schemes import CATALOGUE

SCRIPT = Path(__file__).parent / "compile_for_gpus.py"


@pytest.fixture(scope="module")
def binaries():
    """A dictionary for each kernel and target."""
    if find_spec("triton") is None:
        pytest.skip("the extra `gpu` is not installed")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestGpus:
    """What the package launches, compiled to machine code."""

    def test_every_kernel_becomes_machine_code_for_nvidia_and_amd(self, binaries):
        for kernel in ("_rows", "_blocks", "_overwrite", "_within_budget", "_backward", "_product"):
            made = {found["target"] for found in binaries if found["kernel"] == kernel and found["bytes"] > 1000}
            assert made == {"80", "90", "gfx942"}, kernel

    def test_no_division_is_approximate_and_no_product_is_fused_with_a_sum(self, binaries):
        assert not [found for found in binaries if found["inexact"]]

    def test_numbers_below_the_normal_range_are_kept(self, binaries):
        assert not [found for found in binaries if not found["keeps_subnormals"]]


LOOKS_AT_VALUES = {("overq", True), ("overq_on", True), ("combined", True), ("term_revealing", True), ("a2q", False)}
"""Schemes, and whether their inputs (without a sign) or their weights: kernels that a graph cannot hold."""


def fitted(factory, is_input):
    """A quantizer of the scheme, its ranges, and values; inputs are those behind a ReLU."""
    scheme = factory()
    chosen = scheme.input if is_input else scheme.weight
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    x = x.relu() if is_input else x
    seen = Statistics.of(x.numpy())
    quantizer = chosen.fit(seen, kernels.squared_errors)
    return quantizer, quantizer.estimate(seen, kernels.squared_errors), x


@pytest.mark.parametrize("is_input", [True, False], ids=["input", "weight"])
@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_every_scheme_is_one_graph_with_the_same_values_or_says_why_not(factory, is_input):
    quantizer, ranges, x = fitted(factory, is_input)
    if (factory.__name__, is_input) in LOOKS_AT_VALUES:
        with pytest.raises(kernels.Unsupported, match="looks at values"):
            kernels.traced(quantizer, x, ranges)
        return
    graph = torch.compile(kernels.traced(quantizer, x, ranges), fullgraph=True, backend="eager")
    assert torch.equal(graph(x), kernels.fake_quantize(quantizer, x, ranges))
    assert torch.equal(graph(-x), kernels.fake_quantize(quantizer, -x, ranges))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["integer", "vs_quant", "ant", "mxfp4", "nvfp4"])
def test_compiled_code_gives_the_same_values(name):
    quantizer, ranges, x = fitted(next(f for f in CATALOGUE if f.__name__ == name), False)
    x[0, :16], x[1, :16] = 0, 1e-40
    compiled = torch.compile(kernels.traced(quantizer, x, ranges), fullgraph=True)
    assert torch.equal(compiled(x), kernels.fake_quantize(quantizer, x, ranges))
