"""Quantizing a checkpoint on one core: one weight beside the peers, then a whole folder, with its peak memory.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py [--size 4096] [--folder DIR] [--layers 16]

One bfloat16 matrix beside a copy of it; codes are first compared with compressed-tensors'. With --folder, a Llama-like
checkpoint of four files is generated there (1.57 GB at 16 layers) and quantized in a process of its own, beside a copy
of its bytes in one stream. Peers that are not installed are left out, which is said.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import Case, Group, main

from bitwright.checkpoint import NAMED, CheckpointFormat, Entry, Integers, TensorWriter
from bitwright.checkpoint.codes import magnitudes

WIDTH, INNER, VOCABULARY, FILES = 2048, 5632, 32000, 4
FORMATS: dict[str, CheckpointFormat] = {
    "int4": Integers(), "int4 zero points": Integers(has_zero_points=True), "int3": Integers(3),
    "int8": Integers(8, None), **{name: make(False) for name, make in NAMED.items()},
}  # fmt: skip


def bfloat16(shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.02)
    return (x.view(np.uint32) >> 16).astype(np.uint16)


def one_weight(size: int) -> Group:
    x = bfloat16((size, size), 0)
    out = np.empty_like(x)
    peers = _compressed_tensors(x) | _torchao(x)

    def note(peer: str) -> str:
        return f"{peer}as seconds for 10^9 parameters: ms × {1e6 / size**2:.3g}"

    def ours(name: str, format: CheckpointFormat) -> Case:
        def run() -> list[np.ndarray]:
            largest = float(magnitudes(x, "BF16", size).max())  # also finds NaN
            return format.quantize(x, "BF16", largest)

        def check() -> str | None:
            peer = peers.get(f"compressed-tensors {name}")
            is_equal = peer is None or run()[0].tobytes() == _bytes(peer())
            return None if is_equal else "not compressed-tensors' codes"

        return Case(f"bitwright {name}", run, check, note(""))

    own = [ours(name, format) for name, format in FORMATS.items()]
    theirs = [Case(name, run, note=note("peer, ")) for name, run in peers.items()]
    copy = Case("a copy of it", lambda: np.copyto(out, x))
    return Group(f"quantizing a {size}×{size} bfloat16 weight", copy, [*own, *theirs])


def _compressed_tensors(x: np.ndarray) -> dict[str, Callable[[], object]]:
    """Its compressor of each format, behind its own choice of scales from the smallest and largest weight."""
    try:
        import torch
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.quantization import QuantizationScheme
        from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    except ImportError as error:
        print(f"not installed, left out: compressed-tensors ({error})")
        return {}
    torch.set_num_threads(1)
    w = torch.from_numpy(x).view(torch.bfloat16)

    def extremes(strategy: str, group: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        if strategy == "tensor":
            return torch.aminmax(w)
        if strategy == "channel":
            return w.amin(1, keepdim=True), w.amax(1, keepdim=True)
        if strategy == "block":
            tiles = w.unflatten(0, (-1, 128)).unflatten(2, (-1, 128))
            return tiles.amin((1, 3)), tiles.amax((1, 3))
        groups = w.unflatten(1, (-1, group))
        return groups.amin(2), groups.amax(2)

    def compressing(format: CheckpointFormat) -> Callable[[], object]:
        described = format.config()
        compressor = BaseCompressor.get_value_from_registry(described.pop("format"))
        scheme = QuantizationScheme(targets=["Linear"], **described)
        args = scheme.weights

        def run() -> object:
            more = {"global_scale": generate_gparam(w.min(), w.max())} if args.strategy == "tensor_group" else {}
            scale, zero = calculate_qparams(*extremes(args.strategy, args.group_size), args, **more)
            state = {"weight": w, "weight_scale": scale, "weight_zero_point": zero}
            state |= {f"weight_{name}": scale for name, scale in more.items()}
            made = compressor.compress(state, scheme)
            return made["weight_packed" if "weight_packed" in made else "weight"]

        return run

    return {f"compressed-tensors {name}": compressing(format) for name, format in FORMATS.items()}


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


def generate(folder: Path, layers: int) -> int:
    """Parameters of a Llama-like model of bfloat16 weights, written to four files."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 4, WIDTH),
        "self_attn.v_proj": (WIDTH // 4, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    entries = [Entry("model.embed_tokens.weight", "BF16", (VOCABULARY, WIDTH))]
    entries += [Entry(f"model.layers.{i}.{n}.weight", "BF16", s) for i in range(layers) for n, s in shapes.items()]
    entries += [Entry("lm_head.weight", "BF16", (VOCABULARY, WIDTH))]
    for part in range(FILES):
        own = entries[len(entries) * part // FILES : len(entries) * (part + 1) // FILES]
        with TensorWriter(folder / f"model-{part + 1:05}-of-{FILES:05}.safetensors", own, {"format": "pt"}) as writer:
            for i, entry in enumerate(own):
                writer.write(entry.name, 0, bfloat16(entry.shape, i).reshape(-1).view(np.uint8).data)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return sum(entry.bytes for entry in entries) // 2


def whole_folder(folder: Path, layers: int) -> None:
    source = folder / "model"
    parameters = generate(source, layers)
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    print(f"a checkpoint of {parameters / 1e9:.2f}·10^9 parameters, {size / 1e9:.2f} GB in {FILES} files, one core")
    start, own = time.perf_counter(), time.process_time()
    for path in source.glob("*.safetensors"):
        with path.open("rb", buffering=0) as read, (folder / "copy").open("wb", buffering=0) as written:
            while piece := read.read(8 << 20):
                written.write(piece)
    wall, own = time.perf_counter() - start, time.process_time() - own
    print(f"  {'copy of the bytes':28} {wall:6.2f} s, the process' own {own:.2f} s")
    (folder / "copy").unlink()
    for name in FORMATS:
        for turn in ("first", "again"):
            out = folder / f"{name}-{turn}"
            done = subprocess.run(
                [sys.executable, __file__, "--quantize", *map(str, (source, out, name))],
                capture_output=True,
                text=True,
                check=True,
            )
            wall, own, megabytes = map(float, done.stdout.split())
            print(
                f"  bitwright {name:6} {turn:11} {wall:6.2f} s, the process' own {own:.2f} s: "
                f"{size / own / 1e9:.2f} GB/s, {megabytes:.0f} MB at most"
            )
            for path in out.iterdir():
                path.unlink()


def quantize(source: str, out: str, name: str) -> None:
    """In a process of its own: prints seconds of wall and of the process, and the most memory it held."""
    from bitwright.checkpoint import quantize_checkpoint

    done = quantize_checkpoint(Path(source), Path(out), FORMATS[name])
    kilobytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(done.seconds, time.process_time(), kilobytes / 1024)


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    yield one_weight(arguments.size)
    if arguments.folder is not None:
        whole_folder(arguments.folder, arguments.layers)


if __name__ == "__main__":
    if "--quantize" in sys.argv:
        quantize(*sys.argv[2:])
    else:
        main(
            __doc__ or "", groups, ("--size", {"type": int, "default": 4096}), ("--folder", {"type": Path}),
            ("--layers", {"type": int, "default": 16}),
        )  # fmt: skip
