"""Compiles every kernel in Triton, as the package launches it, for GPUs that need not be there.

Prints a line of JSON for each kernel and target. A program of its own, as Triton must not interpret here.
"""

import json
import re
from unittest import mock

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import E4M3, FLOAT32, Int, Rounding
from bitwright.kernels import Operand, Stationary, gpu
from bitwright.quantization import PerRow, PerTensor, Quantizer, Range, Scale, Zero
from bitwright.schemes import integer, mxfp4, nvfp4, vs_quant
from bitwright.schemes.ant import flint
from bitwright.schemes.overq import Overwrite, Pick
from bitwright.schemes.term_revealing import TermBudget

TARGETS = [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)]
TYPES = {
    torch.float32: "fp32", torch.float64: "fp64", torch.int32: "i32", torch.int8: "i8", bool: "i1", int: "i32",
    float: "fp32",
}  # fmt: skip
DIVISION = re.compile(r"^\s+(div\.(?!rn\.|s32|u32|s64|u64)\S+)", re.MULTILINE)
FUSED = re.compile(r"^\s+(fma\.\S+)", re.MULTILINE)


def compiled(kernel: JITFunction, *arguments: object, **keywords: object) -> None:
    """In place of a launch."""
    options = {"enable_fp_fusion": keywords.pop("enable_fp_fusion")}
    for name in ("grid", "warmup"):
        keywords.pop(name)
    given = {**dict(zip(kernel.arg_names, arguments)), **keywords}
    constant = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
    signature = {name: "constexpr" if name in constant else _type(given[name]) for name in kernel.arg_names}
    for target in TARGETS:
        made = triton.compile(ASTSource(kernel, signature, constant), target=target, options=options)
        binary = made.asm.get("cubin") or made.asm["hsaco"]
        text = made.asm.get("ptx") or made.asm["amdgcn"]
        inexact = [*DIVISION.findall(text), *FUSED.findall(text)] if "ptx" in made.asm else []
        keeps_subnormals = ".ftz" not in text if "ptx" in made.asm else ".amdhsa_float_denorm_mode_32 3" in text
        found = {"kernel": kernel.__name__, "target": str(target.arch), "bytes": len(binary)}
        print(json.dumps({**found, "inexact": sorted(set(inexact)), "keeps_subnormals": keeps_subnormals}))


def _type(x: object) -> str:
    if isinstance(x, torch.Tensor):
        return f"*{TYPES[x.dtype]}"
    return "i64" if isinstance(x, int) and abs(x) >= 2**31 else TYPES[type(x)]


def launches() -> None:
    """One of each kind."""
    x = torch.randn(4, 64)
    one = Range(np.full((1, 1), -1.0), np.full((1, 1), 1.0))
    fitted = Quantizer(Int(8, signed=False), (Scale(PerTensor()),), zero=Zero.FITTED)
    rows = [
        Quantizer(Int(8), (Scale(PerRow()),), rounding) for rounding in Rounding if rounding is not Rounding.STOCHASTIC
    ]
    doubled = Quantizer(flint(4), (Scale(PerTensor()), Scale(PerRow(), E4M3)))
    for quantizer in (*rows, doubled, mxfp4().weight, nvfp4().weight, vs_quant().weight):
        gpu.fake_quantize(quantizer, x)
        gpu.quantize(quantizer, x)
    gpu.fake_quantize(fitted, x, (one,))
    for pick in Pick:
        gpu.round_to(Overwrite(Int(4, signed=False), True, 4, True, pick), x.abs(), Rounding.NEAREST_UP)
    gpu.round_to(TermBudget(128, group=8, budget=12), x, Rounding.NEAREST_AWAY)
    gpu.backward(integer(4, 4).weight, x, torch.ones(4, 1), x, (-7.0, 7.0))
    for scheme in (integer(), mxfp4()):
        t = scheme.weight.quantize(x.numpy())
        a, w = Operand.of(t), Stationary(Operand.of(t))
        for overflow in Overflow:
            register = Accumulator(Int(8), overflow)
            gpu.matmul(Datapath(inner=register, outer=Accumulator(FLOAT32)), a, w)
        gpu.matmul(Datapath(outer=Accumulator(FLOAT32), tile=32), a, w)


if __name__ == "__main__":
    with (
        mock.patch.object(JITFunction, "run", compiled),
        mock.patch("bitwright.kernels.gpu.launch.takes", return_value=True),
    ):
        launches()
