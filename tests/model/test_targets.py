"""Register widths by layer, from the data-type bound of each K."""

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.datapath.widths import data_type_bits
from bitwright.model.layers import QuantizedLayer
from bitwright.model.targets import below_data_types


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


X = torch.rand(16, 1, 8, 8)


@pytest.mark.parametrize("below", [1, 3, 4])
def test_every_layer_has_its_own_register_below_the_bound(below):
    model = network()
    recipe = below_data_types(model, below, weight_bits=4, input_bits=4, example=(X,))
    frozen = bw.quantize(model, recipe, [X])
    inner = [m for m in frozen.modules() if isinstance(m, QuantizedLayer)][1:-1]
    for layer, k in zip(inner, (9, 72), strict=True):
        have = layer.scheme.datapath.inner.bits
        assert have == data_type_bits(k, 4, 4, is_input_signed=False) - below
        assert layer.certificate.inner_bits <= have


def test_a_width_that_holds_no_weight_names_the_layer_and_the_least():
    with pytest.raises(ValueError, match=r"layer 2: a2q: 2 bits .* accumulator_bits=5 is the least"):
        below_data_types(network(), 10, weight_bits=4, input_bits=4, example=(X,))
