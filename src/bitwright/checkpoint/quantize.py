"""A folder of safetensors to one of quantized weights: header first, then tensors one by one in bounded pieces.

Each output file appears only when it is whole, so a run that was stopped goes on with the files that are missing.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitwright.checkpoint.codes import NotFinite, magnitudes, stored
from bitwright.checkpoint.disk import Buffer
from bitwright.checkpoint.folder import CONFIG, INDEX, copy_rest, read_config, require_room_for_rest
from bitwright.checkpoint.formats import CheckpointFormat
from bitwright.checkpoint.selection import Selection
from bitwright.checkpoint.tensors import CHUNK, SIZES, Entry, TensorFile, TensorWriter, is_written
from bitwright.store import write_atomically

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Quantized:
    """What was done."""

    quantized: tuple[str, ...]  # weights
    kept: tuple[str, ...]  # tensors that are as they were
    bytes_before: int
    bytes_after: int
    written: int  # files; the others were there from an earlier run
    seconds: float


def quantize_checkpoint(
    source: Path,
    out: Path,
    format: CheckpointFormat,
    selection: Selection = Selection(),
    progress: Progress = lambda what, done, total: None,
) -> Quantized:
    """Quantize the weights of a folder of safetensors into another folder, with config.json and what else lies there.

    A weight with NaN or infinity, a folder without safetensors or config.json, one that is quantized already, and an
    output folder with files of another run raise ValueError; nothing that is there is overwritten.
    """
    start = time.perf_counter()
    buffer = Buffer()
    files = [TensorFile(path, buffer) for path in sorted(source.glob("*.safetensors"))]
    config = _float_config(source)
    if not files:
        raise ValueError(f"{source} holds no .safetensors file; give the folder of a model in that format")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the folder that is read; choose another one to write to")
    chosen = {n for file in files for n, e in file.entries.items() if selection.takes(e, format.group or 8)}
    if not chosen:
        raise ValueError(f"{source}: no two-dimensional weight is left to quantize; ignore fewer")
    plans = {file.path.name: _plan(file, chosen, format) for file in files}
    config |= {"quantization_config": _config(files, chosen, format, selection)}
    missing = _missing(files, out, plans, config)
    require_room_for_rest(source, out)
    out.mkdir(parents=True, exist_ok=True)
    total = sum(file.entries[name].bytes for file in missing for name in file.entries)
    largest = _largest(files, missing, chosen, format, selection)
    done = 0
    for file in missing:
        with TensorWriter(out / file.path.name, plans[file.path.name], file.metadata) as writer:
            for name, entry in file.entries.items():
                if name in chosen:
                    _quantize(file, entry, writer, format, largest.get(selection.fused(name), 0.0))
                else:
                    _copy(file, entry, writer)
                done += entry.bytes
                progress(file.path.name, done, total)
    _write_rest(source, out, files, plans, config)
    kept = [n for file in files for n in file.entries if n not in chosen]
    before = sum(e.bytes for file in files for e in file.entries.values())
    after = sum(e.bytes for plan in plans.values() for e in plan)
    return Quantized(tuple(sorted(chosen)), tuple(kept), before, after, len(missing), time.perf_counter() - start)


def _plan(file: TensorFile, chosen: set[str], format: CheckpointFormat) -> list[Entry]:
    plan: list[Entry] = []
    for name, entry in file.entries.items():
        plan += format.entries(entry) if name in chosen else [entry]
    return sorted(plan, key=lambda entry: -SIZES[entry.dtype])  # wide elements first keep every tensor aligned


def _largest(
    files: list[TensorFile], missing: list[TensorFile], chosen: set[str], format: CheckpointFormat, selection: Selection
) -> dict[str, float]:
    """Largest magnitude of each group of weights that share a scale and are still to be written."""
    if not format.is_fused:
        return {}
    needed = {selection.fused(n) for file in missing for n in file.entries if n in chosen}
    largest: dict[str, float] = defaultdict(float)
    for file in files:
        for name, entry in file.entries.items():
            group = selection.fused(name)
            if name in chosen and group in needed:
                step = _rows(entry, 1) * entry.shape[1] * SIZES[entry.dtype]
                for piece in file.chunks(name, step):
                    rows = stored(piece, entry, len(piece) // (entry.shape[1] * SIZES[entry.dtype]))
                    with _named(file, entry):
                        found = magnitudes(rows, entry.dtype, entry.shape[1])
                    largest[group] = max(largest[group], float(found.max(initial=0)))
    return largest


def _quantize(file: TensorFile, entry: Entry, writer: TensorWriter, format: CheckpointFormat, largest: float) -> None:
    constants = format.constants(entry, largest)
    parts = format.entries(entry)
    growing, fixed = parts[: len(parts) - len(constants)], parts[len(parts) - len(constants) :]
    row_bytes, places = entry.shape[1] * SIZES[entry.dtype], [0] * len(growing)
    for piece in file.chunks(entry.name, _rows(entry, format.rows_together) * row_bytes):
        rows = stored(piece, entry, len(piece) // row_bytes)
        with _named(file, entry):
            contents = format.quantize(rows, entry.dtype, largest, writer.memory)
        for i, (part, content) in enumerate(zip(growing, contents, strict=True)):
            writer.write(part.name, places[i], np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)
            places[i] += content.nbytes
    for part, constant in zip(fixed, constants, strict=True):
        writer.write(part.name, 0, constant)


def _copy(file: TensorFile, entry: Entry, writer: TensorWriter) -> None:
    place = 0
    for piece in file.chunks(entry.name):
        writer.write(entry.name, place, piece)
        place += len(piece)


def _rows(entry: Entry, together: int) -> int:
    """Rows that are worked on at a time: a multiple of `together`."""
    return max(CHUNK // (entry.shape[1] * SIZES[entry.dtype]) // together, 1) * together


@contextmanager
def _named(file: TensorFile, entry: Entry) -> Iterator[None]:
    try:
        yield
    except NotFinite:
        raise ValueError(
            f"{file.path.name}: {entry.name} holds NaN or infinity; only finite weights can be quantized"
        ) from None


def _float_config(source: Path) -> dict[str, object]:
    config = read_config(source / CONFIG)
    if "quantization_config" in config:
        raise ValueError(f"{source} is quantized already; start from the model in floats")
    return config


def _missing(
    files: list[TensorFile], out: Path, plans: dict[str, list[Entry]], config: dict[str, object]
) -> list[TensorFile]:
    """Files that an earlier run of the same kind has not written. Files of anything else raise ValueError."""
    missing = []
    for file in files:
        path, source = out / file.path.name, file.path
        if not path.exists():
            missing.append(file)
        elif not is_written(path, plans[source.name], file.metadata) or path.stat().st_mtime < source.stat().st_mtime:
            raise ValueError(
                f"{path} is there already, of another scheme or older weights; remove it, or choose another folder"
            )
    path = out / CONFIG
    if path.exists() and (missing or read_config(path).get("quantization_config") != config["quantization_config"]):
        raise ValueError(f"{out} holds another model; choose another folder, or remove it")
    return missing


def _config(
    files: list[TensorFile], chosen: set[str], format: CheckpointFormat, selection: Selection
) -> dict[str, object]:
    """As compressed-tensors writes it. Modules left in float by name are listed; embeddings are no Linear targets."""
    left = [
        n.removesuffix(".weight")
        for f in files
        for n, e in f.entries.items()
        if selection.is_weight(e) and n not in chosen
    ]
    described = format.config()
    group = {
        "targets": ["Linear"],
        "weights": described["weights"],
        "input_activations": described["input_activations"],
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors", "format": described["format"], "quantization_status": "compressed",
        "config_groups": {"group_0": group | {"format": described["format"]}},
        "ignore": sorted({*left, "lm_head"}), "kv_cache_scheme": None, "global_compression_ratio": None,
    }  # fmt: skip


def _write_rest(
    source: Path, out: Path, files: list[TensorFile], plans: dict[str, list[Entry]], config: dict[str, object]
) -> None:
    """config.json, the index of files, and whatever else lies beside the weights, less their pickled copies."""
    copy_rest(source, out)
    if len(files) > 1 or (source / INDEX).exists():
        index = {
            "metadata": {"total_size": sum(e.bytes for plan in plans.values() for e in plan)},
            "weight_map": {e.name: name for name, plan in sorted(plans.items()) for e in plan},
        }
        write_atomically(out / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    write_atomically(out / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
