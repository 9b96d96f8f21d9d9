"""ONNX files that ONNX Runtime executes on a CPU: weights packed, inputs and weights as what their codes represent.

Integers of 4 and 8 bits are stored as such and read by DequantizeLinear, in blocks where scales are; other formats of
at most 4 bits as codes that a Gather looks up. What no operator can say is refused, by layer, with the targets that
can. ONNX has no word for an accumulator's width: the proof that none overflows stands in the file's metadata.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitwright.datapath import Overflow
from bitwright.export.graph import Fragment, replace
from bitwright.export.operands import Unholdable, is_of_tensor, represent, stored
from bitwright.export.trace import DOMAIN, Site, sites, trace
from bitwright.formats import FLOAT32
from bitwright.model.attention import Attention
from bitwright.model.convolution import Conv
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.model.task import Inputs

OTHERS = "bitwright's own bundle and Verilog hold every scheme"


def write(frozen: nn.Module, path: Path | str, inputs: Inputs) -> Path:
    """Write what `freeze` or `bw.quantize` gave, for inputs of these shapes (the first axis is free where it can be).

    A scheme that no operators express raises ValueError naming the layer.
    """
    path = Path(path)
    found = sites(frozen)
    for name, site in found.items():
        if not isinstance(site, QuantizedEmbedding):
            _require_exact_sums(name, site)
    model = trace(frozen, inputs)
    fragments, places = {}, {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            named = {a.name: a.s.decode() for a in node.attribute}
            g = Fragment(node.output[0])
            try:
                output = _write(g, found[named["name"]], named, list(node.input))
            except Unholdable as reason:
                raise ValueError(f"layer {named['name']}: ONNX cannot hold {reason}; {OTHERS}") from None
            fragments[node.output[0]] = g, output
            places[node.output[0]] = {**named, "inputs": list(node.input)}
    replace(model, fragments)
    for key, value in (("version", version("bitwright")), ("nodes", places), ("layers", _proofs(found))):
        model.metadata_props.add(key=f"bitwright.{key}", value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def verify(path: Path | str, frozen: nn.Module, inputs: Inputs, tolerance: float = 1e-5) -> float:
    """Run the file in ONNX Runtime and each of its layers on what it met there; gives the largest relative difference.

    A layer's output may differ by the order of float additions: by `tolerance` of its largest value, or ValueError.
    """
    import onnxruntime

    model = onnx.load(path)
    found = sites(frozen)
    ends = {n.name.removesuffix("/output"): n.output[0] for n in model.graph.node if n.name.endswith("/output")}
    places = json.loads(next(p.value for p in model.metadata_props if p.key == "bitwright.nodes"))
    watched = {name: (places[name], output) for name, output in ends.items() if name in places}
    known = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    for place, output in watched.values():
        for value in (*place["inputs"], output):
            if value not in known:
                model.graph.output.append(onnx.ValueInfoProto(name=value))
                known.add(value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = inputs.values() if isinstance(inputs, dict) else inputs
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), given, strict=True)}
    names = [o.name for o in session.get_outputs()]
    values = {**feeds, **dict(zip(names, session.run(names, feeds), strict=True))}
    worst = 0.0
    for place, output in watched.values():
        x = [torch.from_numpy(np.array(values[v])) for v in place["inputs"]]
        with torch.no_grad():
            expected = _exact(found[place["name"]], place, x)
        wrong = float((torch.from_numpy(values[output]) - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        worst = max(worst, wrong)
        if wrong > tolerance:
            raise ValueError(
                f"{path}: layer {place['name']} differs by {wrong:.2g} of its largest output in ONNX Runtime"
            )
    return worst


def run(path: Path | str, inputs: Inputs) -> np.ndarray:
    """The first output of the file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = inputs.values() if isinstance(inputs, dict) else inputs
    return session.run(None, {i.name: t.numpy() for i, t in zip(session.get_inputs(), given, strict=True)})[0]


def _write(g: Fragment, site: Site, named: dict[str, str], inputs: list[str]) -> str:
    if isinstance(site, QuantizedEmbedding):
        return g.op("Gather", stored(g, site.quantized), inputs[0])
    if isinstance(site, Attention):
        rank, sides = int(named["rank"]), (named["left"], named["right"])
        turned = {"perm": [*range(rank - 2), rank - 1, rank - 2]}
        is_first = is_of_tensor(site.quantizers[sides[1]])  # and nothing stands between the codes and the product
        if is_first:
            inputs[1] = g.op("Transpose", inputs[1], **turned)
        x, w = (
            represent(g, site.quantizers[side], site.ranges[side], operand, int(named["k"]))
            for side, operand in zip(sides, inputs, strict=True)
        )
        return g.op("MatMul", x, w if is_first else g.op("Transpose", w, **turned))
    assert isinstance(site, QuantizedLayer), "nodes stand for sites"
    return (_linear if isinstance(site.lowering, Linear) else _convolution)(g, site, inputs[0])


def _linear(g: Fragment, layer: QuantizedLayer, x: str) -> str:
    if layer.input_quantizer is not None:
        x = represent(g, layer.input_quantizer, layer.input_ranges, x, layer.k)
    y = g.op("MatMul", x, stored(g, layer.quantized_weight(), transposed=True))
    return y if layer.bias is None else g.op("Add", y, g.constant(layer.bias.numpy()))


def _convolution(g: Fragment, layer: QuantizedLayer, x: str) -> str:
    lowering, shape = layer.lowering, layer.weight_shape
    assert isinstance(lowering, Conv), "linear layers and convolutions"
    if layer.input_quantizer is not None:
        channels = lowering.input_channels(torch.empty(shape))
        if is_of_tensor(layer.input_quantizer):
            x = represent(g, layer.input_quantizer, layer.input_ranges, x, channels)
        else:
            spatial = len(shape) - 2
            last = g.op("Transpose", x, perm=[0, *range(2, 2 + spatial), 1])
            groups = g.op(
                "Reshape",
                last,
                g.op("Concat", g.op("Shape", last, end=-1), g.constant([-1, channels], np.int64), axis=0),
            )
            rows = represent(g, layer.input_quantizer, layer.input_ranges, groups, channels)
            x = g.op(
                "Transpose", g.op("Reshape", rows, g.op("Shape", last)), perm=[0, 1 + spatial, *range(1, 1 + spatial)]
            )
    weight = _filters(g, layer)
    left, right, top, bottom = lowering.padding
    image = len(shape) == 4
    inputs = [x, weight] if layer.bias is None else [x, weight, g.constant(layer.bias.numpy())]
    return g.op(
        "Conv", *inputs, group=lowering.groups, kernel_shape=list(shape[2:]),
        strides=list(lowering.stride if image else lowering.stride[1:]),
        dilations=list(lowering.dilation if image else lowering.dilation[1:]),
        pads=[top, left, bottom, right] if image else [left, right],
    )  # fmt: skip


def _filters(g: Fragment, layer: QuantizedLayer) -> str:
    """Rows [outputs, (kernel, channels)] as ONNX wants filters, [outputs, channels, kernel]."""
    outputs, channels, *kernel = layer.weight_shape
    rows = stored(g, layer.quantized_weight())
    if channels == 1:
        return g.reshape(rows, layer.weight_shape)
    padded = layer.k // int(np.prod(kernel))
    last = g.reshape(rows, (outputs, *kernel, padded))
    if padded != channels:
        last = g.op("Slice", last, *(g.constant([v], np.int64) for v in (0, channels, -1)))
    return g.op("Transpose", last, perm=[0, 1 + len(kernel), *range(1, 1 + len(kernel))])


def _require_exact_sums(name: str, site: QuantizedLayer | Attention) -> None:
    """ValueError where a register would change a sum, which no operator does."""
    datapath = site.scheme.datapath
    inner, outer = datapath.inner, datapath.outer
    if isinstance(site, QuantizedLayer) and site.input_quantizer is None:
        return
    certificate = site.certificate if isinstance(site, QuantizedLayer) else None
    reason = None
    if datapath.scale_product not in (None, FLOAT32) or datapath.product is not None:
        reason = "products that are rounded before they are summed"
    elif inner.readout is not None:
        reason = "a register that is read through a function"
    elif (inner.format is not None and inner.range is None) or (
        outer.range is None and outer.format not in (None, FLOAT32)
    ):
        reason = "a float register other than float32"
    for register, bits in (
        (inner, None if certificate is None else certificate.inner_bits),
        (outer, None if certificate is None else certificate.outer_bits),
    ):
        may_overflow = register.overflow is not Overflow.FORBID and register.range is not None
        if may_overflow and (certificate is None or (bits is not None and bits > (register.bits or 0))):
            reason = f"a {register.bits}-bit register that may overflow"
    if reason is not None:
        raise ValueError(f"layer {name}: ONNX has no operator for {reason}; {OTHERS}")


def _proofs(found: dict[str, Site]) -> dict[str, dict[str, object]]:
    """Scheme and proved widths of accumulators, by layer."""
    proofs: dict[str, dict[str, object]] = {}
    for name, site in found.items():
        proofs[name] = {"scheme": repr(site.scheme)}
        certificate = getattr(site, "certificate", None)
        if certificate is not None:
            proofs[name] |= {"inner_bits": certificate.inner_bits, "outer_bits": certificate.outer_bits}
    return proofs


def _exact(site: Site, place: dict[str, str], inputs: list[Tensor]) -> Tensor:
    if isinstance(site, Attention):
        return site._exact(place["left"], place["right"], *inputs)
    return site(*inputs)
