"""Train a prepared network in a loop of your own: 3-bit weights, bfloat16 autocast, gradients of two steps together."""

import torch
from torch import nn

import bitwright as bw

generator = torch.Generator().manual_seed(0)
x = torch.rand(2000, 2, generator=generator) * 2 - 1
y = ((x.norm(dim=1) < 0.8) ^ (x[:, 0] * x[:, 1] > 0)).long()
train, test = slice(0, 1000), slice(1000, None)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def steps(network: nn.Module, count: int, learning_rate: float, *, bfloat16: bool = False, accumulate: int = 1) -> None:
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    for step in range(1, count + 1):
        batch = torch.randint(0, 1000, (128,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        (loss / accumulate).backward()
        if step % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def accuracy(network: nn.Module) -> float:
    with torch.no_grad():
        return 100 * (network(x[test]).argmax(1) == y[test]).double().mean().item()


steps(model, 600, 5e-3)
prepared = bw.calibrate(bw.prepare(model, bw.from_text("integer(3, 4)"), (x[:1],)), [bw.Batch((x[train],), y[train])])
print(f"float {accuracy(model):.1f} %, 3-bit weights before training {accuracy(bw.freeze(prepared)):.1f} %")
bw.learn_ranges(prepared)
steps(prepared, 600, 2e-3, bfloat16=True, accumulate=2)
print(f"after training {accuracy(bw.freeze(prepared)):.1f} %, in exact integer arithmetic")
