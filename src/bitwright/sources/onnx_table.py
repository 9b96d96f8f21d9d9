"""Which function computes which operator, by domain."""

import inspect
from typing import Any

from bitwright.sources.onnx_math import MATH, Operator
from bitwright.sources.onnx_quantize import ONNX_RUNTIME, QONNX, QONNX_DOMAINS, QUANTIZE
from bitwright.sources.onnx_recurrent import RECURRENT
from bitwright.sources.onnx_resize import RESIZE
from bitwright.sources.onnx_shapes import SHAPES
from bitwright.sources.onnx_windows import WINDOWS

STANDARD: dict[str, Operator] = {**MATH, **SHAPES, **WINDOWS, **RESIZE, **QUANTIZE, **RECURRENT}

DOMAINS: dict[str, dict[str, Operator]] = {
    "": STANDARD, "com.microsoft": ONNX_RUNTIME, **dict.fromkeys(QONNX_DOMAINS, QONNX)
}  # fmt: skip

CONTROL = ("If", "Loop")


def known(domain: str, op: str) -> bool:
    """Whether an operator is computed."""
    domain = "" if domain == "ai.onnx" else domain
    return op in DOMAINS.get(domain, {}) or (not domain and op in CONTROL)


def options_of(function: Operator, attributes: dict[str, Any], inputs: int, outputs: int, opset: int) -> dict[str, Any]:
    """What a function is called with beside its inputs. An attribute that it does not have raises ValueError."""
    parameters = inspect.signature(function).parameters
    options = dict(attributes)
    if "opset" in parameters:
        options["opset"] = opset
    if "outputs" in parameters:
        options["outputs"] = outputs
    try:
        inspect.signature(function).bind(*[None] * inputs, **options)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return options
