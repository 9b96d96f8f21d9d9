"""The artifact's treatment of layers: what it left in float, and what it read in float."""

import torch
from torch import nn

from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.recipes import term_revealing_cnn, term_revealing_mlp
from bitwright.schemes.term_revealing import Recoding, TermBudget


def frozen(model, recipe, x):
    return freeze(calibrate(prepare(model.eval(), recipe, (x,)), [Batch((x,), torch.empty(0))]))


def test_of_a_cnn_all_but_the_first_convolution_and_linear_layers_are_quantized():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    found = {
        c.name: c.status for c in frozen(model, term_revealing_cnn(), x).coverage if c.kind in ("Conv2d", "Linear")
    }
    assert found == {"0": "float", "2": "quantized", "5": "float"}


def test_of_an_mlp_weights_alone_are_read_in_terms():
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    quantized = frozen(model, term_revealing_mlp(), x)
    for layer in (quantized[0], quantized[2]):
        assert layer.input_quantizer is None
        assert layer.weight_quantizer.format == TermBudget(8, True, 16, 12, Recoding.HESE_ARTIFACT)
    weight = torch.from_numpy(quantized[0].quantized_weight().decode()).float()
    torch.testing.assert_close(quantized[0](x), nn.functional.linear(x, weight, quantized[0].bias))
