"""One dot product in registers of several widths: what overflow does to it, and which width is proved to be enough."""

import numpy as np

import bitwright as bw

generator = np.random.default_rng(0)
inputs = bw.Quantizer(bw.Int(8, signed=False), (bw.Scale(bw.PerTensor()),))
weights = bw.Quantizer(bw.Int(4, narrow=True), (bw.Scale(bw.PerRow()),))
x = inputs.quantize(np.abs(generator.normal(size=(64, 256))))
w = weights.quantize(generator.normal(size=(32, 256)))

exact = bw.Datapath().matmul(x, w)
certificate = bw.Datapath().certify(w, inputs, inputs.format.bounds())
print(f"these weights need {certificate.inner_bits} bits, whatever the inputs: "
      f"sums from {certificate.inner_low} to {certificate.inner_high}")  # fmt: skip

for bits in (certificate.inner_bits, 14, 13, 12):
    for overflow in (bw.Overflow.WRAP, bw.Overflow.SATURATE):
        product = bw.Datapath(inner=bw.Accumulator(bw.Int(bits), overflow)).matmul(x, w)
        error = np.abs(product.values - exact.values).max() / np.abs(exact.values).max()
        lost = product.overflows / product.accumulations
        print(f"{bits:2d} bits, {overflow.name.lower():8s}: {lost:6.1%} of sums overflow, largest error {error:.1%}")

try:
    bw.Datapath(inner=bw.Accumulator(bw.Int(16))).require_fit(certificate)
except ValueError as refusal:
    print("forbidding overflow at 16 bits:", refusal)
