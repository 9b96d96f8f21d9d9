"""A frozen model as an ONNX file in which a target's own words stand for each layer.

Every target of this family shares the graph, the metadata and what it refuses; it differs in how it says an operand.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, count

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bitwright import kernels
from bitwright.export.graph import Fragment, replace
from bitwright.export.operands import Ranges, is_of_tensor
from bitwright.export.targets import ways_out
from bitwright.export.trace import DOMAIN, Site, of_another_float, sites
from bitwright.export.unholdable import Unholdable, require_exact_sums
from bitwright.model.attention import Attention
from bitwright.model.convolution import Conv
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer
from bitwright.model.lowering import Linear
from bitwright.quantization import QuantizedTensor, Quantizer

Writer = Callable[[Fragment, Site, dict[str, str], list[str]], str]
"""Adds what stands for one node of the domain `bitwright`, and gives its output."""


@dataclass(frozen=True)
class Words:
    """How a target says the two operands of a product in floats that equal what their codes stand for."""

    represent: Callable[[Fragment, Quantizer, Ranges, str, int], str]
    """An input [..., k]."""
    matrix: Callable[[Fragment, QuantizedTensor, bool], str]
    """A weight [rows, k], or [k, rows] where the flag says transposed."""
    filters: Callable[[Fragment, QuantizedLayer], str]
    """A weight in the shape of a convolution's filters."""

    def write(self, g: Fragment, site: Site, named: dict[str, str], inputs: list[str]) -> str:
        """A `Writer`: products in float of these operands."""
        if isinstance(site, QuantizedEmbedding):
            return g.op("Gather", self.matrix(g, site.quantized, False), inputs[0])
        if isinstance(site, Attention):
            return self._product(g, site, named, inputs)
        if isinstance(site.lowering, Linear):
            x = inputs[0]
            if site.input_quantizer is not None:
                x = self.represent(g, site.input_quantizer, site.input_ranges, x, site.k)
            g.operands = {"input": x, "weight": self.matrix(g, site.quantized_weight(), True)}
            y = g.op("MatMul", *g.operands.values())
            return y if site.bias is None else g.op("Add", y, g.constant(site.bias.numpy()))
        return self._convolution(g, site, inputs[0])

    def _product(self, g: Fragment, site: Attention, named: dict[str, str], inputs: list[str]) -> str:
        rank, sides = int(named["rank"]), (named["left"], named["right"])
        turned = {"perm": [*range(rank - 2), rank - 1, rank - 2]}
        is_first = is_of_tensor(site.quantizers[sides[1]])  # and nothing stands between the codes and the product
        if is_first:
            inputs = [inputs[0], g.op("Transpose", inputs[1], **turned)]
        x, w = (
            self.represent(g, site.quantizers[side], site.ranges[side], operand, int(named["k"]))
            for side, operand in zip(sides, inputs, strict=True)
        )
        g.operands = {"input": x, "weight": w if is_first else g.op("Transpose", w, **turned)}
        return g.op("MatMul", *g.operands.values())

    def _convolution(self, g: Fragment, layer: QuantizedLayer, x: str) -> str:
        spatial = len(layer.weight_shape) - 2
        quantizer, ranges = layer.input_quantizer, layer.input_ranges
        if quantizer is not None:
            assert isinstance(layer.lowering, Conv), "linear layers and convolutions"
            channels = layer.lowering.input_channels(torch.empty(layer.weight_shape))
            if is_of_tensor(quantizer):
                x = self.represent(g, quantizer, ranges, x, channels)
            else:
                last = g.op("Transpose", x, perm=[0, *range(2, 2 + spatial), 1])
                front = g.op("Shape", last, end=-1)
                shape = g.op("Concat", front, g.constant([-1, channels], np.int64), axis=0)
                rows = self.represent(g, quantizer, ranges, g.op("Reshape", last, shape), channels)
                pixels = g.op("Reshape", rows, g.op("Shape", last))
                x = g.op("Transpose", pixels, perm=[0, 1 + spatial, *range(1, 1 + spatial)])
        g.operands = {"input": x, "weight": self.filters(g, layer)}
        bias = [] if layer.bias is None else [g.constant(layer.bias.numpy())]
        return g.op("Conv", *g.operands.values(), *bias, **window(layer))


def window(layer: QuantizedLayer) -> dict[str, object]:
    """Attributes of a Conv or a ConvInteger."""
    lowering, shape = layer.lowering, layer.weight_shape
    assert isinstance(lowering, Conv), "linear layers and convolutions"
    left, right, top, bottom = lowering.padding
    image = len(shape) == 4
    return {
        "group": lowering.groups, "kernel_shape": list(shape[2:]),
        "strides": list(lowering.stride if image else lowering.stride[1:]),
        "dilations": list(lowering.dilation if image else lowering.dilation[1:]),
        "pads": [top, left, bottom, right] if image else [left, right],
    }  # fmt: skip


def as_filters(layer: QuantizedLayer, rows: np.ndarray) -> np.ndarray:
    """Values [outputs, padded K] in the shape of the layer's weight."""
    shape, block = layer.weight_shape, layer.weight_quantizer.alignment
    rows = np.ascontiguousarray(rows[:, : layer.k])  # the last block of a filter of one channel may be longer than it
    return layer.lowering.weight_from_rows(torch.from_numpy(rows), shape, block).contiguous().numpy()


def compose(frozen: nn.Module, target: str, write: Writer, graph: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
    """The graph, asked for once nothing is refused, with each layer in a target's words, and proofs in its metadata.

    A layer that the target cannot hold raises ValueError that names it and the targets that can.
    """
    found = sites(frozen)
    reason = refusal(frozen, write, target)
    if reason is not None:
        raise ValueError(f"{reason}; {ways_out(frozen)}")
    model = graph()
    fragments: dict[str, tuple[Fragment, str]] = {}
    places: dict[str, dict[str, object]] = {}
    for node in model.graph.node:
        if node.domain == DOMAIN:
            named = {a.name: a.s.decode() for a in node.attribute}
            g = Fragment(_label(named, places.keys()))
            fragments[node.output[0]] = g, write(g, found[named["name"]], named, list(node.input))
            places[g.name] = {**named, "inputs": list(node.input), "operands": g.operands}
    replace(model, fragments)
    said = {"version": version("bitwright"), "target": target}
    said |= {"nodes": json.dumps(places), "layers": json.dumps(_proofs(found))}
    for key, value in said.items():
        model.metadata_props.add(key=f"bitwright.{key}", value=value)
    return model


def _label(named: dict[str, str], taken: Collection[str]) -> str:
    """What nodes of a site are called: the layer's name, counted where it is called again."""
    parts = (named["name"] or "model", *(named[side] for side in ("left", "right") if side in named))
    label = "/".join(parts)
    return next(name for name in chain([label], (f"{label}_{n}" for n in count(2))) if name not in taken)


def refusal(frozen: nn.Module, write: Writer, target: str) -> str | None:
    """What a target has no words for, and in which layer; None where it holds the whole model."""
    reason = of_another_float(frozen.state_dict())
    if reason is not None:
        return reason
    for name, site in sites(frozen).items():
        try:
            require_exact_sums(site)
            if isinstance(site, Attention):
                for left, right in (("query", "key"), ("probability", "value")):
                    write(Fragment(name), site, {"left": left, "right": right, "k": "1", "rank": "4"}, ["x", "w"])
            else:
                write(Fragment(name), site, {}, ["x"])
        except Unholdable as reason:
            return f"layer {name}: {target} cannot hold {reason}"
    return None


def _proofs(found: dict[str, Site]) -> dict[str, dict[str, object]]:
    """Scheme and proved widths of accumulators, by layer."""
    proofs: dict[str, dict[str, object]] = {}
    for name, site in found.items():
        proofs[name] = {"scheme": repr(site.scheme)}
        certificate = getattr(site, "certificate", None)
        if certificate is not None:
            proofs[name] |= {"inner_bits": certificate.inner_bits, "outer_bits": certificate.outer_bits}
    return proofs


@dataclass(frozen=True)
class Watched:
    """Where a layer stands in a file: its node's attributes, and the names of the values to be compared."""

    place: dict[str, str]
    inputs: tuple[str, ...]
    operands: dict[str, str]
    output: str


def watched(model: onnx.ModelProto) -> list[Watched]:
    """Every layer of a file that a target of this family wrote."""
    ends = {n.name.removesuffix("/output"): n.output[0] for n in model.graph.node if n.name.endswith("/output")}
    places = json.loads(next(p.value for p in model.metadata_props if p.key == "bitwright.nodes"))
    made = {name for node in model.graph.node for name in node.output}
    found = [
        Watched(
            place, tuple(place["inputs"]), {k: v for k, v in place["operands"].items() if v in made}, ends[end]
        )
        for end, place in places.items() if end in ends
    ]  # fmt: skip
    return found


def unseen(model: onnx.ModelProto, watched: list[Watched]) -> list[str]:
    """Values to be compared that are neither inputs nor outputs of the graph yet, once each."""
    known = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    every = (name for one in watched for name in (*one.inputs, *one.operands.values(), one.output))
    return [name for name in dict.fromkeys(every) if name not in known]


SAME_INTEGERS = 2.0**-20
"""Relative difference of two floats that stand for the same integer of up to 16 bits under the same scales."""


@dataclass(frozen=True)
class Run:
    """A file that ran: where it lies, what ran it, and every value that was watched."""

    path: object
    engine: str
    values: dict[str, np.ndarray]


def compare(run: Run, frozen: nn.Module, watched: list[Watched], tolerance: float) -> float:
    """Each layer on what it met: operands of the same integers, outputs within `tolerance` of the largest.

    Gives the largest relative difference of an output; ValueError naming the layer where it is larger.
    """
    found, worst = sites(frozen), 0.0
    for one in watched:
        site = found[one.place["name"]]
        inputs = [torch.from_numpy(np.array(run.values[name])) for name in one.inputs]
        with torch.no_grad():
            expected = _operands(site, one.place, inputs)
            for operand, name in one.operands.items():
                _require_same_integers(f"{run.path}: layer {site.name}", operand, run, name, expected[operand])
            output = _exact(site, one.place, inputs)
        wrong = float((torch.from_numpy(run.values[one.output]) - output).abs().max())
        wrong /= max(float(output.abs().max()), 1e-30)
        worst = max(worst, wrong)
        if not wrong <= tolerance:
            raise ValueError(
                f"{run.path}: layer {site.name} differs by {wrong:.2g} of its largest output in {run.engine}"
            )
    return worst


def _require_same_integers(layer: str, operand: str, run: Run, name: str, expected: Tensor) -> None:
    found = torch.from_numpy(run.values[name]).double()
    others = int(((found - expected).abs() > SAME_INTEGERS * expected.abs() + 2.0**-149).sum())
    if others:
        raise ValueError(f"{layer}: {others} integers of its {operand} are others in {run.engine}")


def _operands(site: Site, place: dict[str, str], inputs: list[Tensor]) -> dict[str, Tensor]:
    """What the codes of both operands stand for, in the shapes that a file multiplies."""
    if isinstance(site, QuantizedEmbedding):
        return {}
    if isinstance(site, Attention):
        (x, a), (w, b) = (
            tuple(t.view(shaped.shape) for t in _decoded(site.quantizers[side], site.ranges[side], shaped))
            for side, shaped in zip((place["left"], place["right"]), inputs, strict=True)
        )
        w, b = w.transpose(-1, -2), b.transpose(-1, -2)
        return {"input": x, "weight": w, "sums": a @ b}
    x = levels = inputs[0].double()
    lowering = site.lowering
    if site.input_quantizer is not None:
        rows = _decoded(site.input_quantizer, site.input_ranges, lowering.input_rows(inputs[0]))
        x, levels = (lowering.input_from_rows(part, inputs[0]) for part in rows)
    weight = site.quantized_weight()
    padded = weight.elements(), weight.elements() * weight.scale()[..., None]
    elements, real = (torch.from_numpy(as_filters(site, part.reshape(len(part), -1))) for part in padded)
    unit = 2.0 ** weight.quantizer.format.bounds().exponent.start
    sums = lowering.forward(levels, elements / unit)
    return {"input": x, "weight": real.T if isinstance(lowering, Linear) else real, "sums": sums}


def _decoded(quantizer: Quantizer, ranges: Ranges, x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., k] as its codes represent it, and the codes' levels."""
    operand = kernels.quantize(quantizer, x.reshape(-1, x.shape[-1]).float().contiguous(), ranges)
    return operand.decode().double(), operand.flat()[:, : operand.k].double()


def _exact(site: Site, place: dict[str, str], inputs: list[Tensor]) -> Tensor:
    return site._exact(place["left"], place["right"], *inputs) if isinstance(site, Attention) else site(*inputs)
