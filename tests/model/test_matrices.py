"""A layer's products as quantized matrices: their definition gives what the layer computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.comparison import ModelTask
from bitwright.config import from_text
from bitwright.model.layers import QuantizedLayer
from bitwright.model.matrices import layer_inputs, matrices
from bitwright.model.prepare import quantize
from bitwright.model.task import Batch
from bitwright.quantization import PerRow

SCHEMES = [
    "integer(8, 8)", "integer(4, 4, zero=Zero.FITTED)", "vs_quant(4, 4)", "overq(4, tile=4)", "mxfp4()", "nvfp4()",
    "term_revealing()", "ant_type('flint')", "a2q(4, 4, 12, tile=4)",
    "integer(4, 4, accumulator_bits=7, overflow=Overflow.WRAP)",
    "combined(integer(4, 4), integer(4, 4), Datapath(WIDE, Accumulator(Int(9), Overflow.SATURATE), tile=8))",
]  # fmt: skip

LAYERS = {
    "linear": (nn.Linear(20, 7), (3, 20)),
    "tokens": (nn.Linear(20, 7), (2, 5, 20)),
    "convolution": (nn.Conv2d(6, 5, 3, padding=1), (2, 6, 5, 4)),
    "strided": (nn.Conv2d(20, 4, (3, 2), stride=2, dilation=(1, 2), padding=(0, 1)), (2, 20, 6, 7)),
    "grouped": (nn.Conv2d(12, 6, 2, groups=3), (2, 12, 4, 4)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6, padding=1), (2, 6, 4, 5)),
    "one channel": (nn.Conv2d(1, 4, 3, padding=1), (2, 1, 5, 5)),
    "one axis": (nn.Conv1d(6, 4, 3, padding=2), (2, 6, 9)),
}


def frozen_layer(kind: str, scheme: str) -> tuple[QuantizedLayer, torch.Tensor]:
    torch.manual_seed(0)
    module, shape = LAYERS[kind]
    x = torch.relu(torch.randn(shape)) * (1 + 5 * (torch.rand(shape) > 0.9))
    frozen = quantize(nn.Sequential(module), from_text(scheme), [x])
    return frozen[0], x


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_definition_of_the_matrices_gives_what_the_layer_computes(kind, scheme):
    layer, x = frozen_layer(kind, scheme)
    outputs = 0
    for product in matrices(layer, x):
        right = product.datapath.matmul(product.x, product.w).values.astype(np.float32)
        np.testing.assert_array_equal(product.values, right)
        outputs += product.values.size
    assert outputs == layer(x).numel()


def test_groups_in_order_make_the_output():
    layer, x = frozen_layer("grouped", "integer(8, 8)")
    values = np.concatenate([product.values for product in matrices(layer, x)], 1)
    exact = layer(x) - layer.bias[:, None, None]
    np.testing.assert_allclose(values, exact.movedim(1, -1).reshape(len(values), -1), atol=1e-6)  # the bias rounds


def test_a_scale_a_pixel_is_refused():
    layer, x = frozen_layer("convolution", "integer(8, 8)")
    quantizer = layer.input_quantizer
    layer.input_quantizer = replace(quantizer, scales=(replace(quantizer.scales[0], share=PerRow(), range=None),))
    layer.input_ranges = ()
    with pytest.raises(ValueError, match="each pixel has a scale of its own"):
        list(matrices(layer, x))


def test_inputs_are_seen_in_the_order_of_calls():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    frozen = quantize(model, "integer(8, 8)", [torch.randn(8, 4)])
    seen = layer_inputs(ModelTask(model, (), ()), frozen, [Batch((torch.randn(3, 4),), torch.empty(0))])
    assert [each.layer.name for each in seen] == ["0", "2"]
    assert bool((seen[1].input >= 0).all())
