"""Which schemes keep the accuracy of a network? Four of them on the embedded digits network, 200 test images."""

import bitwright as bw
from bitwright.model.zoo import TASKS

SCHEMES = ["integer(8, 8)", "integer(4, 4)", "vs_quant(4, 4, 4, 4)", "nvfp4()"]

comparison = bw.compare(TASKS["digits"], schemes=SCHEMES, limit=200)

print(f"float: {comparison.info.float_metric:.1f} % of {comparison.info.samples} images")
for row in comparison.rows:
    print(
        f"{row.scheme:22s} {row.metric:5.1f} %   {row.weight_bits:.2f} bits a weight, {row.input_bits:.2f} an input, "
        f"accumulators of up to {row.accumulator_bits} bits"
    )
