"""One stored model at several operating points: the same codes and scales, read by formats that share them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from bitwright.formats import Format
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import prove
from bitwright.model.site import naming
from bitwright.quantization import Quantizer

FormatChange = Callable[[Format], Format]


def _same(format: Format) -> Format:
    return format


@contextmanager
def reading(model: nn.Module, *, weight: FormatChange = _same, input: FormatChange = _same) -> Iterator[None]:
    """While it lasts, quantized layers read weights and inputs by the changed formats; nothing is quantized again.

        with reading(model, weight=with_budget(8), input=with_budget(2)):
            y = model(x)

    A format with other codes, or sums that a register can no longer be proved to hold, raise ValueError naming the
    layer. Attention products keep their formats.
    """
    layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer | QuantizedLayer) and m.is_resolved]
    before = [(layer.weight_quantizer, layer.input_quantizer) for layer in layers]
    try:
        for layer, (stored, entering) in zip(layers, before, strict=True):
            with naming(layer.name):
                layer.weight_quantizer = _changed(stored, weight)  # type: ignore[arg-type]  # resolved
                layer.input_quantizer = None if entering is None else _changed(entering, input)
                _require_fit(layer)
        yield
    finally:
        for layer, (stored, entering) in zip(layers, before, strict=True):
            layer.weight_quantizer, layer.input_quantizer = stored, entering


def _changed(quantizer: Quantizer, change: FormatChange) -> Quantizer:
    old, new = quantizer.format, change(quantizer.format)
    if (type(new), new.bits, new.full_scale, new.run) != (type(old), old.bits, old.full_scale, old.run):
        raise ValueError(f"{new} does not read the codes of {old}; quantize again")
    return replace(quantizer, format=new)


def _require_fit(layer: FakeQuantizedLayer | QuantizedLayer) -> None:
    if layer.scheme.datapath.inner.range is None and layer.scheme.datapath.outer.range is None:
        return
    certificate = prove(layer).certificate
    if certificate is not None:
        layer.scheme.datapath.require_fit(certificate)
