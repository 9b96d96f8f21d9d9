"""A frozen model as an ONNX graph in which each quantized product is one node of the domain `bitwright`.

`torch.onnx` converts everything else. A target replaces those nodes by what it has for them. Each names its layer:
`Layer(x)`, `Embedding(index)`, and `Product(x, w)` = x wᵀ of two activations with their operands' names.
"""

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bitwright.model.attention import Attention
from bitwright.model.layers import QuantizedEmbedding, QuantizedLayer
from bitwright.model.task import Inputs
from bitwright.model.transform import replaced

DOMAIN = "bitwright"
OPSET = 21
IR_VERSION = 10

Site = QuantizedLayer | QuantizedEmbedding | Attention


def sites(frozen: nn.Module) -> dict[str, Site]:
    """What the nodes of the domain stand for, by name. A model without a quantized layer raises ValueError."""
    found = {m.name: m for m in frozen.modules() if isinstance(m, Site)}
    if not found:
        raise ValueError("the model has no quantized layer; give what bitwright.quantize returns")
    return found


def trace(frozen: nn.Module, inputs: Inputs, *, has_free_axis: bool = True) -> onnx.ModelProto:
    """The graph for inputs of these shapes, with the first axis of each free where the model allows it and if asked."""
    sites(frozen)
    given = [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    reason = of_another_float({f"input {i}": t for i, t in enumerate(given)} | frozen.state_dict())
    if reason is not None:
        raise ValueError(reason)
    model = copy.deepcopy(frozen).eval()
    standing: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            standing[id(module)] = _Layer(module)
        elif isinstance(module, QuantizedEmbedding):
            standing[id(module)] = _Embedding(module)
        elif isinstance(module, Attention):
            module.__class__ = _Attention
            module.gemms = ()  # type: ignore[assignment]  # counted before, and not while tracing
    model = replaced(model, standing)
    arguments, keywords = ((), inputs) if isinstance(inputs, dict) else (tuple(inputs), {})
    bound = inspect.signature(model.forward).bind(*arguments, **keywords).arguments
    shapes = {name: _free(value) for name, value in bound.items()} if has_free_axis else None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model, arguments, kwargs=keywords, dynamo=True, dynamic_shapes=shapes, opset_version=OPSET, optimize=True,
            verbose=False,
        )  # fmt: skip
    assert program is not None, "no file was asked for"
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    return proto


def of_another_float(tensors: Mapping[str, Tensor]) -> str | None:
    """Why a file in float32 does not hold these, by name; None where it does."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            found = str(tensor.dtype).removeprefix("torch.")
            return (
                f"{name} is in {found}, and the file computes in float32: call .float() of the model and its inputs "
                "before it is quantized"
            )
    return None


def _free(value: Any) -> Any:
    """The first axis is any length; containers are those of the call."""
    if isinstance(value, tuple | list):
        return tuple(_free(part) for part in value)
    if isinstance(value, dict):
        return {name: _free(part) for name, part in value.items()}
    return {0: torch.export.Dim.AUTO} if isinstance(value, Tensor) and value.dim() and len(value) > 1 else None


def _symbolic(kind: str, operands: tuple[Tensor, ...], shape: Any, **attributes: Any) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{kind}", operands, attributes, dtype=torch.float32, shape=shape, version=1
    )


class _Layer(nn.Module):
    def __init__(self, layer: QuantizedLayer) -> None:
        super().__init__()
        self.lowering, self.name, self.shape = layer.lowering, layer.name, layer.weight_shape

    def forward(self, x: Tensor) -> Tensor:
        like = self.lowering.forward(x, x.new_zeros(self.shape))  # for its shape alone; nothing reads its values
        return _symbolic("Layer", (x,), like.shape, name=self.name)


class _Embedding(nn.Module):
    def __init__(self, table: QuantizedEmbedding) -> None:
        super().__init__()
        self.name, self.width = table.name, table.weight.shape[1]

    def forward(self, index: Tensor) -> Tensor:
        return _symbolic("Embedding", (index,), (*index.shape, self.width), name=self.name)


class _Attention(Attention):
    def _product(self, left: str, right: str, x: Tensor, w: Tensor) -> Tensor:
        k, shape = str(int(x.shape[-1])), (*x.shape[:-1], w.shape[-2])
        return _symbolic("Product", (x, w), shape, name=self.name, left=left, right=right, k=k, rank=str(x.dim()))


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter warns of packages that are not installed and of its own deprecations."""
    import logging

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
