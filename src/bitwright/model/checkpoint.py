"""The whole state of a training run in one file: tensors as safetensors, everything else as JSON in its header."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.site import Site
from bitwright.model.training import Training
from bitwright.quantization import Range

Snapshot = dict[str, Tensor]
"""A model's state by name: parameters and buffers, and the static ranges that were calibrated."""

RANGE = "calibrated range"


@dataclass
class Progress:
    """How far training is."""

    epoch: int = 0  # epochs done
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    best: Snapshot = field(default_factory=dict)


def sites(model: nn.Module) -> dict[str, Site]:
    """Layers and attentions that simulate a scheme, by their place in the module tree."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Site)}


def snapshot(model: nn.Module) -> Snapshot:
    """A copy of the model's state."""
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    for name, site in sites(model).items():
        for operand, ranges in site.calibrated.items():
            for level, known in enumerate(ranges):
                if known is not None:
                    place = f"{RANGE}/{name}/{operand}/{level}"
                    state[f"{place}/low"] = torch.from_numpy(np.array(known.low))
                    state[f"{place}/high"] = torch.from_numpy(np.array(known.high))
    return state


def restore_(model: nn.Module, state: Snapshot) -> None:
    """Put a snapshot back."""
    model.load_state_dict({name: t for name, t in state.items() if not name.startswith(f"{RANGE}/")})
    for name, site in sites(model).items():
        for operand, ranges in site.calibrated.items():
            levels = enumerate(ranges)
            place = f"{RANGE}/{name}/{operand}"
            site.pin(operand, tuple(None if r is None else _range(state, f"{place}/{i}") for i, r in levels))


def save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, training: Training, progress: Progress
) -> None:
    """Write a checkpoint in place of the one before; a reader sees the old or the new one, never a part."""
    tensors = {f"model/{name}": tensor for name, tensor in snapshot(model).items()}
    tensors |= {f"best/{name}": tensor for name, tensor in progress.best.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": t.clone() for key, t in state.items() if t is not None}
    header = {
        "training": repr(training), "quantizers": _quantizers(model), "epoch": progress.epoch,
        "losses": progress.losses, "scores": progress.scores, "best_epoch": progress.best_epoch,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, {"bitwright": json.dumps(header)})
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def resume_(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, training: Training) -> Progress:
    """Put model and optimizer in the state of a checkpoint. One of another training or model raises ValueError."""
    with safe_open(path, "pt") as file:
        header = json.loads((file.metadata() or {}).get("bitwright", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    for what, expected in (("training", repr(training)), ("quantizers", _quantizers(model))):
        if header.get(what) != expected:
            raise ValueError(
                f"{path}: its {what} is {header.get(what)}, this run's is {expected}; delete it, or choose another path"
            )
    restore_(model, _below("model", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer", tensors).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(header["epoch"], header["losses"], header["scores"], header["best_epoch"], _below("best", tensors))


def _quantizers(model: nn.Module) -> dict[str, str]:
    """What each operand is represented by, and whose range or norm is learned."""
    found = {}
    for name, site in sites(model).items():
        if isinstance(site, FakeQuantizedLayer) and site.norm is not None:
            found[f"{name}.norm"] = f"{site.norm.bound}"
        for operand, quantizer in site.quantizers.items():
            found[f"{name}.{operand}"] = f"{quantizer}{' learned' if operand in site.steps else ''}"
    return found


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def _range(state: Snapshot, place: str) -> Range:
    return Range(state[f"{place}/low"].numpy(), state[f"{place}/high"].numpy())
