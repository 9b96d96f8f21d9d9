"""bitwright's own bundle: a folder of `model.safetensors` and `manifest.json`, lossless for every scheme.

Codes are packed at their own width, in the order of `bitwright.formats.pack`; scales and zero points likewise. The
manifest holds each layer's resolved scheme as text. Neither file holds code; a bundle is read into a float model of
the same architecture, whose weights do not matter.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bitwright import formats
from bitwright.config import WORDS, from_text
from bitwright.model.attention import Attention
from bitwright.model.layers import FakeQuantizedLayer, QuantizedEmbedding, QuantizedLayer
from bitwright.model.prepare import prepare, prove
from bitwright.model.task import Inputs, call
from bitwright.model.transform import fold_batchnorm, replaced
from bitwright.quantization import Granularity, QuantizedTensor, Quantizer, Range
from bitwright.recipe import Recipe, Rule
from bitwright.scheme import Scheme
from bitwright.store import read_json, write_atomically, write_json

TENSORS, MANIFEST = "model.safetensors", "manifest.json"
VERSION = 1

Ranges = tuple[Range | None, ...]
Words = tuple[type, ...]
Placed = QuantizedLayer | QuantizedEmbedding | FakeQuantizedLayer | Attention


@dataclass(frozen=True)
class Place:
    """A layer, an embedding or an attention: its resolved schemes by operand, and the shape of its codes."""

    name: str
    kind: str  # "layer" | "embedding" | "attention"
    schemes: tuple[str, ...]
    codes: tuple[int, ...] = ()
    k: int = 0


@dataclass(frozen=True)
class Manifest:
    """What `model.safetensors` does not say of itself."""

    version: int
    sha256: str  # of model.safetensors
    places: tuple[Place, ...]


def write(frozen: nn.Module, folder: Path | str, words: Words = ()) -> Path:
    """Write what `freeze` or `bw.quantize` gave. A model without quantized layers raises ValueError.

    `words` are classes of one's own that its schemes are made of; reading needs them too. A scheme that could not be
    read back raises ValueError.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    places = []
    for path, module in _places(frozen):
        if isinstance(module, FakeQuantizedLayer):
            raise ValueError(f"layer {path} is not frozen; call bitwright.model.prepare.freeze before it is written")
        place, own = _stored(module)
        for text in set(place.schemes):
            _require_readable(place.name, text, words)
        places.append(place)
        tensors |= {f"{place.name}/{name}": tensor for name, tensor in own.items()}
    if not places:
        raise ValueError("the model has no quantized layer; give what bitwright.quantize returns")
    tensors |= {f"/{name}": t.detach().clone().contiguous() for name, t in _rest(frozen).items()}
    content = save(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS, content)
    write_json(folder / MANIFEST, Manifest(VERSION, hashlib.sha256(content).hexdigest(), tuple(places)))
    return folder


def read(folder: Path | str, model: nn.Module, example: Inputs | None = None, words: Words = ()) -> nn.Module:
    """The frozen model back, bit for bit, in the architecture of `model`, a float model that stays as it is.

    `example` is needed where the model has attention, and where BatchNorm was folded. A bundle that is damaged, or of
    another architecture, raises ValueError.
    """
    folder = Path(folder)
    manifest, tensors = _files(folder)
    schemes = {place.name: [_scheme(folder, text, words) for text in place.schemes] for place in manifest.places}
    recipe = Recipe(tuple(Rule(f"re:^{re.escape(name)}$", found[0]) for name, found in schemes.items()))
    parts = {place.name: _parts_of(place, tensors) for place in manifest.places}
    inside = {f"{layer}/{part}" for layer, own in parts.items() for part in own}
    state = {name[1:]: t for name, t in tensors.items() if name.startswith("/") and name not in inside}
    frozen = _skeleton(folder, model, recipe, state, example)
    replacements: dict[int, nn.Module] = {}
    places = {place.name: place for place in manifest.places}
    for _, module in _places(frozen):
        name = module.name
        if name not in places:
            raise ValueError(f"{folder}: its manifest has no layer {name}; it is of another architecture")
        replacements[id(module)] = _restored(module, places[name], schemes[name], parts[name])
    frozen = replaced(frozen, replacements)
    frozen.load_state_dict(state, strict=False)
    return frozen


def verify(folder: Path | str, frozen: nn.Module, model: nn.Module, inputs: Inputs, words: Words = ()) -> None:
    """Read the bundle back and compare codes, scales and outputs with `frozen`; ValueError where a bit differs."""
    again = read(folder, model, inputs, words)
    for (path, a), (_, b) in zip(_places(frozen), _places(again), strict=True):
        ours, theirs = _stored(a)[1], _stored(b)[1]
        for name in ours:
            if not torch.equal(ours[name], theirs[name]):
                raise ValueError(f"{folder}: {name} of layer {path} differs after reading it back")
    with torch.no_grad():
        expected, found = call(frozen, inputs), call(again, inputs)
    if isinstance(expected, Tensor) and not torch.equal(expected, found):
        raise ValueError(f"{folder}: outputs differ after reading it back")


def _parts_of(place: Place, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A layer's own tensors by what they are. Its name may be empty, or begin as that of state does."""
    prefix = f"{place.name}/"
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return {name: tensor for name, tensor in own.items() if _PART.fullmatch(name)}


def _files(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    for name in (TENSORS, MANIFEST):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no bundle: it has no {name}; bitwright.export.bundle.write makes one")
    manifest = read_json(folder / MANIFEST, Manifest)
    if manifest.version != VERSION:
        raise ValueError(f"{folder}: version {manifest.version} found; this bitwright reads version {VERSION}")
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ValueError(f"{folder}: {TENSORS} is not the file that its manifest was written for; write it again")
    try:
        return manifest, load(content)
    except SafetensorError as error:
        raise ValueError(f"{folder}: {TENSORS} is damaged ({error}); write it again") from None


def _skeleton(
    folder: Path, model: nn.Module, recipe: Recipe, state: dict[str, Tensor], example: Inputs | None
) -> nn.Module:
    """The float model prepared, its BatchNorms folded where the bundle has none."""
    tries = [lambda: model]
    if example is not None:
        tries.append(lambda: fold_batchnorm(model, example))
    for make in tries:
        prepared = prepare(make(), recipe, example)
        wanted = set(_rest(prepared))
        if wanted == set(state):
            return prepared
    missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
    hint = "" if example is not None else "; give an example input, with which BatchNorm is folded"
    raise ValueError(
        f"{folder} is of another architecture: it lacks {missing[:3]} and has {extra[:3]} of {len(state)} tensors{hint}"
    )


def _places(model: nn.Module) -> Iterator[tuple[str, Placed]]:
    for path, module in model.named_modules():
        if isinstance(module, Placed):
            yield path, module


def _rest(model: nn.Module) -> dict[str, Tensor]:
    """State that is not codes, scales or learned ranges."""
    inside = {}
    for path, module in model.named_modules(remove_duplicate=False):  # state has a module under each of its names
        if not isinstance(module, Placed):
            continue
        kept = {"bias"} if isinstance(module, QuantizedLayer | FakeQuantizedLayer) else set()
        inside[f"{path}." if path else ""] = kept
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(name.startswith(p) and name.removeprefix(p) not in kept for p, kept in inside.items())
    }


def _stored(module: Placed) -> tuple[Place, dict[str, Tensor]]:
    if isinstance(module, Attention):
        schemes = tuple(repr(replace(module.scheme, input=q, weight=q)) for q in module.quantizers.values())
        own: dict[str, Tensor] = {}
        for operand, ranges in module.ranges.items():
            own |= _of_ranges(operand, ranges)
        return Place(module.name, "attention", schemes), own
    if isinstance(module, QuantizedEmbedding):
        weight, kind, scheme, own = module.quantized, "embedding", Scheme(None, module.weight_quantizer), {}
    else:
        assert isinstance(module, QuantizedLayer), "asked before"
        weight, kind = module.quantized_weight(), "layer"
        scheme = replace(module.scheme, input=module.input_quantizer, weight=module.weight_quantizer)
        own = _of_ranges("input", module.input_ranges)
    return Place(module.name, kind, (repr(scheme),), weight.codes.shape, weight.k), own | _of_tensor(weight)


def _restored(module: Placed, place: Place, schemes: list[Scheme], own: dict[str, Tensor]) -> nn.Module:
    if isinstance(module, Attention):
        for operand, scheme in zip(_OPERANDS, schemes, strict=True):
            assert isinstance(scheme.input, Quantizer), "written resolved"
            module.quantizers[operand] = scheme.input
            module.calibrated[operand] = _ranges(operand, scheme.input, own)
        module.is_exact = True
        return module
    quantizer = schemes[0].weight
    assert isinstance(quantizer, Quantizer), "written resolved"
    assert not isinstance(module, QuantizedLayer), "prepared, not frozen"
    if isinstance(module, FakeQuantizedLayer):
        module.weight_quantizer, module.input_quantizer = quantizer, schemes[0].input  # type: ignore[assignment]
    weight = _tensor(place, quantizer, own)
    rows = _rows_of(module)
    if weight.shape != rows:
        raise ValueError(f"layer {place.name}: codes of a matrix {weight.shape} found, the model's is {rows}")
    if isinstance(module, QuantizedEmbedding):
        module.quantized, module.weight_quantizer = weight, quantizer
        module.weight.copy_(torch.from_numpy(weight.decode()))
        return module
    if module.input_quantizer is None:
        return QuantizedLayer(module, weight, None)
    module.pin("input", _ranges("input", module.input_quantizer, own))
    certificate = prove(module, weight).certificate
    assert certificate is not None, "quantized input"
    module.scheme.datapath.require_fit(certificate)
    return QuantizedLayer(module, weight, certificate)


def _rows_of(module: QuantizedEmbedding | FakeQuantizedLayer) -> tuple[int, int]:
    """Rows and K of the weight in the model at hand, as the layer's quantizer lays it out."""
    if isinstance(module, QuantizedEmbedding):
        return module.weight.shape[0], module.weight.shape[1]
    rows = module.lowering.weight_rows(module.weight.detach().float(), module.block)
    return rows.shape[0], rows.shape[1]


_OPERANDS = ("query", "key", "probability", "value")
_PART = re.compile(rf"codes|zero points|scales/\d+|({'|'.join(('input', *_OPERANDS))})/\d+/(low|high)")


def _of_tensor(weight: QuantizedTensor) -> dict[str, Tensor]:
    codes = weight.codes.reshape(len(weight.codes), -1)
    parts = {"codes": formats.pack(codes, weight.quantizer.format.bits)}
    for i, (scale, stored) in enumerate(zip(weight.quantizer.scales, weight.scales, strict=True)):
        parts[f"scales/{i}"] = formats.pack(stored, scale.format.bits)
    if weight.zero_points is not None:
        parts["zero points"] = formats.pack(weight.zero_points, weight.quantizer.format.bits)
    return {name: torch.from_numpy(part) for name, part in parts.items()}


def _tensor(place: Place, quantizer: Quantizer, own: dict[str, Tensor]) -> QuantizedTensor:
    rows, blocks, block = place.codes

    def unpacked(name: str, bits: int, shape: tuple[int, int]) -> np.ndarray:
        packed = own.get(name, torch.empty(0))
        if packed.dtype != torch.uint8 or packed.shape != (shape[0], -(-shape[1] * bits // 8)):
            raise ValueError(
                f"layer {place.name}: its {name} are {packed.dtype} {tuple(packed.shape)}, not {shape[0]} rows of "
                f"{shape[1]} codes of {bits} bits; write the bundle again"
            )
        return formats.unpack(packed.numpy(), bits, shape[1])

    def of_cells(name: str, bits: int, share: Granularity) -> np.ndarray:
        return unpacked(name, bits, share.shape(rows, blocks * block))

    codes = unpacked("codes", quantizer.format.bits, (rows, blocks * block)).reshape(rows, blocks, block)
    scales = tuple(of_cells(f"scales/{i}", s.format.bits, s.share) for i, s in enumerate(quantizer.scales))
    zero = of_cells("zero points", quantizer.format.bits, quantizer.scales[0].share) if "zero points" in own else None
    return QuantizedTensor(codes, scales, zero, place.k, quantizer)


def _of_ranges(operand: str, ranges: Ranges) -> dict[str, Tensor]:
    found = {}
    for level, known in enumerate(ranges):
        if known is not None:
            found[f"{operand}/{level}/low"] = torch.from_numpy(np.array(known.low))
            found[f"{operand}/{level}/high"] = torch.from_numpy(np.array(known.high))
    return found


def _ranges(operand: str, quantizer: Quantizer, own: dict[str, Tensor]) -> Ranges:
    levels = [f"{operand}/{i}" for i in range(len(quantizer.scales))]
    return tuple(
        Range(own[f"{p}/low"].numpy(), own[f"{p}/high"].numpy()) if f"{p}/low" in own else None for p in levels
    )


def _require_readable(layer: str, text: str, words: Words) -> None:
    try:
        from_text(text, words)
    except ValueError as error:
        raise ValueError(
            f"layer {layer}: its scheme could not be read back ({str(error)[:200]}); pass your classes as words=(...), "
            f"or offer them as entry points of the group {WORDS}"
        ) from None


def _scheme(folder: Path, text: str, words: Words) -> Scheme:
    scheme = from_text(text, words)
    if not isinstance(scheme, Scheme):
        raise ValueError(f"{folder}: {json.dumps(text)[:80]} is not a scheme")
    return scheme
