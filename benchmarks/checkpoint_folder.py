"""Quantizing a whole checkpoint on one thread, beside the peers: time, processor time, memory.

    python benchmarks/checkpoint_folder.py FOLDER [--layers 42] [--peers PYTHON] [--llm-compressor PYTHON] [--page]

A Llama-like checkpoint of bfloat16 is made in FOLDER (0.85·10^9 parameters at 16 layers, 2·10^9 at 42). Each tool then
quantizes it in a process of its own; run again, what was measured stands and the rest follows, so that one case is
measured anew with --again "bitwright fp8". --page puts the table into docs/concepts/checkpoints.md. Imports are not
timed. --peers and --llm-compressor are Pythons that have those packages, as their pins differ.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.checkpoint import Entry, Selection, TensorWriter
from checkpoint import FORMATS, bfloat16, compressing

WIDTH, INNER, VOCABULARY, FILES = 2048, 5632, 32000, 4
PAGE = Path(__file__).parent.parent / "docs" / "concepts" / "checkpoints.md"
BEGIN, END = "<!-- measured folders -->", "<!-- end of measured folders -->"
CASES = {
    "copy of": ("the bytes",),
    "bitwright": ("int4", "fp8", "nvfp4"),
    "compressed-tensors": ("int4", "fp8", "nvfp4"),
    "llm-compressor": ("int4", "fp8", "nvfp4"),
    "torchao": ("fp8", "nvfp4"),
}
"""torchao 0.18 has no int4 for a CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=42)
    parser.add_argument("--peers", default=sys.executable, help="a Python with compressed-tensors and torchao")
    parser.add_argument("--llm-compressor", default=sys.executable, help="a Python with llm-compressor")
    parser.add_argument("--only", nargs="*", default=list(CASES), help="tools")
    parser.add_argument("--again", nargs="*", default=[], help='cases to measure anew, as "bitwright fp8"')
    parser.add_argument("--page", action="store_true")
    chosen = parser.parse_args()
    pythons = {"llm-compressor": chosen.llm_compressor, "compressed-tensors": chosen.peers, "torchao": chosen.peers}
    source, measured = chosen.folder / "model", chosen.folder / "measured.json"
    parameters = generate(source, chosen.layers)
    for tool in chosen.only:
        for name in CASES[tool]:
            known: dict[str, list[float]] = json.loads(measured.read_text()) if measured.exists() else {}
            key = f"{tool} {name}"
            if key in known and key not in chosen.again:
                continue
            found = measure(pythons.get(tool, sys.executable), source, chosen.folder / f"out.{os.getpid()}", tool, name)
            if found is not None:
                known = json.loads(measured.read_text()) if measured.exists() else {}
                measured.write_text(json.dumps(known | {key: found}, indent=1))
    made = table(json.loads(measured.read_text()), parameters)
    print(made)
    if chosen.page:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n{END}{rest.partition(END)[2]}")


def measure(python: str, source: Path, out: Path, tool: str, name: str) -> list[float] | None:
    """Seconds of wall and of the process, and megabytes at most; None where it could not be run, which is said."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    done = subprocess.run(
        [python, __file__, "--quantize", str(source), str(out), tool, name], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    shutil.rmtree(out)
    if done.returncode:
        print(f"left out: {tool} {name}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    found = [float(number) for number in done.stdout.strip().splitlines()[-1].split()]
    print(f"{tool} {name}: {found[0]:.1f} s, the process' own {found[1]:.1f} s, {found[2]:.0f} MB at most", flush=True)
    return found


def table(known: dict[str, list[float]], parameters: int) -> str:
    """Markdown; a peer's seconds over ours are of the process' own time."""
    lines = [
        f"A checkpoint of {parameters / 1e9:.2f}·10⁹ parameters, {parameters * 2 / 1e9:.2f} GB in four files:",
        "", "| | wall, s | own, s | own over ours | most memory, MB |", "|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    for name in dict.fromkeys(name for names in CASES.values() for name in names):
        for tool, names in CASES.items():
            if name in names and (found := known.get(f"{tool} {name}")) is not None:
                ours = known.get(f"bitwright {name}")
                over = "" if ours is None or tool == "bitwright" else f"{found[1] / ours[1]:.1f}"
                title = f"{name}, {tool}" if ours else f"{tool} {name}"
                lines.append(f"| {title} | {found[0]:.1f} | {found[1]:.1f} | {over} | {found[2]:.0f} |")
    return "\n".join(lines) + "\n"


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
    places: dict[str, str] = {}
    noise = bfloat16((INNER * WIDTH,), 0)  # any weight is a part of it, turned by its number
    for part in range(files):
        path = folder / f"model-{part + 1:05}-of-{files:05}.safetensors"
        own = entries[len(entries) * part // files : len(entries) * (part + 1) // files]
        places |= {entry.name: path.name for entry in own}
        if path.exists():
            continue
        with TensorWriter(path, own, {"format": "pt"}) as writer:
            for i, entry in enumerate(own):
                place = 0
                while place < entry.bytes // 2:
                    piece = np.roll(noise, 977 * i + place)[: entry.bytes // 2 - place]
                    writer.write(entry.name, 2 * place, piece.view(np.uint8).data)
                    place += len(piece)
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return parameters


def quantize(source: Path, out: Path, tool: str, name: str) -> None:
    """In a process of its own: prints seconds of wall and of the process, and the most memory it held."""
    run = TOOLS[tool](source, out, name)
    start = time.perf_counter(), time.process_time()
    run()
    wall, own = time.perf_counter() - start[0], time.process_time() - start[1]
    kilobytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    print(wall, own, kilobytes / 1024)


def copying(source: Path, out: Path, name: str) -> Callable[[], None]:
    def run() -> None:
        for path in source.glob("*.safetensors"):
            with path.open("rb", buffering=0) as read, (out / path.name).open("wb", buffering=0) as written:
                while piece := read.read(8 << 20):
                    written.write(piece)
                os.fsync(written.fileno())

    return run


def bitwright(source: Path, out: Path, name: str) -> Callable[[], None]:
    from bitwright.checkpoint import quantize_checkpoint

    return lambda: print(quantize_checkpoint(source, out, FORMATS[name]).bytes_after)


def by_files(source: Path, out: Path, tensors_of: Callable[[str, Any], dict[str, Any]]) -> None:
    """File by file, weight by weight: the least memory that torch's tensors allow. Scales are not shared."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    selection = Selection()
    for path in sorted(source.glob("*.safetensors")):
        tensors: dict[str, Any] = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                w = file.get_tensor(name)
                is_taken = selection.takes(Entry(name, "BF16", tuple(w.shape)), 128)
                made = tensors_of(name, w) if is_taken else {name: w}
                tensors |= {name: tensor.contiguous() for name, tensor in made.items()}
        save_file(tensors, out / path.name, {"format": "pt"})


def compressed_tensors(source: Path, out: Path, name: str) -> Callable[[], None]:
    import compressed_tensors.compressors  # noqa: F401  # so that it is not timed
    import torch

    torch.set_num_threads(1)

    def tensors_of(weight: str, w: Any) -> dict[str, Any]:
        made = compressing(w, FORMATS[name])()
        return {f"{weight.removesuffix('weight')}{part}": tensor for part, tensor in made.items()}

    return lambda: by_files(source, out, tensors_of)


def torchao(source: Path, out: Path, name: str) -> Callable[[], None]:
    import torch
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
    from torchao.quantization import Float8Tensor, PerRow

    torch.set_num_threads(1)

    def quantized(w: Any) -> Any:
        if name == "fp8":
            return Float8Tensor.from_hp(w, granularity=PerRow())
        return NVFP4Tensor.to_nvfp4(w, per_tensor_scale=per_tensor_amax_to_scale(w.abs().max().float()))

    def tensors_of(weight: str, w: Any) -> dict[str, Any]:
        made = quantized(w)
        return {f"{weight}_{part}": getattr(made, part) for part in made.tensor_data_names}

    return lambda: by_files(source, out, tensors_of)


def llm_compressor(source: Path, out: Path, name: str) -> Callable[[], None]:
    import torch
    from llmcompressor import model_free_ptq

    torch.set_num_threads(1)
    scheme = {"int4": "W4A16", "fp8": "FP8_DYNAMIC", "nvfp4": "NVFP4A16"}[name]
    left = ["lm_head", "re:.*embed.*"]
    return lambda: model_free_ptq(str(source), str(out), scheme=scheme, ignore=left, max_workers=1, device="cpu")


TOOLS = {
    "copy of": copying, "bitwright": bitwright, "compressed-tensors": compressed_tensors, "torchao": torchao,
    "llm-compressor": llm_compressor,
}  # fmt: skip

if __name__ == "__main__":
    if sys.argv[1:2] == ["--quantize"]:
        quantize(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5])
    else:
        main()
