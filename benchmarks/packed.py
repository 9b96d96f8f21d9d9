"""Linear layers of packed 4-bit weights beside torch's float linear: single layers, a decoder, and a real network.

    OMP_NUM_THREADS=1 python benchmarks/packed.py [--batches 1 8 64] [--decoder] [--stories]

Layers take four weights in turn, so that none stays in cache. Results are first checked: float inputs against the
decoded weight, integer inputs against the torch kernels. `--decoder` and `--stories` time whole networks; the second
needs $BITWRIGHT_DATA. Peers that are not installed are left out, which is said.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

import torch
from timing import Case, Group, main
from torch import Tensor, nn

import bitwright as bw
from bitwright import kernels
from bitwright.formats import Int
from bitwright.kernels import library
from bitwright.model.packed import PackedLinear, PackedScheme
from bitwright.quantization import PerRow, Quantizer, Scale
from bitwright.scheme import Scheme
from bitwright.schemes import ant_type, integer, mxfp4, nvfp4, vs_quant

SIZE, WEIGHTS = 4096, 4
INT8 = Quantizer(Int(8, narrow=True), (Scale(PerRow()),))
"""Inputs of 8 bits, one scale a token, from the token itself."""

WEIGHT_ONLY = {
    "NVFP4": nvfp4(weight_only=True), "MXFP4": mxfp4(weight_only=True), "VS-Quant 4/4": vs_quant(4, None),
    "int4 a row": integer(4, None),
}  # fmt: skip
SEARCHED = {"flint4": ant_type("flint", 4, None), "PoT4": ant_type("pot", 4, None)}


def schemes() -> dict[str, Scheme]:
    """By name; ranges of flint and PoT from the largest weight, as searching them takes minutes at this size."""
    found = dict(WEIGHT_ONLY)
    for name, scheme in SEARCHED.items():
        chosen = scheme.weight.quantizers[0]
        found[name] = Scheme(None, Quantizer(chosen.format, (Scale(PerRow()),)), scheme.datapath)
    return found


def with_int8_inputs(scheme: Scheme) -> Scheme:
    return Scheme(INT8, scheme.weight, scheme.datapath)


def layers(scheme: Scheme, weights: list[Tensor]) -> list[PackedLinear]:
    made = []
    for w in weights:
        linear = nn.Linear(*w.T.shape, bias=False, device="meta")
        linear.weight = nn.Parameter(w, requires_grad=False)
        made.append(bw.pack_linear(linear, bw.Recipe((bw.Rule("Linear", scheme),))))
    return made


def with_inputs(made: list[PackedLinear], scheme: Scheme) -> list[PackedLinear]:
    """The same weights under another scheme for inputs."""
    return [PackedLinear(layer.weight(), None, PackedScheme(scheme.input, (), scheme.datapath)) for layer in made]


def difference(layer: PackedLinear, x: Tensor) -> str | None:
    """What is wrong with the layer's result."""
    found = layer(x)
    with kernels.only("torch"):
        expected = layer(x)
    if layer.scheme.input is not None:
        return None if torch.equal(found, expected) else "not what the torch kernels give"
    decoded = torch.from_numpy(layer.weight().quantized().decode())
    exact, magnitude = x.double() @ decoded.T, x.double().abs() @ decoded.abs().T
    is_near = bool(((found - exact).abs() <= (SIZE + 4) * 2.0**-24 * magnitude).all())
    return None if is_near else "further from the exact product than its sums round"


def peers(weights: list[Tensor]) -> dict[str, Callable[[int, Tensor], object]]:
    """int4 in groups of 128 by others; what fails to import is said and left out."""
    found: dict[str, Callable[[int, Tensor], object]] = {}
    try:
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper

        for level in (1, 4):
            sessions = [_nbits(onnx, ort, helper, TensorProto, w, level) for w in weights]
            found[f"onnxruntime MatMulNBits int4 g128, accuracy {level}"] = partial(_run, sessions)
    except ImportError as error:
        print(f"not installed, left out: onnxruntime ({error})")
    try:
        packed = []
        for w in weights:
            groups = w.view(SIZE, -1, 128)
            scale = groups.abs().amax(2) / 7
            codes = (groups / scale[..., None]).round().clamp(-8, 7).add(8).view(SIZE, SIZE).int()
            both = torch.stack((scale.T, torch.zeros_like(scale.T)), 2).bfloat16().contiguous()
            packed.append((torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1), both))
        torch.ops.aten._weight_int4pack_mm_for_cpu(torch.ones(1, SIZE).bfloat16(), packed[0][0], 128, packed[0][1])
        found["torch int4 g128, bfloat16 (torchao's CPU path)"] = lambda j, x: (
            torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), packed[j][0], 128, packed[j][1])
        )
    except (AttributeError, RuntimeError) as error:
        print(f"left out: torch's int4 product ({error})")
    return found


def _run(sessions: list, turn: int, x: Tensor) -> object:
    return sessions[turn].run(None, {"x": x.numpy()})


def _nbits(onnx: object, ort: object, helper: object, kinds: object, w: Tensor, level: int) -> object:
    groups = w.view(SIZE, -1, 128)
    scale = groups.abs().amax(2) / 7
    codes = (groups / scale[..., None]).round().clamp(-8, 7).add(8).to(torch.uint8)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).numpy()
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=SIZE, N=SIZE, bits=4, block_size=128,
        accuracy_level=level,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kinds.FLOAT, ["m", SIZE])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, ["m", SIZE])],
        [onnx.numpy_helper.from_array(packed, "w"), onnx.numpy_helper.from_array(scale.flatten().numpy(), "s")],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def layer_groups(batches: list[int], how: str = "") -> Iterator[Group]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(SIZE, SIZE, generator=generator) * 0.02 for _ in range(WEIGHTS)]
    made = {f"{name}, float32 inputs": layers(scheme, weights) for name, scheme in schemes().items()}
    for name, scheme in schemes().items():
        made[f"{name}, int8 inputs"] = with_inputs(made[f"{name}, float32 inputs"], with_int8_inputs(scheme))
    made["NVFP4, NVFP4 inputs"] = with_inputs(made["NVFP4, float32 inputs"], nvfp4(input_range=None))
    made["MXFP4, MXFP4 inputs"] = with_inputs(made["MXFP4, float32 inputs"], mxfp4())
    few = torch.randn(2, SIZE, generator=generator)
    checks = {name: partial(difference, part(own[0]), few) for name, own in made.items()}
    halves = [w.bfloat16() for w in weights]
    others = {"torch bfloat16": lambda j, x: nn.functional.linear(x.bfloat16(), halves[j]), **peers(weights)}
    for batch in batches:
        x = torch.randn(batch, SIZE, generator=generator)
        limit = Case("torch float32", in_turn(lambda j, x: nn.functional.linear(x, weights[j]), x))
        ours = [Case(name, in_turn(lambda j, x, own=own: own[j](x), x), checks[name]) for name, own in made.items()]
        theirs = [Case(name, in_turn(call, x), note="peer") for name, call in others.items()]
        yield Group(f"packed layer {SIZE}×{SIZE}, batch {batch}{how}", limit, [*ours, *theirs])


def part(layer: PackedLinear) -> PackedLinear:
    """A layer of its first 64 rows."""
    rows = torch.from_numpy(layer.weight().quantized().decode()[:64]).float()
    weight = kernels.PackedWeight.of(layer.weight_quantizer.quantize(rows.numpy()))
    return PackedLinear(weight, None, layer.scheme)


def in_turn(call: Callable[[int, Tensor], object], x: Tensor) -> Callable[[], object]:
    """The call with each weight after the other."""
    turns = cycle(range(WEIGHTS))
    return torch.inference_mode()(lambda: call(next(turns), x))


class Block(nn.Module):
    """What a decoder's layer multiplies for one token: four matrices of attention and a gated MLP."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.rms_norm(x, x.shape[-1:])
        x = x + self.o(self.q(h) * 0.1 + self.k(h) * 0.1 + self.v(h))
        h = nn.functional.rms_norm(x, x.shape[-1:])
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def network_group(title: str, model: nn.Module, x: Tensor) -> Group:
    def case(name: str, network: nn.Module) -> Case:
        size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        return Case(name, torch.inference_mode()(lambda: network(x)), note=f"{size / 1e6:.1f} MB")

    limit, *packed = (case(name, network) for name, network in packed_forms(model).items())
    return Group(title, limit, packed)


def packed_forms(model: nn.Module) -> dict[str, nn.Module]:
    found = {"float32": model}
    for name in ("NVFP4", "MXFP4"):
        packed = bw.pack_linear(model, bw.Recipe((bw.Rule("Linear", WEIGHT_ONLY[name]),)))
        found[f"{name}, float32 inputs"] = packed
        found[f"{name}, int8 inputs"] = other = copy.deepcopy(packed)
        for layer in other.modules():
            if isinstance(layer, PackedLinear):
                layer.scheme = PackedScheme(INT8, (), layer.scheme.datapath)
                layer.forget()
    return found


def groups(arguments: argparse.Namespace) -> Iterator[Group]:
    yield from layer_groups(arguments.batches)
    native = library.library()
    if native is not None and native.bitwright_level() > library.LEVELS.index("AVX2"):
        with library.level("AVX2"):
            yield from layer_groups([1], ", our kernels of AVX2")
    if arguments.decoder:
        torch.manual_seed(0)
        yield network_group("a decoder's layer 4096 wide, a token", Block(4096, 11008).eval(), torch.randn(1, 4096))
    if arguments.stories:
        from bitwright.model.zoo import TASKS

        tokens = torch.randint(1, 500, (1, 64), generator=torch.Generator().manual_seed(0))
        yield network_group("stories260k, 64 tokens", TASKS["stories260k"].load().eval(), tokens)


if __name__ == "__main__":
    main(
        __doc__ or "", groups, ("--batches", {"type": int, "nargs": "*", "default": [1, 8, 64]}),
        ("--decoder", {"action": "store_true"}), ("--stories", {"action": "store_true"}),
    )  # fmt: skip
