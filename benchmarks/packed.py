"""Linear layers of packed 4-bit weights beside torch's float linear: single layers, a decoder, and a real network.

    OMP_NUM_THREADS=1 python benchmarks/packed.py [--batches 1 8 64] [--rounds 41] [--decoder] [--stories]

Single calls in shuffled order over four weights in turn, `time.thread_time`, medians of ratios to torch's float32
linear. Results are first checked: float inputs against the decoded weight, integer inputs against the torch kernels.
`--decoder` and `--stories` time whole networks token by token; the second needs $BITWRIGHT_DATA.
Peers that are not installed are left out, which is said: torch's own int4 product, and onnxruntime's MatMulNBits.
"""

import argparse
import copy
import random
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import bitwright as bw
from bitwright import kernels
from bitwright.formats import Int
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


def check(layer: PackedLinear, x: Tensor) -> None:
    """Wrong results are an error."""
    found = layer(x)
    with kernels.only("torch"):
        expected = layer(x)
    if layer.scheme.input is not None:
        if not torch.equal(found, expected):
            raise AssertionError(f"{layer} is WRONG")
        return
    decoded = torch.from_numpy(layer.weight().quantized().decode())
    exact, magnitude = x.double() @ decoded.T, x.double().abs() @ decoded.abs().T
    if not bool(((found - exact).abs() <= (SIZE + 4) * 2.0**-24 * magnitude).all()):
        raise AssertionError(f"{layer} is WRONG")


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


def time_layers(batches: list[int], rounds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(SIZE, SIZE, generator=generator) * 0.02 for _ in range(WEIGHTS)]
    made = {f"{name}, float32 inputs": layers(scheme, weights) for name, scheme in schemes().items()}
    for name, scheme in schemes().items():
        made[f"{name}, int8 inputs"] = with_inputs(made[f"{name}, float32 inputs"], with_int8_inputs(scheme))
    made["NVFP4, NVFP4 inputs"] = with_inputs(made["NVFP4, float32 inputs"], nvfp4(input_range=None))
    made["MXFP4, MXFP4 inputs"] = with_inputs(made["MXFP4, float32 inputs"], mxfp4())
    calls: dict[str, Callable[[int, Tensor], object]] = {
        "torch float32": lambda j, x: nn.functional.linear(x, weights[j]),
        "torch float32 again": lambda j, x: nn.functional.linear(x, weights[j]),
    }
    halves = [w.bfloat16() for w in weights]
    calls["torch bfloat16"] = lambda j, x: nn.functional.linear(x.bfloat16(), halves[j])
    calls |= {name: lambda j, x, own=own: own[j](x) for name, own in made.items()}
    calls |= peers(weights)
    few = [weights[0][:64]]
    every = [*schemes().values(), *map(with_int8_inputs, schemes().values()), nvfp4(input_range=None), mxfp4()]
    for scheme in every:
        check(layers(scheme, few)[0], torch.randn(2, SIZE, generator=generator))
    for batch in batches:
        x = torch.randn(batch, SIZE, generator=generator)
        count = max(rounds if batch <= 8 else rounds // 4, 5)
        timed = {name: partial(_turn, call, x) for name, call in calls.items()}
        ratios(f"batch {batch}, {SIZE}×{SIZE}", timed, count)


def _turn(call: Callable[[int, Tensor], object], x: Tensor, turn: int) -> object:
    return call(turn, x)


def ratios(title: str, calls: dict[str, Callable[[int], object]], rounds: int) -> None:
    """Prints each call's time over the first's."""
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for turn in range(rounds):
            order = list(calls)
            shuffle(order)
            for name in order:
                start = time.thread_time()
                calls[name](turn % WEIGHTS)
                times[name].append(time.thread_time() - start)
    first = next(iter(calls))
    print(f"{title}, one thread: ms, and time over that of {first}, median and quartiles of {rounds} rounds")
    for name, own in times.items():
        low, middle, high = np.percentile(np.divide(own, times[first]), [25, 50, 75])
        print(f"  {name:52} {1e3 * np.median(own):8.3f} {middle:7.2f}  [{low:.2f}, {high:.2f}]", flush=True)


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


def time_networks(networks: dict[str, nn.Module], x: Tensor, rounds: int, title: str) -> None:
    ratios(title, {name: (lambda j, m=m: m(x)) for name, m in networks.items()}, rounds)
    for name, model in networks.items():
        size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        print(f"  {name:52} {size / 1e6:8.1f} MB")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--decoder", action="store_true")
    parser.add_argument("--stories", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.batches:
        time_layers(arguments.batches, arguments.rounds)
    if arguments.decoder:
        torch.manual_seed(0)
        model = Block(4096, 11008).eval()
        x = torch.randn(1, 4096)
        time_networks(packed_forms(model), x, arguments.rounds, "a decoder's layer 4096 wide (inner 11008), a token")
    if arguments.stories:
        from bitwright.model.zoo import TASKS

        task = TASKS["stories260k"]
        model = task.load().eval()
        tokens = torch.randint(1, 500, (1, 64), generator=torch.Generator().manual_seed(0))
        time_networks(packed_forms(model), tokens, arguments.rounds, "stories260k, 64 tokens")


if __name__ == "__main__":
    main()
