"""Quantizing a checkpoint on one core: one weight beside the peers, then a whole folder, with its peak memory.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py [--size 4096] [--folder DIR] [--layers 16] [--formats int4,nvfp4]

One bfloat16 matrix beside a copy of it (--size 0 leaves it out); codes are first compared with compressed-tensors'.
With --folder, a Llama-like checkpoint is generated there (0.85·10^9 parameters at 16 layers, 2·10^9 at 42) and
quantized in processes of their own, ours and compressed-tensors' by turns; run again, it goes on with what is not
measured yet. Peers that are not installed are left out, which is said.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from timing import Case, Group, main

from bitwright.checkpoint import NAMED, CheckpointFormat, Entry, Integers, Selection, TensorWriter
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


def shapes(layers: int) -> list[Entry]:
    """A Llama-like model of bfloat16 weights."""
    within = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH // 4, WIDTH),
        "self_attn.v_proj": (WIDTH // 4, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    entries = [Entry("model.embed_tokens.weight", "BF16", (VOCABULARY, WIDTH))]
    entries += [Entry(f"model.layers.{i}.{n}.weight", "BF16", s) for i in range(layers) for n, s in within.items()]
    return [*entries, Entry("lm_head.weight", "BF16", (VOCABULARY, WIDTH))]


def generate(folder: Path, layers: int) -> int:
    """Parameters of the model, written to files of about a gigabyte; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = shapes(layers)
    parameters = sum(entry.bytes for entry in entries) // 2
    files = max(FILES, round(parameters * 2 / 1e9))
    noise = bfloat16((INNER * WIDTH,), 0)  # any weight is a part of it, turned by its number
    for part in range(files):
        path = folder / f"model-{part + 1:05}-of-{files:05}.safetensors"
        own = entries[len(entries) * part // files : len(entries) * (part + 1) // files]
        if path.exists():
            continue
        with TensorWriter(path, own, {"format": "pt"}) as writer:
            for i, entry in enumerate(own):
                place = 0
                while place < entry.bytes // 2:
                    piece = np.roll(noise, 977 * i + place)[: entry.bytes // 2 - place]
                    writer.write(entry.name, 2 * place, piece.view(np.uint8).data)
                    place += len(piece)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return parameters


def whole_folder(folder: Path, layers: int, chosen: list[str]) -> None:
    """Ours and compressed-tensors' by turns, each in a process of its own. What was measured before is kept."""
    source, measured = folder / "model", folder / "measured.json"
    parameters = generate(source, layers)
    known: dict[str, list[float]] = json.loads(measured.read_text()) if measured.exists() else {}
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    print(f"a checkpoint of {parameters / 1e9:.2f}·10^9 parameters, {size / 1e9:.2f} GB, one thread")
    runs = [("copy", "of the bytes"), *((who, name) for name in chosen for who in ("bitwright", "compressed-tensors"))]
    for who, name in runs:
        key, out = f"{who} {name}", folder / "out"
        if key not in known:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            done = subprocess.run(
                [sys.executable, __file__, "--quantize", str(source), str(out), who, name],
                capture_output=True, text=True,
            )  # fmt: skip
            shutil.rmtree(out)
            if done.returncode:
                print(f"  {key:32} left out: {done.stderr.strip().splitlines()[-1]}")
                continue
            known[key] = [float(number) for number in done.stdout.split()]
            measured.write_text(json.dumps(known))
        wall, own, megabytes = known[key]
        print(f"  {key:32} {wall:7.2f} s, the process' own {own:7.2f} s, {megabytes:6.0f} MB at most", flush=True)


def quantize(source: str, out: str, who: str, name: str) -> None:
    """In a process of its own: prints seconds of wall and of the process, and the most memory it held."""
    start = time.perf_counter()
    if who == "copy":
        for path in Path(source).glob("*.safetensors"):
            with path.open("rb", buffering=0) as read, (Path(out) / path.name).open("wb", buffering=0) as written:
                while piece := read.read(8 << 20):
                    written.write(piece)
                os.fsync(written.fileno())
    elif who == "bitwright":
        from bitwright.checkpoint import quantize_checkpoint

        quantize_checkpoint(Path(source), Path(out), FORMATS[name])
    else:
        _by_compressed_tensors(Path(source), Path(out), FORMATS[name])
    kilobytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(time.perf_counter() - start, time.process_time(), kilobytes / 1024)


def _by_compressed_tensors(source: Path, out: Path, format: CheckpointFormat) -> None:
    """File by file, weight by weight: the least memory that its compressors allow. Scales are not shared."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    selection = Selection()
    torch.set_num_threads(1)
    for path in sorted(source.glob("*.safetensors")):
        tensors: dict[str, Any] = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                w = file.get_tensor(name)
                if selection.takes(Entry(name, "BF16", tuple(w.shape)), 128):
                    made = compressing(w, format)()
                    tensors |= {f"{name.removesuffix('weight')}{part}": t.contiguous() for part, t in made.items()}
                else:
                    tensors[name] = w
        save_file(tensors, out / path.name, {"format": "pt"})


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    if arguments.size:
        yield one_weight(arguments.size)
    if arguments.folder is not None:
        whole_folder(arguments.folder, arguments.layers, arguments.formats.split(","))


if __name__ == "__main__":
    if "--quantize" in sys.argv:
        quantize(*sys.argv[2:])
    else:
        main(
            __doc__ or "", groups, ("--size", {"type": int, "default": 4096}), ("--folder", {"type": Path}),
            ("--layers", {"type": int, "default": 16}), ("--formats", {"default": "int4,nvfp4,fp8"}),
        )  # fmt: skip
