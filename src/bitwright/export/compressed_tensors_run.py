"""A compressed-tensors folder in its own engine: transformers runs it, each layer beside what its codes give.

transformers decodes weights and quantizes inputs by the compressed-tensors package, the layout's reference.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.checkpoint.folder import CONFIG, read_config
from bitwright.export.compressed_tensors import quantized_layers
from bitwright.model.layers import QuantizedLayer
from bitwright.model.task import Inputs
from bitwright.quantization import Zero

BFLOAT16 = 2.0**-8 + 2.0**-22
"""Largest relative error of a value that an inverted scale moved by a last bit and 8 bits hold."""


SAME_INTEGERS = 2.0**-20
"""Relative difference of two floats that stand for the same integer of up to 8 bits under the same scales."""

TIE = 2.0**-13
"""Steps from a tie within which a sum with a zero point, below 2**10 in float32, may be rounded across it."""


@dataclass(frozen=True)
class Found:
    """Relative to the largest: of a layer's outputs on what it met in the engine, and of the model's first output.

    Of the `inputs` quantized values, `at_lowest` are at the code that integers with `narrow` leave out and engines
    have, and `at_ties` so near a tie that the engine's zero point, added before rounding, moves them across.
    """

    layers: float
    output: float
    inputs: int = 0
    at_lowest: int = 0
    at_ties: int = 0

    def __str__(self) -> str:
        others = (
            f"; {self.at_lowest} of {self.inputs:,} inputs at a code that ours leave out" * bool(self.at_lowest)
        ) + (f"; {self.at_ties} of {self.inputs:,} inputs at ties" * bool(self.at_ties))
        return f"equal integers, outputs within {self.layers:.1g}{others}"


def compare(folder: Path | str, frozen: nn.Module, inputs: Inputs, tolerance: float = 1e-5) -> Found:
    """Run the folder that was written of `frozen` in transformers.

    Decoded weights must be equal in float32 (NVFP4's, which the engine decodes to bfloat16, to its half unit), the
    inputs that the engine quantizes those of our codes but for what `Found` counts, and each layer's output their
    product but for the order of float additions, by `tolerance` of the largest. ValueError where they are not;
    ImportError without the packages.
    """
    folder = Path(folder)
    engine, layers = _engine(folder), quantized_layers(frozen)
    theirs = dict(engine.named_modules())
    for path, layer in layers.items():
        _require_same_weight_(f"{folder}: layer {path}", theirs[path], layer)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [theirs[path].register_forward_hook(partial(_keep, seen, path)) for path in layers]
    with torch.no_grad():
        output = _relative(_first(_call(engine, inputs)), _first(_call(frozen, inputs)))
    for hook in hooks:
        hook.remove()
    ran = [_layer(f"{folder}: layer {path}", theirs[path], layers[path], *met) for path, met in seen.items()]
    worst = max(ran, key=lambda one: one.wrong)
    if not worst.wrong <= tolerance:
        raise ValueError(f"{worst.name} differs by {worst.wrong:.2g} of its largest output in transformers")
    counts = (sum(getattr(one, name) for one in ran) for name in ("inputs", "at_lowest", "at_ties"))
    return Found(worst.wrong, output, *counts)


def _engine(folder: Path) -> nn.Module:
    """The model as transformers loads it, decoded, in float32."""
    try:
        import compressed_tensors
        import transformers
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed, which runs these folders; pip install 'bitwright[hf]' compressed-tensors"
        ) from None
    del compressed_tensors
    names = read_config(folder / CONFIG).get("architectures") or [""]
    made = getattr(transformers, str(names[0]), None)
    if made is None:
        raise ValueError(f"{folder}: the architecture {names[0]!r} is none of transformers {transformers.__version__}")
    with _silent():
        model = made.from_pretrained(folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False)
        model.hf_quantizer.compressor.decompress_model(model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    evaluated: nn.Module = nn.Module.float(model).eval()
    return evaluated


def _require_same_weight_(layer: str, theirs: nn.Module, ours: QuantizedLayer) -> None:
    """A weight that is rounded to bfloat16 is then replaced by its value in float32, for the products."""
    weight = theirs.weight
    assert isinstance(weight, Tensor), "a linear layer"
    expected = torch.from_numpy(ours.quantized_weight().decode()).float()
    tolerance = BFLOAT16 if hasattr(theirs, "weight_global_scale") else 0.0
    others = int(((weight - expected).abs() > tolerance * expected.abs()).sum())
    if others:
        raise ValueError(f"{layer}: {others} weights decode to other values in transformers")
    if tolerance:
        weight.data = expected


@dataclass(frozen=True)
class _Layer:
    name: str
    wrong: float
    inputs: int = 0
    at_lowest: int = 0
    at_ties: int = 0


def _layer(name: str, theirs: nn.Module, ours: QuantizedLayer, x: Tensor, y: Tensor) -> _Layer:
    """One layer on what it met: the engine's inputs beside our codes, its output beside their product, and beside the
    layer's own where they are equal."""
    if ours.input_quantizer is None:
        with torch.no_grad():
            return _Layer(name, _relative(y, ours(x)))
    weight = ours.quantized_weight().decode()
    bias = 0 if ours.bias is None else ours.bias.double()
    from compressed_tensors.quantization.lifecycle.forward import forward_quantize

    rows, own = _rows(x), kernels.quantize(ours.input_quantizer, _rows(x), ours.input_ranges)
    found: Tensor = forward_quantize(theirs, x, "input", theirs.quantization_scheme.input_activations)  # type: ignore[union-attr]
    values = own.decode_exactly()
    others = (_rows(found).double() - values).abs() > SAME_INTEGERS * values.abs() + 2.0**-149
    at_lowest = others & (own.flat()[:, : own.k] == float(ours.input_quantizer.format.bounds().lowest))
    at_ties = others & _is_near_tie(ours, rows) & ~at_lowest
    if unexplained := int((others & ~at_lowest & ~at_ties).sum()):
        raise ValueError(f"{name}: {unexplained} integers of its input are others in transformers")
    wrong = _relative(y, found.double() @ torch.from_numpy(weight).T + bias)
    same = ~others.any(dim=1)
    with torch.no_grad():
        wrong = max(wrong, _relative(_rows(y)[same], _rows(ours(x))[same]))
    return _Layer(name, wrong, x.numel(), int(at_lowest.sum()), int(at_ties.sum()))


def _is_near_tie(ours: QuantizedLayer, rows: Tensor) -> Tensor:
    """Whether a zero point, where there is one, may move an input across a rounding threshold."""
    assert ours.input_quantizer is not None, "asked before"
    if ours.input_quantizer.zero is not Zero.FITTED:
        return torch.zeros_like(rows, dtype=torch.bool)
    quantized = kernels.quantize(ours.input_quantizer, rows, ours.input_ranges)
    steps = rows.double() / quantized.outside.double()
    return (steps - steps.floor() - 0.5).abs() < TIE


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _keep(seen: dict[str, tuple[Tensor, Tensor]], path: str, module: nn.Module, given: Any, y: Tensor) -> None:
    seen.setdefault(path, (given[0].detach(), y.detach()))


def _call(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _relative(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the packages' bars and advice."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
