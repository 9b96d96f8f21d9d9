"""Real networks: every layer's integer datapath against its float simulation on the very inputs it meets."""

import numpy as np
import pytest
import torch

from bitwright.config import from_text
from bitwright.datapath import bits_for
from bitwright.model.data import data_folder
from bitwright.model.layers import FakeQuantizedLayer, QuantizedLayer
from bitwright.model.prepare import calibrate, freeze, prepare
from bitwright.model.task import Batch
from bitwright.model.transform import fold_batchnorm
from bitwright.model.zoo import REAL

SCHEMES = (
    "integer(8, 8)",
    "vs_quant(4, 8, 6, 6)",
    "ant(4, 4, lowest_ratio=95, highest_ratio=105)",
    "mxfp4()",
    "nvfp4()",
    "overq(3, precision_overwrite=True, signed=True)",
    "overq_on()",
    "combined(overq(4), term_revealing())",
)


def prepared(name: str, scheme: str):
    try:
        data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    task = REAL[name]
    batch = next(iter(task.calibration()))
    batch = Batch(tuple(x[:8] for x in batch.inputs), batch.targets[:8])
    model = fold_batchnorm(task.load(), batch.inputs).requires_grad_(False)
    return calibrate(prepare(model, from_text(scheme), batch.inputs), [batch], task.forward), batch, task


@pytest.mark.data
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["resnet20", "mobilenetv1_vww", "dscnn_kws", "lenet", "stories260k"])
def test_every_layer_of_a_real_network_computes_exactly_what_it_simulates(name, scheme):
    fake, batch, task = prepared(name, scheme)
    exact_layers = {m.name: m for m in freeze(fake).modules() if isinstance(m, QuantizedLayer)}
    compared = []

    def compare(layer: FakeQuantizedLayer, args, simulated) -> None:
        exact = exact_layers[layer.name](args[0])
        x, w = layer._fake_input(args[0]).double(), layer.fake_weight().double()
        # as in test_lowering: K·u·Σ|x||w| for the float32 sum, as much for sums over blocks, u for each last rounding
        magnitude = layer.lowering.forward(x.abs(), w.abs())
        tolerance = (2 * layer.weight[0].numel() + 8) * 2.0**-24 * (magnitude + exact.abs().double())
        assert ((simulated.double() - exact.double()).abs() <= tolerance).all(), layer.name
        compared.append(layer.name)

    for module in fake.modules():
        if isinstance(module, FakeQuantizedLayer):
            module.register_forward_hook(compare)
    with torch.no_grad():
        task.forward(fake, batch)
    assert set(compared) == set(exact_layers)


@pytest.mark.data
def test_an_accumulator_one_bit_below_the_certificate_overflows_on_the_worst_input():
    fake, *_ = prepared("resnet20", "integer(8, 8)")
    for layer in (m for m in freeze(fake).modules() if isinstance(m, QuantizedLayer)):
        low, high = layer.input_quantizer.format.bounds().units
        weights = layer.quantized_weight().elements().reshape(layer.codes.shape[0], -1)
        largest = np.where(weights > 0, high, low) * weights
        smallest = np.where(weights > 0, low, high) * weights
        reached = int(smallest.sum(1).min()), int(largest.sum(1).max())
        assert bits_for(*reached) == layer.certificate.inner_bits
