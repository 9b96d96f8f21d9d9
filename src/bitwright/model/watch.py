"""What each layer of a simulated model gets to see on one batch."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from bitwright.model.layers import FakeQuantizedLayer
from bitwright.model.task import Batch, Task

See = Callable[[FakeQuantizedLayer, Tensor], None]


@torch.no_grad()
def watch(task: Task, prepared: nn.Module, layers: Iterable[FakeQuantizedLayer], batch: Batch, see: See) -> None:
    """Run the batch and call `see` with each of the layers and its input, once a call."""
    with ExitStack() as stack:
        for layer in layers:
            hook = layer.register_forward_pre_hook(
                lambda module, args, named: see(module, (*args, *named.values())[0]), with_kwargs=True
            )
            stack.callback(hook.remove)
        task.forward(prepared, batch)
