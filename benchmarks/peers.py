"""Fake quantization by other packages, where they are installed: `pip install -c constraints.txt -e '.[peers]'`.

Each maker imports its package and gives a function of no arguments that returns a new float32 tensor.
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Tensor]


def torch_int8(x: Tensor) -> Run:
    scale = float(x.abs().max()) / 127
    return lambda: torch.fake_quantize_per_tensor_affine(x, scale, 0, -127, 127)


def brevitas_int8(x: Tensor) -> Run:
    from brevitas.quant import Int8WeightPerTensorFloat

    return _brevitas(x, Int8WeightPerTensorFloat)


def brevitas_mxfp8(x: Tensor) -> Run:
    from brevitas.quant.experimental.mx_quant_ocp import MXFloat8e4m3Weight

    return _brevitas(x, MXFloat8e4m3Weight)


def _brevitas(x: Tensor, quantizer: Any) -> Run:
    import brevitas.nn

    layer = brevitas.nn.QuantLinear(x.shape[1], x.shape[0], False, weight_quant=quantizer)
    layer.weight.data = x
    return torch.no_grad()(lambda: layer.quant_weight().value)


def compressed_tensors_int8(x: Tensor) -> Run:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    settings = QuantizationArgs(num_bits=8, symmetric=True, strategy="tensor")
    scale, zero = x.abs().amax()[None] / 127, torch.zeros(1)
    return lambda: fake_quantize(x, scale, zero, settings)


def compressed_tensors_nvfp4(x: Tensor) -> Run:
    from compressed_tensors.quantization.utils import generate_gparam

    settings = {"strategy": "tensor_group", "group_size": 16, "scale_dtype": torch.float8_e4m3fn}
    return _compressed_tensors(x, settings, generate_gparam(x.amin(), x.amax()))


def compressed_tensors_mxfp4(x: Tensor) -> Run:
    return _compressed_tensors(x, {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8}, None)


def _compressed_tensors(x: Tensor, settings: dict[str, Any], whole: Tensor | None) -> Run:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    arguments = QuantizationArgs(num_bits=4, type="float", symmetric=True, **settings)

    def run() -> Tensor:
        blocks = x.view(len(x), -1, settings["group_size"])
        scale, zero = calculate_qparams(blocks.amin(2), blocks.amax(2), arguments, global_scale=whole)
        return fake_quantize(x, scale, zero, arguments, global_scale=whole)

    return run


def torchao_mxfp4(x: Tensor) -> Run:
    return _torchao_mx(x, torch.float4_e2m1fn_x2)


def torchao_mxfp8(x: Tensor) -> Run:
    return _torchao_mx(x, torch.float8_e4m3fn)


def _torchao_mx(x: Tensor, element: torch.dtype) -> Run:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    return lambda: MXTensor.to_mx(x, element, 32).dequantize(torch.float32)


def torchao_nvfp4(x: Tensor) -> Run:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    whole = per_tensor_amax_to_scale(x.abs().amax())
    return lambda: NVFP4Tensor.to_nvfp4(x, per_tensor_scale=whole).dequantize(torch.float32)


def modelopt_int8(x: Tensor) -> Run:
    from modelopt.torch.quantization.tensor_quant import fake_tensor_quant

    largest = x.abs().amax()
    return lambda: fake_tensor_quant(x, largest, None, 8, False, True)


def modelopt_nvfp4(x: Tensor) -> Run:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    def run() -> Tensor:
        packed, scale, whole = NVFP4QTensor.quantize(x, 16)
        return packed.dequantize(dtype=torch.float32, scale=scale, double_scale=whole, block_sizes={-1: 16})

    return run


FAKE_QUANTIZE: dict[str, dict[str, Callable[[Tensor], Run]]] = {
    "int8": {
        "torch": torch_int8, "brevitas": brevitas_int8, "compressed-tensors": compressed_tensors_int8,
        "modelopt": modelopt_int8,
    },
    "MXFP4": {"torchao": torchao_mxfp4, "compressed-tensors": compressed_tensors_mxfp4},
    "MXFP8": {"torchao": torchao_mxfp8, "brevitas": brevitas_mxfp8},
    "NVFP4": {"torchao": torchao_nvfp4, "compressed-tensors": compressed_tensors_nvfp4, "modelopt": modelopt_nvfp4},
}  # fmt: skip


def fake_quantizers(work: str, x: Tensor) -> dict[str, Run]:
    """Of the installed peers that do this work on a CPU, by name. What fails is said in one line."""
    found = {}
    for peer, make in FAKE_QUANTIZE.get(work, {}).items():
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                run = make(x)
                run()
        except ImportError:
            print(f"{work}: {peer} is not installed")
        except Exception as error:
            print(f"{work}: {peer} fails: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
        else:
            found[peer] = run
    return found
