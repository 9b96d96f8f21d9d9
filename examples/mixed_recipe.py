"""Different schemes for different layers: 8-bit integers at both ends of a network and MXFP4 between."""

import torch

import bitwright as bw
from bitwright.model.zoo import TASKS

digits = TASKS["digits"]
model = digits.load()

recipe = bw.Recipe(
    (
        bw.Rule("first", bw.from_text("integer(8, 8)")),
        bw.Rule("last", bw.from_text("integer(8, 8)")),
        bw.Rule("*", bw.from_text("mxfp4()")),
    )
)
quantized = bw.quantize(model, recipe, calibration=digits.calibration())
for entry in quantized.coverage:
    if entry.status == "quantized":
        print(f"{entry.name:12s} {entry.kind}")

batch = next(digits.test(limit=128))
with torch.no_grad():
    wanted, found = model(*batch.inputs).argmax(1), quantized(*batch.inputs).argmax(1)
print(f"{(wanted == found).sum()} of {len(found)} decisions as in float")
