"""Quantizing one weight of a checkpoint on one core, beside the peers and a copy of it.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py [--size 4096]

Codes are first compared with compressed-tensors'. Ours are made in pieces of the size that `bitwright quantize` works
in. Peers that are not installed are left out, which is said. Whole folders: checkpoint_folder.py.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from timing import Case, Group, main

from bitwright.checkpoint import NAMED, CheckpointFormat, Integers
from bitwright.checkpoint.codes import magnitudes
from bitwright.checkpoint.disk import Buffer
from bitwright.checkpoint.tensors import CHUNK

FORMATS: dict[str, CheckpointFormat] = {
    "int4": Integers(), "int4 zero points": Integers(has_zero_points=True), "int3": Integers(3),
    "int8": Integers(8, None), **{name: make(False) for name, make in NAMED.items()},
}  # fmt: skip


def bfloat16(shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.02)
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def one_weight(size: int) -> Group:
    x = bfloat16((size, size), 0)
    out, memory, step = np.empty_like(x), Buffer(), max(CHUNK // (2 * size), 1)
    peers = _compressed_tensors(x) | _torchao(x)

    def note(peer: str) -> str:
        return f"{peer}as seconds for 10^9 parameters: ms × {1e6 / size**2:.3g}"

    def ours(name: str, format: CheckpointFormat) -> Case:
        def pieces() -> Iterator[np.ndarray]:
            largest = float(magnitudes(x, "BF16", size).max())  # also finds NaN
            for start in range(0, size, step):
                yield format.quantize(x[start : start + step], "BF16", largest, memory)[0]

        def run() -> None:
            for _ in pieces():
                pass

        def check() -> str | None:
            peer = peers.get(f"compressed-tensors {name}")
            is_equal = peer is None or b"".join(codes.tobytes() for codes in pieces()) == _bytes(peer())
            return None if is_equal else "not compressed-tensors' codes"

        return Case(f"bitwright {name}", run, check, note(""))

    own = [ours(name, format) for name, format in FORMATS.items()]
    theirs = [Case(name, run, note=note("peer, ")) for name, run in peers.items()]
    copy = Case("a copy of it", lambda: np.copyto(out, x))
    return Group(f"quantizing a {size}×{size} bfloat16 weight", copy, [*own, *theirs])


def _compressed_tensors(x: np.ndarray) -> dict[str, Callable[[], object]]:
    try:
        import compressed_tensors  # noqa: F401
        import torch
    except ImportError as error:
        print(f"not installed, left out: compressed-tensors ({error})")
        return {}
    torch.set_num_threads(1)
    w = torch.from_numpy(x).view(torch.bfloat16)

    def codes(format: CheckpointFormat) -> Callable[[], object]:
        run = compressing(w, format)

        def only() -> object:
            made = run()
            return made["weight_packed" if "weight_packed" in made else "weight"]

        return only

    return {f"compressed-tensors {name}": codes(format) for name, format in FORMATS.items()}


def compressing(w: Any, format: CheckpointFormat) -> Callable[[], dict[str, Any]]:
    """compressed-tensors' own compressor behind its own choice of scales from the smallest and largest weight."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    described = format.config()
    compressor = BaseCompressor.get_value_from_registry(described.pop("format"))
    scheme = QuantizationScheme(targets=["Linear"], **described)
    args = scheme.weights

    def extremes() -> tuple[torch.Tensor, torch.Tensor]:
        if args.strategy == "tensor":
            return torch.aminmax(w)
        if args.strategy == "channel":
            return w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        if args.strategy == "block":
            tiles = w.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
            return tiles.amin((1, 3)), tiles.amax((1, 3))
        groups = w.unflatten(1, (-1, args.group_size))
        return groups.amin(2), groups.amax(2)

    def run() -> dict[str, Any]:
        more = {"global_scale": generate_gparam(w.min(), w.max())} if args.strategy == "tensor_group" else {}
        scale, zero = calculate_qparams(*extremes(), args, **more)
        state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero}
        state |= {f"weight_{name}": scale for name, scale in more.items()}
        return compressor.compress(state, scheme)

    return run


def _bytes(tensor: Any) -> bytes:
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def _torchao(x: np.ndarray) -> dict[str, Callable[[], object]]:
    try:
        import torch
        from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    except ImportError as error:
        print(f"not installed, left out: torchao ({error})")
        return {}
    w = torch.from_numpy(x).view(torch.bfloat16)
    return {
        "torchao nvfp4": lambda: NVFP4Tensor.to_nvfp4(
            w, per_tensor_scale=per_tensor_amax_to_scale(w.abs().max().float())
        )
    }


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    yield one_weight(arguments.size)


if __name__ == "__main__":
    main(__doc__ or "", groups, ("--size", {"type": int, "default": 4096}))
