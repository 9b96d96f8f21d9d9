"""Fake quantization and packed codes beside a copy of the same matrix: native loops, torch kernels, other packages.

    OMP_NUM_THREADS=1 python benchmarks/fake_quantize.py [--megabytes 4 64] [--threads 1]

Results go into memory that is there, as the copy's do; rows with `new` return new memory, as other packages do, and
`clone` is the copy that does. Ours are first compared with the torch kernels bit for bit, and packed codes with what
they stand for. The native loops are timed at each set of vector instructions that the machine has.
"""

import argparse
from collections.abc import Callable, Iterator

import peers
import torch
from timing import Case, Group, main
from torch import Tensor

from bitwright import kernels
from bitwright.formats import Int
from bitwright.kernels import library
from bitwright.quantization import PerBlock, PerTensor, Quantizer, Range, Scale
from bitwright.schemes import mxfp4, mxfp8, nvfp4, vs_quant
from bitwright.schemes.ant import flint, power_of_two

QUANTIZERS = {
    "int8": Quantizer(Int(8), (Scale(PerTensor()),)), "flint4": Quantizer(flint(4), (Scale(PerTensor()),)),
    "PoT4": Quantizer(power_of_two(4), (Scale(PerTensor()),)), "VS-Quant 4/4": vs_quant(4, 4).weight,
    "MXFP4": mxfp4().weight, "MXFP8": mxfp8().weight, "NVFP4": nvfp4().weight,
}  # fmt: skip
PACKED = {
    "int4, 128 a scale": Quantizer(Int(4), (Scale(PerBlock(128)),)), "MXFP4": mxfp4().weight, "NVFP4": nvfp4().weight,
    "VS-Quant 4/4": vs_quant(4, 4).weight,
}  # fmt: skip
COLUMNS = 1024

Run = Callable[[], Tensor]


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    for megabytes in arguments.megabytes:
        x = torch.randn(megabytes * 2**18 // COLUMNS, COLUMNS, generator=torch.Generator().manual_seed(0))
        out = torch.empty_like(x)
        copy = Case("copy", lambda x=x, out=out: out.copy_(x))
        cases = [case for name in QUANTIZERS for case in fake_quantizations(name, x, out)]
        yield Group(f"fake quantization, {megabytes} MB", copy, [Case("clone", x.clone), *cases])
        yield Group(
            f"packed codes, {megabytes} MB", copy, [case for name, q in PACKED.items() for case in packings(name, q, x)]
        )


def fake_quantizations(name: str, x: Tensor, out: Tensor) -> Iterator[Case]:
    quantizer = QUANTIZERS[name]
    ranges = tuple(
        None if scale.share.splits_k else _largest(x, scale.share.shape(*x.shape)) for scale in quantizer.scales
    )

    def run(out: Tensor | None = out) -> Tensor:
        return kernels.fake_quantize(quantizer, x, ranges, out=out)

    with kernels.only("torch"):
        expected = run(None)

    def check(run: Run) -> Callable[[], str | None]:
        return lambda: None if torch.equal(run(), expected) else "it differs from the torch kernel"

    for level in levels():
        own = _at(level, run)
        yield Case(f"{name}, {level}", own, check(own))
    yield Case(f"{name}, new", new := lambda: run(None), check(new))
    yield Case(f"{name}, ours in torch", _in_torch(run), note="without the native library")
    for peer, run_peer in peers.fake_quantizers(name, x).items():
        yield Case(f"{name}, {peer}", run_peer, note="peer, new memory")


def packings(name: str, quantizer: Quantizer, x: Tensor) -> Iterator[Case]:
    packed = kernels.pack(quantizer, x)

    def check() -> str | None:
        is_equal = torch.equal(kernels.unpack(packed), kernels.fake_quantize(quantizer, x))
        return None if is_equal else "codes stand for other values"

    note = "new memory, ranges from the matrix"
    yield Case(f"pack {name}", lambda: kernels.pack(quantizer, x), check, note)
    yield Case(f"unpack {name}", lambda: kernels.unpack(packed), check, "new memory")


def levels() -> list[str]:
    """Sets of vector instructions of this machine but the smallest, which are compiled for any."""
    found = []
    for level in library.LOOPS:
        with library.level(level) as used:
            found += [level] if used == level else []
    return found[1:] or found


def _at(level: str, run: Run) -> Run:
    def at_level() -> Tensor:
        with library.level(level):
            return run()

    return at_level


def _in_torch(run: Run) -> Run:
    def in_torch() -> Tensor:
        with kernels.only("torch"):
            return run()

    return in_torch


def _largest(x: Tensor, shape: tuple[int, int]) -> Range:
    """Of each row, or of all."""
    magnitude = x.abs().amax(1, keepdim=True) if shape[0] > 1 else x.abs().amax()[None, None]
    return Range(-magnitude.numpy(), magnitude.numpy())


if __name__ == "__main__":
    main(__doc__ or "", groups, ("--megabytes", {"type": int, "nargs": "+", "default": [4, 64]}))
