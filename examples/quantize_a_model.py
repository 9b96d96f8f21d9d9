"""Quantize a network of your own and run it as the hardware would: 4-bit weights, 8-bit inputs, vectors of 16."""

import torch
from torch import nn

import bitwright as bw

generator = torch.Generator().manual_seed(0)
points = torch.rand(2000, 2, generator=generator) * 2 - 1
is_inside = (points.norm(dim=1) < 0.8).long()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for _ in range(200):
    loss = nn.functional.cross_entropy(model(points[:1000]), is_inside[:1000])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

quantized = bw.quantize(model, "vs_quant(4, 8)", calibration=[points[:256]])

with torch.no_grad():
    for name, network in (("float", model), ("vs_quant(4, 8)", quantized)):
        correct = (network(points[1000:]).argmax(1) == is_inside[1000:]).double().mean().item()
        print(f"{name:15s} {100 * correct:.1f} % of 1000 new points")
for entry in quantized.coverage:
    print(f"  layer {entry.name}: {entry.kind}, {entry.status} {entry.reason}")
