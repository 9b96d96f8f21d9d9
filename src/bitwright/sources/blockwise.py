"""Checkpoints quantized with calibration, one decoder block in memory at a time.

Hidden states of the calibration samples lie in files between blocks. Each block is read from safetensors, its weights
are chosen by GPTQ (Frantar et al., arXiv:2210.17323) with the inputs that reach it behind the quantized blocks before,
written as a file of the checkpoint, and run to give the next block's inputs. A run that was stopped goes on with the
block that is missing.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from bitwright.checkpoint import Selection
from bitwright.checkpoint.folder import CONFIG, INDEX, TensorFolder, copy_rest, read_config, require_room_for_rest
from bitwright.checkpoint.layouts import values_of
from bitwright.export.compressed_tensors import Placed, configuration, placed
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import gptq
from bitwright.recipe import Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.sources.quantized import architecture
from bitwright.store import key_of, write_atomically

SPOOL = ".hidden"
Progress = Callable[[str, int, int], None]


@torch.no_grad()
def quantize_calibrated(
    source: Path,
    out: Path,
    scheme: Scheme,
    samples: Sequence[Sequence[int]],
    progress: Progress = lambda what, done, total: None,
) -> Path:
    """Quantize the linear layers of a decoder's blocks into `out`; `samples` are token numbers.

    For architectures whose blocks lie in `model.layers` and are called alike, as Llama's. Memory holds the embedding
    and one block in float32; samples' hidden states lie on disk. Anything else raises ValueError.
    """
    if scheme.input is not None:
        raise ValueError("calibration by blocks chooses weights; give a scheme that leaves inputs in float")
    if not samples or not all(len(s) for s in samples):
        raise ValueError("no calibration sample found; give at least one with a token")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the folder that is read; choose another one to write to")
    config, tensors = read_config(source / CONFIG), TensorFolder(source)
    if "quantization_config" in config:
        raise ValueError(f"{source} is quantized already; start from the model in floats")
    model = architecture(source, len(tensors.entries)).eval()
    blocks = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(blocks, nn.ModuleList) or not hasattr(model.model, "embed_tokens"):
        raise ValueError(f"{type(model).__name__} has no model.layers and model.embed_tokens; Llama-like models have")
    require_room_for_rest(source, out)
    out.mkdir(parents=True, exist_ok=True)
    count = len(blocks)
    _load_(model.model.embed_tokens, tensors, "model.embed_tokens.")  # type: ignore[arg-type]
    first = [_first_inputs(model, torch.tensor([list(sample)])) for sample in samples]
    hidden = _Spool(out / SPOOL)
    hidden.require_run(key_of(str(source.resolve()), repr(scheme), [list(map(int, s)) for s in samples]))
    if not hidden.has(0) and not any(hidden.has(i) for i in range(1, count + 1)):
        hidden.write(0, [x for x, _ in first])
    described: dict[str, Placed] = {}
    for i in range(count):
        name, prefix = _file(i, count), f"model.layers.{i}."
        known = out / SPOOL / f"{i}.json"
        if not ((out / name).exists() and known.exists()):  # the latter is written last
            block = blocks[i]
            _load_(block, tensors, prefix)
            batches = [
                Batch({"hidden_states": x} | more, torch.empty(0))
                for x, (_, more) in zip(hidden.read(i), first, strict=True)
            ]
            frozen = _quantized(block, scheme, prefix, batches)
            layers = placed(frozen)
            stored = {f"{prefix}{path}.{n}": t for path, p in layers.items() for n, t in p.tensors.items()}
            rest = [n for n in tensors.entries if n.startswith(prefix)]
            stored |= {n: _tensor(tensors, n) for n in rest if n[len(prefix) :].rpartition(".")[0] not in layers}
            write_atomically(out / name, save(stored, {"format": "pt"}))
            bare = {f"{prefix}{path}": [p.layout, p.weights, p.inputs] for path, p in layers.items()}
            hidden.write(i + 1, [_output(frozen(**batch.inputs)) for batch in batches])  # type: ignore[arg-type]
            write_atomically(known, json.dumps(bare).encode())
            blocks[i] = nn.Identity()  # its memory is given back
        described |= {n: Placed(a, b, c, {}) for n, (a, b, c) in json.loads(known.read_text()).items()}
        hidden.drop(i)
        progress(name, i + 1, count)
    _write_rest(source, out, tensors, config, described, count)
    hidden.remove()
    return out


def read_samples(path: Path, tokenizer: Callable[[str], Sequence[int]], length: int = 512) -> list[list[int]]:
    """Lines of JSON with "text" or "tokens", each cut to `length` tokens. Another line raises ValueError."""
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and isinstance(found.get("text"), str):
            samples.append(list(tokenizer(found["text"]))[:length])
        elif isinstance(found, dict) and all(type(t) is int and t >= 0 for t in found.get("tokens") or [""]):
            samples.append(list(found["tokens"])[:length])
        else:
            raise ValueError(
                f'{path}, line {number}: {line[:40]!r} found; a line is {{"text": "…"}} or {{"tokens": […]}}'
            )
    return [sample for sample in samples if sample]


class _Spool:
    """Hidden states in files, one folder before each block, mapped rather than read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require_run(self, key: str) -> None:
        """Go on with the run of this key, or start one; ValueError where the folder holds what is of another."""
        known = self.folder / "run"
        if known.exists() and known.read_text() != key:
            raise ValueError(
                f"{self.folder.parent} holds a stopped run of another scheme, model or samples; remove it, or choose "
                "another folder"
            )
        if not known.exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed while it removed this
            if (self.folder.parent / CONFIG).exists() or any(self.folder.parent.glob("*.safetensors")):
                raise ValueError(f"{self.folder.parent} holds a model already; remove it, or choose another folder")
            self.folder.mkdir(parents=True)
            write_atomically(known, key.encode())

    def remove(self) -> None:
        (self.folder / "run").unlink()
        shutil.rmtree(self.folder)

    def has(self, block: int) -> bool:
        return (self.folder / str(block)).is_dir()

    def write(self, block: int, states: Sequence[Tensor]) -> None:
        partial = self.folder / f"{block}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for i, x in enumerate(states):
            np.save(partial / f"{i}.npy", x.float().numpy())
        shutil.rmtree(self.folder / str(block), ignore_errors=True)
        partial.rename(self.folder / str(block))

    def read(self, block: int) -> list[Tensor]:
        paths = sorted((self.folder / str(block)).glob("*.npy"), key=lambda p: int(p.stem))
        return [torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths]

    def drop(self, block: int) -> None:
        shutil.rmtree(self.folder / str(block), ignore_errors=True)


class _Caught(Exception):
    """What reached the first block."""


def _first_inputs(model: nn.Module, tokens: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Hidden states before the first block, and what else every block is called with."""
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        caught.append((x, {n: v for n, v in kwargs.items() if n != "hidden_states"}))
        raise _Caught

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)  # type: ignore[union-attr,index]
    try:
        model(input_ids=tokens, use_cache=False)
    except _Caught:
        return caught[0]
    finally:
        handle.remove()
    raise AssertionError("the first block is called")


def _quantized(block: nn.Module, scheme: Scheme, prefix: str, batches: list[Batch]) -> nn.Module:
    selection = Selection()
    names = [n for n, m in block.named_modules() if isinstance(m, nn.Linear) and not selection.ignores(prefix + n)]
    recipe = Recipe(tuple(Rule(name, scheme) for name in names))
    return freeze(gptq(calibrate(prepare(block, recipe), batches), batches))


def _output(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def _load_(module: nn.Module, tensors: TensorFolder, prefix: str) -> None:
    """Fill a module's parameters from the files, in float32."""
    state = {}
    for name, own in module.named_parameters():
        if prefix + name not in tensors.entries:
            raise ValueError(f"{tensors.folder} has no {prefix + name}; fetch the whole model")
        raw = tensors.read(prefix + name)
        values = values_of(raw.require(("F32", "BF16", "F16"), tuple(own.shape)), raw)
        state[name] = torch.from_numpy(values.astype(np.float32))
    module.load_state_dict(state, strict=False, assign=True)


def _tensor(tensors: TensorFolder, name: str) -> Tensor:
    """As stored."""
    raw = tensors.read(name)
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16}
    found = torch.from_numpy(raw.values.copy())
    return found.view(kinds[raw.dtype]) if raw.dtype in kinds else found


def _file(i: int, count: int) -> str:
    return f"model-{i + 1:05}-of-{count + 1:05}.safetensors"


def _write_rest(
    source: Path, out: Path, tensors: TensorFolder, config: dict[str, Any], described: dict[str, Placed], count: int
) -> None:
    """What lies outside of the blocks, the index, and config.json."""
    outside = {n: _tensor(tensors, n) for n in tensors.entries if not n.startswith("model.layers.")}
    write_atomically(out / _file(count, count), save(outside, {"format": "pt"}))
    places = {}
    for i in range(count + 1):
        for name in TensorFolder.names_of(out / _file(i, count)):
            places[name] = _file(i, count)
    total = sum((out / _file(i, count)).stat().st_size for i in range(count + 1))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_atomically(out / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    copy_rest(source, out)
    whole = {**config, "quantization_config": configuration(described, ["lm_head"])}
    write_atomically(out / CONFIG, (json.dumps(whole, indent=2) + "\n").encode())
